"""Makes golden/: packs written by the Python package `flashpack`, the safetensors files that they were made from, and manifest.json.

Usage: python make.py          (pip install flashpack==0.4.5 torch numpy safetensors blake3)

The same packages give the same files. Tensor bytes are BLAKE3 output, named by source and tensor: any bits, NaNs too. Only what is cast to
another dtype is chosen by hand and has no NaN, whose bits PyTorch takes from different code in short tensors and in long ones.

A source lists its tensors in its header, and in its data, in the order of the state dict that the pack was made from; `load-order` alone has a
header in another order than its data. Manifest, one object a pack:
  name, file, size, blake3, layout ("v3" or "v4")
  source         the safetensors file; null for dtypes that safetensors lacks
  state_dict     then the tensors instead, in order: name, dtype, shape, data in hexadecimal
  through        "dict": pack_to_file with the tensors in the source's order, align_bytes, target_dtype and name_order
                 "convert": the convert command's function on the safetensors file; it has no options for alignment and order
  options        align_bytes, dtype (null: none is cast), name_order (null: by size), ignore_names, ignore_prefixes, ignore_suffixes
  tensors        in the order of the footer's index: name, dtype, shape, and of what the package's own reader hands out blake3 and read_shape
                 (a scalar comes back with shape [1])
"""

import json
import math
import shutil
import struct
import sys
import tempfile
import warnings
from pathlib import Path

import blake3
import flashpack
import torch
from flashpack.commands import convert_to_flashpack
from flashpack.deserialization import get_flashpack_file_metadata, revert_from_file
from flashpack.serialization import pack_to_file
from safetensors.torch import load_file, save_file

UPSTREAM_VERSION = "0.4.5"
GOLDEN = Path(__file__).parent / "golden"

SAFETENSORS_NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2": "F8_E5M2", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
}
ONLY_UPSTREAM = ["complex128", "complex32"]
DTYPES = list(SAFETENSORS_NAMES) + ONLY_UPSTREAM


def dtype_name(dtype):
    return str(dtype).removeprefix("torch.")


def from_bytes(data, dtype, shape):
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
    return flat.view(getattr(torch, dtype)).reshape(shape)


