"""Loads a pack with the Python package, in each of its ways, and prints what it got: so a sealed file's compatibility is tried, not claimed.

Usage: python load.py FILE [EXPECTED.json]          (pip install flashpack==0.4.5 torch numpy blake3)

stdout is one JSON object: name -> {"dtype", "shape", "blake3" of the tensor's bytes}. The ways are the memory-mapped reader, the reader with
FLASHPACK_CPU_PARALLEL_READ=1, and `assign_from_file` into a module with those names. Not every name can be a module's (".x", "forward"): those are
left out of that way only, with a line on stderr.

EXPECTED holds the same object, or an array of objects with "name", "dtype", "shape" and "blake3", as `flashpack list --digests --json` prints and the
"tensors" of golden/manifest.json are, or an object with such an array as "tensors". Shapes [] and [1] are equal: the package hands a scalar out as [1].

Exit codes: 0 all ways agree, with EXPECTED too; 1 they differ, which stderr tells; 2 the package refuses the file.
"""

import json
import os
import sys
import warnings

import blake3
import torch
from flashpack.deserialization import assign_from_file, get_flashpack_file_metadata, revert_from_file


def described(tensors):
    return {
        name: {
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "blake3": blake3.blake3(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest(),
        }
        for name, tensor in tensors.items()
    }


def by_reader(path, parallel):
    os.environ["FLASHPACK_CPU_PARALLEL_READ"] = "1" if parallel else "0"
    return described(revert_from_file(path))


def module_for(tensors):
    """A module with a parameter or a buffer for each tensor, and the names that cannot be one's."""
    root, impossible = torch.nn.Module(), []
    for name, tensor in tensors.items():
        *path, attribute = name.split(".")
        module = root
        for part in path:
            # Straight into the tables: `register_buffer` and `add_module` refuse names that are legal in a file.
            if not hasattr(module, part):
                module._modules[part] = torch.nn.Module()
            module = getattr(module, part)
            if not isinstance(module, torch.nn.Module):
                break
        if not isinstance(module, torch.nn.Module) or hasattr(module, attribute):
            impossible.append(name)
        elif tensor.dtype.is_floating_point and attribute:  # a parameter's name cannot be empty, a buffer's can
            module._parameters[attribute] = torch.nn.Parameter(torch.empty(0, dtype=tensor.dtype), requires_grad=False)
        else:
            module._buffers[attribute] = torch.empty(0, dtype=tensor.dtype)
    found = set(dict(root.named_parameters())) | set(dict(root.named_buffers()))
    return root, sorted(set(tensors) - found | set(impossible))


def by_assignment(path):
    os.environ["FLASHPACK_CPU_PARALLEL_READ"] = "0"
    module, impossible = module_for(revert_from_file(path))
    if impossible:
        print(f"not assigned, as a module cannot have them: {impossible}", file=sys.stderr)
    assign_from_file(module, path, device="cpu", strict=True, ignore_names=impossible)
    assigned = dict(module.named_parameters()) | dict(module.named_buffers())
    return described({name: tensor for name, tensor in assigned.items() if name not in impossible}), impossible


def differences(label, expected, got):
    for name in sorted(expected.keys() | got.keys()):
        if expected.get(name) != got.get(name):
            yield f"{label}: {name!r}: expected {expected.get(name)}, got {got.get(name)}"


def read_expected(path):
    with open(path, encoding="utf-8") as file:
        expected = json.load(file)
    if isinstance(expected, dict) and isinstance(expected.get("tensors"), list):
        expected = expected["tensors"]
    if isinstance(expected, list):
        expected = {tensor["name"]: tensor for tensor in expected}
    # Other keys, such as offsets, say nothing about what was loaded.
    return {
        name: {"dtype": tensor["dtype"], "shape": [int(dim) for dim in tensor["shape"]] or [1], "blake3": tensor["blake3"]}
        for name, tensor in expected.items()
    }


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    warnings.filterwarnings("ignore", category=UserWarning)
    path = sys.argv[1]
    try:
        mapped, parallel = by_reader(path, parallel=False), by_reader(path, parallel=True)
        assigned, impossible = by_assignment(path)
        indexed = [record["name"] for record in get_flashpack_file_metadata(path)["index"]]
    except Exception as error:
        print(f"refused: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
    failures = list(differences("parallel reader", mapped, parallel))
    failures += differences("assign_from_file", {name: tensor for name, tensor in mapped.items() if name not in impossible}, assigned)
    if len(indexed) != len(mapped):
        failures.append(f"{len(indexed)} records in the index, {len(mapped)} tensors")
    if len(sys.argv) == 3:
        failures += differences("EXPECTED", read_expected(sys.argv[2]), mapped)
    print(json.dumps(mapped, indent=1, ensure_ascii=False))
    print("\n".join(failures), file=sys.stderr, end="\n" if failures else "")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
