"""The conformance program of the Python port.

    conform.py probe
    conform.py check FILE [--id HEX] [--require-seal] [--limits FILE]
    conform.py serve        one JSON request a line on stdin, one answer a line on stdout

Exit: 0 accepted, 1 refused, 2 no verdict (wrong use, or the file cannot be read), 3 not supported by this port.
"""

from __future__ import annotations

import argparse
import json
import re
import sys

from flashpack import Limits, Pack, Refused

PROBE = {"protocol": "1", "name": "flashpack-python", "version": "0.1.0", "layouts": ["v3", "v4", "sealed"], "features": []}


def check(path, pack_id=None, require_seal=False, limits=None) -> tuple[int, dict]:
    """The verdict on one file. ValueError where the request is wrong."""
    if not isinstance(path, str) or not isinstance(require_seal, bool) or not isinstance(limits or {}, dict):
        raise ValueError("a member of the request has the wrong type")
    if pack_id is not None:
        if not isinstance(pack_id, str) or not re.fullmatch("[0-9a-fA-F]{64}", pack_id):
            raise ValueError("an id is 64 hex digits")
        pack_id = bytes.fromhex(pack_id)
    try:
        with Pack(path, pack_id=pack_id, require_seal=require_seal, limits=Limits.of(limits or {})) as pack:
            hashes = pack.validate()
            tensors = [
                {
                    "name": t.name,
                    "dtype": t.dtype.name,
                    "shape": [str(dim) for dim in t.shape],
                    "offset": str(t.offset),
                    "length": str(t.length),
                    "blake3": hashes[t.name].hex(),
                }
                for t in sorted(pack.tensors, key=lambda t: t.name.encode("utf-8"))
            ]
            return 0, {
                "id": pack.id.hex() if pack.id else None,
                "layout": pack.layout,
                "metadata": pack.metadata,
                "tensors": tensors,
                "warnings": sorted(pack.warnings),
            }
    except Refused as refused:
        return 1, {"rules": refused.rules, "stage": refused.stage}


def guarded(*args, **kwargs) -> tuple[int, dict]:
    try:
        return check(*args, **kwargs)
    except (OSError, ValueError, TypeError) as error:  # ValueError: a NUL in the path, too
        return 2, {"error": ascii(str(error))}
    except MemoryError:
        return 3, {"error": "out of memory"}


def load(text):
    """JSON that we were handed by the caller, not by a pack."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def show(value: dict) -> None:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    sys.stdout.buffer.write(text.encode("utf-8") + b"\n")
    sys.stdout.buffer.flush()


def serve() -> None:
    for line in sys.stdin.buffer:
        if not line.strip():
            continue
        try:
            request = load(line)
            code, result = guarded(
                request.get("file"), request.get("id"), request.get("require_seal") or False, request.get("limits")
            )
        except ValueError as error:
            code, result = 2, {"error": ascii(str(error))}
        show({"exit": str(code), "result": result})


def main() -> int:
    parser = argparse.ArgumentParser(prog="conform.py")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("probe")
    commands.add_parser("serve")
    one = commands.add_parser("check")
    one.add_argument("file")
    one.add_argument("--id")
    one.add_argument("--require-seal", action="store_true")
    one.add_argument("--limits")
    args = parser.parse_args()
    if args.command == "probe":
        show(PROBE)
        return 0
    if args.command == "serve":
        serve()
        return 0
    try:
        limits = None
        if args.limits is not None:
            with open(args.limits, "rb") as file:
                limits = load(file.read())
        code, result = guarded(args.file, args.id, args.require_seal, limits)
    except (OSError, ValueError) as error:
        code, result = 2, {"error": ascii(str(error))}
    if code == 2:
        print(result["error"], file=sys.stderr)
    else:
        show(result)
    return code


if __name__ == "__main__":
    sys.exit(main())