def to_bytes(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def filled(source, name, dtype, shape):
    length = math.prod(shape) * getattr(torch, dtype).itemsize
    data = blake3.blake3(f"{source}\0{name}".encode()).digest(length=length) if length else b""
    if dtype == "bool":
        data = bytes(byte & 1 for byte in data)
    return from_bytes(data, dtype, shape)


def state_dict(source, rows):
    """A state dict of rows (name, dtype, shape)."""
    return {name: filled(source, name, dtype, shape) for name, dtype, shape in rows}


def write_safetensors(path, tensors, data_order=None, metadata=None):
    """Writes tensors with the header in their order; `save_file` would sort them. Their data come in the same order, or in `data_order`."""
    offsets, data = {}, b""
    for name in data_order or tensors:
        start = len(data)
        data += to_bytes(tensors[name])
        offsets[name] = [start, len(data)]
    header = {"__metadata__": metadata} if metadata else {}
    for name, tensor in tensors.items():
        dtype = SAFETENSORS_NAMES[dtype_name(tensor.dtype)]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets[name]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


# The sources -------------------------------------------------------------------------------------------------------------------------------

MIXED = [
    ("conv.weight", "float32", [3, 5, 7]), ("conv.bias", "float16", [33]), ("norm.weight", "float64", [33]), ("mask", "bool", [9]),
    ("ids", "int64", [2, 3]), ("codes", "uint8", [101]), ("head.weight", "bfloat16", [7, 11]), ("head.bias", "float32", [7]),
    ("phase", "complex64", [3]), ("scale", "float32", []), ("steps", "int64", []), ("quantized", "float8_e4m3fn", [13]),
    ("short", "int16", [33]), ("codes.more", "uint8", [3]),
]
ONE_DTYPE = [("b", "float32", [7]), ("a", "float32", [3, 11]), ("c", "float32", []), ("d", "float32", [2, 2, 1, 2])]
FEW_FOR_PAGES = [("a", "float32", [5]), ("b", "float32", [3]), ("c", "uint8", [4]), ("d", "float64", [1])]

NAMES = [
    "", "plain", "größe", "gro\u0308ße", "権重.0", "вес", "🧠.weight", "👩‍🔬", 'quote"d', "back\\slash", "single'quote", "line\nbreak",
    "carriage\rreturn", "tab\there", "\b\f", "nul\0inside", "\x01\x02\x1f", "delete\x7f", "\x80\x9f", "\u2028\u2029", "\ufeffbom", "\uffff",
    "a/b", "</script>", " spaces ", ".", "..", "a.", "__metadata", "\\u0041", "long." + "n" * 5000, "\U0010ffff",
]

EMPTY = [
    ("before", "float32", [0]), ("weight", "float32", [3, 3]), ("between", "int64", [0, 3]), ("ids", "int64", [4]), ("after", "float32", [2, 0, 5]),
    ("bias", "float32", [3]), ("only.empty", "bfloat16", [0]), ("last", "uint8", [1]), ("none", "uint8", [3, 0]),
]

# Sizes tie; names are in no order.
TIES = [(name, dtype, shape) for name, dtype, shape in [
    ("zeta", "float32", [6]), ("alpha", "float32", [2, 3]), ("mu", "float16", [6]), ("beta", "float32", [3, 2]), ("omega", "float16", [1, 6]),
    ("one.b", "float32", []), ("one.a", "float32", [1]), ("kappa", "int8", [6]), ("gamma", "float16", [6, 1]), ("one.c", "float16", [1, 1]),
    ("big", "int8", [12]), ("Zeta", "float32", [6]),
]]


def castable():
    """Values at which casts go wrong: halves between neighbours, overflow, subnormals, infinities, signed zeros. No NaN."""
    infinity = math.inf
    floats = [0.0, -0.0, 1.0, -1.5, 1 / 3, 65504.0, 65519.0, 65520.0, 448.0, 464.0, 465.0, 57344.0, 61440.0, 240.0, 248.0, 1 + 2**-8, 1 + 3 * 2**-8,
              1 + 2**-11, 1 + 3 * 2**-11, 1.0625, 1.1875, 1.125, 1.375, 2.0**-14, 2.0**-24, 2.0**-25, 3 * 2.0**-26, 2.0**-9, 2.0**-10, 3 * 2.0**-11,
              2.0**-17, -(2.0**-18), 3.3895e38, -3.4e38, 1e-40, -1e-45, infinity, -infinity, 2.0**-127, 3e4, 7.0, 0.1]
    # Values that rounding twice, by way of float32, sends elsewhere than rounding once.
    doubles = [1 + 2**-11 + 2**-40, 1 + 2**-8 + 2**-40, 1 + 2**-4 + 2**-40, 1e300, -1e-300, 3.4028235677973366e38]
    half = [value for value in floats if abs(value) <= 65504 or math.isinf(value)]
    return {
        "in.float64": torch.tensor(floats + doubles, dtype=torch.float64),
        "in.float32": torch.tensor(floats, dtype=torch.float32).reshape(-1, 2),
        "in.float16": torch.tensor(half, dtype=torch.float16),
        "in.bfloat16": torch.tensor(floats, dtype=torch.bfloat16),
        "in.scalar": torch.tensor(0.3, dtype=torch.float32),
        "in.empty": torch.empty(0, 4, dtype=torch.float32),
    }


def castable_integers():
    return castable() | {
        "in.int64": torch.tensor([0, 1, -1, 2**53 + 1, 2**24 + 1, -(2**24) - 3, 2**63 - 1, -(2**63), 65519, 65520, 257, 259]),
        "in.int8": torch.tensor([-128, -1, 0, 127, 17], dtype=torch.int8),
        "in.uint8": torch.tensor([0, 255, 128, 17], dtype=torch.uint8),
        "in.bool": torch.tensor([True, False, True]),
    }


# The packs ---------------------------------------------------------------------------------------------------------------------------------


def one_line_a_tensor(manifest):
    """The manifest as JSON with a line for each tensor, so that a difference is readable and the file small."""

    def line(value):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    packs = []
    for pack in manifest["packs"]:
        fields = []
        for key, value in pack.items():
            many = key in ("tensors", "state_dict")
            fields.append(f"{line(key)}:" + ("[\n  " + ",\n  ".join(map(line, value)) + "]" if many else line(value)))
        packs.append("{" + ",\n ".join(fields) + "}")
    head = "".join(f"{line(key)}:{line(value)},\n" for key, value in manifest.items() if key != "packs")
    text = "{" + head + '"packs":[\n' + ",\n".join(packs) + "\n]}\n"
    assert json.loads(text) == manifest
    return text


class Maker:
    def __init__(self, target):
        self.target = target
        self.packs = []

    def source(self, name, tensors, **options):
        path = self.target / f"{name}.safetensors"
        if not path.exists():
            write_safetensors(path, tensors, **options)
        return path

    def pack(self, name, tensors, source=None, through="dict", align_bytes=128, dtype=None, name_order=None, names=(), prefixes=(), suffixes=()):
        """Writes one pack from a state dict; `source` is the path of the same in safetensors, None where that lacks the dtypes."""
        path = self.target / f"{name}.flashpack"
        if through == "convert":
            assert align_bytes == 128 and name_order is None
            convert_to_flashpack(str(source), str(path), dtype, list(names), list(prefixes), list(suffixes))
        else:
            assert not (names or prefixes or suffixes)
            pack_to_file(tensors, str(path), getattr(torch, dtype) if dtype else None, name_order, align_bytes)
        # As every file that this process makes, not private to its owner.
        path.chmod(0o644)
        metadata = get_flashpack_file_metadata(str(path))
        read = revert_from_file(str(path))
        data = path.read_bytes()
        entry = {
            "name": name,
            "file": path.name,
            "size": len(data),
            "blake3": blake3.blake3(data).hexdigest(),
            "layout": metadata["format"].removeprefix("flashpack_"),
            "source": source.name if source else None,
            "through": through,
            "options": {
                "align_bytes": align_bytes, "dtype": dtype, "name_order": name_order,
                "ignore_names": list(names), "ignore_prefixes": list(prefixes), "ignore_suffixes": list(suffixes),
            },
            "tensors": [
                {
                    "name": record["name"],
                    "dtype": dtype_name(read[record["name"]].dtype),
                    "shape": record["shape"],
                    "read_shape": list(read[record["name"]].shape),
                    "blake3": blake3.blake3(to_bytes(read[record["name"]])).hexdigest(),
                }
                for record in metadata["index"]
            ],
        }
        if not source:
            entry["state_dict"] = [
                {"name": name, "dtype": dtype_name(tensor.dtype), "shape": list(tensor.shape), "data": to_bytes(tensor).hex()}
                for name, tensor in tensors.items()
            ]
        self.packs.append(entry)

    def make(self):
        # One dtype, so v3.
        for dtype in DTYPES:
            name = f"v3-{dtype}"
            tensors = state_dict(name, [("bias", dtype, [5]), ("weight", dtype, [3, 7]), ("scalar", dtype, []), ("empty", dtype, [0, 2])])
            self.pack(name, tensors, None if dtype in ONLY_UPSTREAM else self.source(name, tensors))

        # All dtypes in one file.
        rows = [(f"{dtype}.{kind}", dtype, shape) for dtype in SAFETENSORS_NAMES for kind, shape in [("weight", [2, 3]), ("bias", [3])]]
        tensors = state_dict("every-dtype", rows)
        path = self.source("every-dtype", tensors)
        self.pack("v4-every-dtype", tensors, path)
        self.pack("v4-every-dtype-convert", tensors, path, through="convert")
        tensors = state_dict("complex", [(dtype, dtype, [3]) for dtype in ["complex32", "float16", "complex128", "complex64", "uint8"]])
        self.pack("v4-complex", tensors)

        # Alignments.
        mixed, one, pages = state_dict("mixed", MIXED), state_dict("one-dtype", ONE_DTYPE), state_dict("pages", FEW_FOR_PAGES)
        for align in [0, 1, 2, 16, 100, 128, 4096]:
            self.pack(f"v3-align-{align}", one, self.source("one-dtype", one), align_bytes=align)
            rows, source = (pages, self.source("pages", pages)) if align == 4096 else (mixed, self.source("mixed", mixed))
            self.pack(f"v4-align-{align}", rows, source, align_bytes=align)

        # Names.
        tensors = state_dict("names", [(name, "uint8", [1 + number % 3]) for number, name in enumerate(NAMES)])
        self.pack("v3-names", tensors, self.source("names", tensors))
        tensors = state_dict("names-mixed", [(name, ["uint8", "bfloat16"][number % 2], [2]) for number, name in enumerate(NAMES)])
        path = self.source("names-mixed", tensors, metadata={"format": "pt", "größe": 'a "quoted"\nvalue'})
        self.pack("v4-names", tensors, path)
        self.pack("v4-names-convert", tensors, path, through="convert")

        # Tensors without elements, and a block of nothing else.
        tensors = state_dict("empty", EMPTY)
        for align in [0, 128]:
            self.pack(f"v4-empty-{align}", tensors, self.source("empty", tensors), align_bytes=align)

        # Orders.
        tensors = state_dict("ties", TIES)
        path = self.source("ties", tensors)
        self.pack("v4-ties", tensors, path)
        self.pack("v4-ties-convert", tensors, path, through="convert")
        self.pack("v4-name-order", tensors, path, name_order=sorted(tensors))
        # Names that are no tensor's are passed over; tensors that are not named are left out.
        self.pack("v4-name-order-some", tensors, path, name_order=["mu", "no such tensor", "one.a", "Zeta", "big", "alpha"])
        self.pack("v3-name-order-some", tensors, path, name_order=["one.a", "zeta", "alpha", "Zeta"])
        # A header, data and names in three different orders: `load_file` goes by the data.
        path = self.source("load-order", tensors, data_order=sorted(tensors, key=lambda name: name[::-1]))
        self.pack("v4-load-order", tensors, path, through="convert")
        # As `save_file` orders it: by dtype, then by name.
        path = self.target / "saved.safetensors"
        save_file(mixed, path)
        path.chmod(0o644)
        self.pack("v4-saved", load_file(path), path, through="convert")

        # Casts.
        floats, integers = castable(), castable_integers()
        for dtype in ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]:
            path = self.source("castable-integers", integers)
            self.pack(f"v3-cast-{dtype}", integers, path, through="convert", dtype=dtype)
        self.pack("v3-cast-dict-align-16", floats, self.source("castable", floats), dtype="bfloat16", align_bytes=16)

        # Tensors left out.
        path = self.source("mixed", mixed)
        self.pack("v4-ignore-names", mixed, path, through="convert", names=["conv.weight", "scale", "no such tensor", "head"])
        self.pack("v4-ignore-prefixes", mixed, path, through="convert", prefixes=["head.", "co"])
        self.pack("v4-ignore-suffixes", mixed, path, through="convert", suffixes=[".bias", "s"])
        self.pack("v4-ignore-all-three", mixed, path, through="convert", dtype=None, names=["mask"], prefixes=["conv."], suffixes=["e"])
        self.pack("v3-ignore-cast", mixed, path, through="convert", dtype="float32", names=["norm.weight", "phase"], prefixes=["head"],
                  suffixes=["quantized"])


def main():
    if flashpack.__version__ != UPSTREAM_VERSION:
        sys.exit(f"flashpack {UPSTREAM_VERSION} is needed, this is {flashpack.__version__}")
    warnings.filterwarnings("ignore", category=UserWarning)
    with tempfile.TemporaryDirectory() as directory:
        maker = Maker(Path(directory))
        maker.make()
        manifest = {"flashpack": UPSTREAM_VERSION, "torch": torch.__version__.split("+")[0], "packs": maker.packs}
        (maker.target / "manifest.json").write_text(one_line_a_tensor(manifest))
        shutil.rmtree(GOLDEN, ignore_errors=True)
        GOLDEN.mkdir()
        for path in sorted(maker.target.iterdir()):
            shutil.copyfile(path, GOLDEN / path.name)


if __name__ == "__main__":
    main()
