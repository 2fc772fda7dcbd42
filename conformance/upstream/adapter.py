#!/usr/bin/env python3
"""Lets the Python package `flashpack` answer the conformance suite: which malformed files does it take?

    python ../run --serve --no-flips --score verdict --json upstream.json python adapter.py
    python adapter.py table upstream.json            # the table of ../README.md

Every tensor of a file is read. The package knows no rules and no seals: a sealed file is a v4 file to it.
"""

import json
import sys

from blake3 import blake3


def check(path):
    import torch
    from flashpack.deserialization import iterate_from_flash_tensor, read_flashpack_file

    try:
        storage, metadata = read_flashpack_file(path)
        tensors = []
        for name, tensor in iterate_from_flash_tensor(storage, metadata):
            data = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            tensors.append({"name": name, "blake3": blake3(data).hexdigest()})
    except Exception as error:
        return {"exit": "1", "result": {"stage": "upstream", "rules": [], "error": f"{type(error).__name__}: {error}"[:200]}}
    return {"exit": "0", "result": {"layout": "v4", "tensors": tensors}}


def table(path):
    """The malformed files that were taken, by stage."""
    from pathlib import Path

    rows = {vector["id"]: vector for vector in json.loads((Path(__file__).parents[1] / "manifest.json").read_text())["vectors"]}
    results = json.loads(Path(path).read_text())["results"]
    rejects = {id for id, row in rows.items() if row["verdict"] == "reject" and "arguments" not in row}
    taken = [r["id"] for r in results if r["id"] in rejects and r.get("differs", {}).get("verdict", "").startswith("accepted")]
    refused = [r["id"] for r in results if r["id"] in rows and rows[r["id"]]["verdict"] == "accept" and "verdict" in r.get("differs", {})]
    print(f"Of {len(rejects)} malformed files it takes {len(taken)}:\n\n| stage | taken | of | which |\n|---|---|---|---|")
    stages = ["size", "header", "limits", "trailer", "tables", "footer-text", "footer-schema", "layout", "tensor", "footer", "integrity"]
    for stage in stages:
        of = [id for id in rejects if rows[id]["stage"] == stage]
        these = sorted(id for id in taken if rows[id]["stage"] == stage)
        if of:
            print(f"| {stage} | {len(these)} | {len(of)} | {', '.join(f'`{id}`' for id in these)} |")
    print(f"\nOf {sum(1 for row in rows.values() if row['verdict'] == 'accept')} valid files it refuses {len(refused)}: "
          + ", ".join(f"`{id}`" for id in sorted(refused)) + ".")


def main():
    if sys.argv[1:2] == ["table"]:
        table(sys.argv[2])
    elif sys.argv[1:2] == ["probe"]:
        print(json.dumps({"protocol": "1", "name": "flashpack (Python)", "version": "0.4.5", "layouts": ["v3", "v4", "sealed"], "features": []}))
    elif sys.argv[1:2] == ["check"]:
        answer = check(sys.argv[2])
        print(json.dumps(answer["result"]))
        return int(answer["exit"])
    else:
        for line in sys.stdin:
            print(json.dumps(check(json.loads(line)["file"])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
