#!/usr/bin/env python3
"""The JSON Schemas against the suite: pip install jsonschema.

The manifest passes its schema. The footer of every valid vector passes `spec/footer.schema.json`; the footer of every vector with a fault of
stage `footer-schema` fails it, but for those that a schema cannot see.
"""

import json
import struct
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

ROOT = Path(__file__).resolve().parents[2]

# JSON Schema judges numbers by value and not by how they are written, and sees a footer and not the head of its file.
UNSEEN = {
    "schema-number-point-zero": "32.0 is the integer 32",
    "schema-number-exponent": "36e0 is the integer 36",
    "schema-number-minus-zero": "-0 is the integer 0",
    "schema-shape-fraction": "3.0 is the integer 3",
    "schema-seal-without-head": "the footer of a sealed file, without the head",
}


# One vector has a number of 5,000 digits on purpose.
sys.set_int_max_str_digits(10_000)


def footer(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[-16:-8])
    return json.loads(data[len(data) - 16 - length : len(data) - 16].decode("utf-8"))


def main():
    manifest = json.loads((ROOT / "conformance/manifest.json").read_text())
    schema = json.loads((ROOT / "conformance/schema/manifest.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(manifest)

    schema = json.loads((ROOT / "spec/footer.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    passed, failed, wrong = 0, 0, []
    for vector in manifest["vectors"]:
        accepted = vector["verdict"] == "accept"
        if not accepted and vector["stage"] != "footer-schema":
            continue
        if vector["id"].startswith("damage-"):
            continue  # a sealed footer under a damaged head: the footer itself is fine
        valid = validator.is_valid(footer(ROOT / "conformance" / vector["file"]))
        if vector["id"] in UNSEEN:
            valid = not valid
        if valid != accepted:
            wrong.append(vector["id"])
        passed += accepted
        failed += not accepted
    for id in wrong:
        print(f"FAIL {id}")
    print(f"schema: {passed + failed - len(wrong)} passed, {len(wrong)} failed")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
