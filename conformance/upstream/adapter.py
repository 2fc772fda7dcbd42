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
    taken = {r["id"] for r in results if r.get("differs", {}).get("verdict", "").startswith("accepted")}
    # Limits are a reader's own, and a policy is the caller's: files over them are not malformed.
    malformed = {id: row for id, row in rows.items() if row["verdict"] == "reject" and "arguments" not in row and row["stage"] != "limits"}
    legacy = {id: row for id, row in malformed.items() if row["layout"] != "sealed"}
    sealed = set(malformed) - set(legacy)
    print(f"Of {len(legacy)} malformed files without a seal it takes {len(taken & set(legacy))}:\n\n| stage | takes | of | which |\n|---|---|---|---|")
    for stage in ["size", "trailer", "footer-text", "footer-schema", "layout", "tensor"]:
        of = {id for id, row in legacy.items() if row["stage"] == stage}
        these = sorted(of & taken)
        print(f"| {stage} | {len(these)} | {len(of)} | {', '.join(f'`{id}`' for id in these)} |")
    print(f"\nOf {len(sealed)} broken sealed files, whose digests it does not look at, it takes {len(taken & sealed)}.")
    valid = [id for id, row in rows.items() if row["verdict"] == "accept"]
    refused = sorted(r["id"] for r in results if r["id"] in valid and "verdict" in r.get("differs", {}))
    print(f"\nOf {len(valid)} valid files it refuses {len(refused)}, for 4- and 6-bit dtypes or for having no tensors: " + ", ".join(f"`{id}`" for id in refused) + ".")


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
