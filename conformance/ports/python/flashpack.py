"""A small model reader of FlashPack files: v3, v4 and sealed 1.0.

Written from spec/flashpack.md alone, in the order of its chapters; comments name its clauses. It is meant to be read, and
ported, more than to be fast. Needs Python 3.10 and the package `blake3`.

    with Pack("model.flashpack") as pack:       # a reader: all steps up to stage `tensor` (CONF-READ-01)
        for t in pack.tensors: print(t.name, t.dtype.name, t.shape)
        data = pack.read("weight")              # checked (CONF-READ-02)
        hashes = pack.validate()                # the steps left: a validator (CONF-FULL-01)

A file that is refused raises `Refused`, with the stage of the first failing step and its broken rules (CHECK-REPORT-01).
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import contextmanager
from dataclasses import dataclass, fields
from math import lcm

from blake3 import blake3

# ---- 2 Conventions ------------------------------------------------------------------------------------------------------

MAX = 2**53 - 1  # CONV-INT-02. Python's integers do not wrap (CONV-INT-03).
PIECE = 1 << 20  # bytes of payload that are held at once


def round_up(x: int, unit: int) -> int:
    return -(-x // unit) * unit


def digest(data) -> bytes:
    return blake3(data).digest()


def is_utf8(data: bytes) -> bool:
    """CONV-TEXT-01. Python's decoder takes no overlong forms, no surrogates and nothing over U+10FFFF."""
    try:
        data.decode("utf-8")
        return True
    except UnicodeDecodeError:
        return False


# ---- 9 Dtypes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dtype:
    code: int
    name: str
    bits: int

    @property
    def legacy(self) -> bool:
        """May v3 and v4 hold it? (DTYPE-REG-02)"""
        return self.bits >= 8


# DTYPE-REG-01, in the order of codes, from 1.
_REGISTRY = (
    "float64 64, float32 32, float16 16, bfloat16 16, int64 64, int32 32, int16 16, int8 8, uint64 64, uint32 32, uint16 16,"
    "uint8 8, bool 8, complex128 128, complex64 64, complex32 32, float8_e4m3fn 8, float8_e4m3fnuz 8, float8_e5m2 8,"
    "float8_e5m2fnuz 8, float8_e8m0fnu 8, float4_e2m1 4, float6_e2m3 6, float6_e3m2 6"
)
DTYPES = [Dtype(code, *(f(x) for f, x in zip((str, int), row.split()))) for code, row in enumerate(_REGISTRY.split(","), 1)]
BY_CODE = {d.code: d for d in DTYPES}
BY_NAME = {d.name: d for d in DTYPES}


def rounding_unit(align: int, dtype: Dtype) -> int:
    """TENSOR-TILE-02, in bytes."""
    return lcm(8 * align if align else 8, dtype.bits) // 8


# ---- 11 Limits ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """LIMIT-SET-01. A file at a limit is within it."""

    table_bytes: int = 2**30
    footer_bytes: int = 2**28
    tensors: int = 2**22
    blocks: int = 2**16
    name_bytes: int = 2**20
    rank: int = 64
    json_depth: int = 32

    @classmethod
    def of(cls, given: dict) -> Limits:
        """From an object of numbers or decimal strings. ValueError for anything else."""
        known = {f.name for f in fields(cls)}
        out = {}
        for key, value in given.items():
            if key not in known:
                raise ValueError(f"no such limit: {key!r}")
            text = str(value) if type(value) is int else value
            if not isinstance(text, str) or not re.fullmatch("[0-9]{1,4000}", text):
                raise ValueError(f"limit {key} is not a whole number")
            out[key] = int(text)
        return cls(**out)


# ---- 10 Order of checks: how a step is written down ---------------------------------------------------------------------


class Refused(Exception):
    def __init__(self, stage: str, rules):
        self.stage, self.rules = stage, sorted(set(rules))
        super().__init__(f"{stage}: {', '.join(self.rules)}")


@contextmanager
def step(stage: str):
    """One step (CHECK-ORDER-01): collects the rules that it finds broken, and refuses at its end if there are any."""
    broken: set[str] = set()

    def must(ok, rule: str) -> bool:
        if not ok:
            broken.add(rule)
        return bool(ok)

    yield must
    if broken:
        raise Refused(stage, broken)


# ---- 7.1 JSON profile ---------------------------------------------------------------------------------------------------


class Grammar(Exception):
    """The text is not one JSON value (FOOT-TXT-02, step 9)."""


class Number:
    """A number, kept as its text: FOOT-SCH-05 judges the text."""

    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text = text


class Object(dict):
    """The first member of each key (CHECK-ORDER-05)."""

    __slots__ = ("undecodable",)  # has it a key that does not decode?

    def __init__(self):
        self.undecodable = False


_SPACE = re.compile(r"[ \t\n\r]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_HEX4 = re.compile("[0-9a-fA-F]{4}")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_ESCAPES = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Json:
    """One JSON text, parsed with a stack of its own, so that no nesting can exhaust Python's.

    `value` holds Object, list, str, Number, True, False, None. A string with half a pair of surrogates keeps the half;
    `undecodable` says that some string of the text has one, `repeated` that some object has two equal keys: step 11.
    """

    def __init__(self, text: str):
        self.text, self.undecodable, self.repeated = text, False, False
        self.value = self._parse()

    def _space(self, at: int) -> int:
        return _SPACE.match(self.text, at).end()

    def _string(self, at: int) -> tuple[str, int]:
        """The string whose opening quote is at `at`, and where it ends."""
        text, at, parts, surrogate = self.text, at + 1, [], False
        while True:
            end = _PLAIN.match(text, at).end()
            parts.append(text[at:end])
            stop, at = text[end : end + 1], end + 1
            if stop == '"':
                break
            if stop != "\\":  # a control character, or the end of the text
                raise Grammar
            letter, at = text[at : at + 1], at + 1
            if letter in _ESCAPES:
                parts.append(_ESCAPES[letter])
                continue
            if letter != "u" or not _HEX4.match(text, at):
                raise Grammar
            unit, at = int(text[at : at + 4], 16), at + 4
            if 0xD800 <= unit < 0xDC00 and text[at : at + 2] == "\\u" and _HEX4.match(text, at + 2):
                low = int(text[at + 2 : at + 6], 16)
                if 0xDC00 <= low < 0xE000:
                    unit, at = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00), at + 6
            surrogate |= 0xD800 <= unit < 0xE000
            parts.append(chr(unit))
        self.undecodable |= surrogate
        return "".join(parts), at

    def _key(self, obj: Object, at: int) -> tuple[str, int]:
        at = self._space(at)
        if self.text[at : at + 1] != '"':
            raise Grammar
        key, at = self._string(at)
        if _SURROGATE.search(key):
            obj.undecodable = True
        elif key in obj:
            self.repeated = True
        at = self._space(at)
        if self.text[at : at + 1] != ":":
            raise Grammar
        return key, at + 1

    def _parse(self):
        text, at, stack = self.text, 0, []  # stack: the open containers, each with the key that waits for its value
        while True:
            at = self._space(at)
            first = text[at : at + 1]
            if first == "{":
                value, at = Object(), self._space(at + 1)
                if text[at : at + 1] != "}":
                    key, at = self._key(value, at)
                    stack.append((value, key))
                    continue
                at += 1
            elif first == "[":
                value, at = [], self._space(at + 1)
                if text[at : at + 1] != "]":
                    stack.append((value, None))
                    continue
                at += 1
            elif first == '"':
                value, at = self._string(at)
            elif first in _LITERALS and text.startswith(_LITERALS[first][0], at):
                word, value = _LITERALS[first]
                at += len(word)
            elif number := _NUMBER.match(text, at):
                value, at = Number(number.group()), number.end()
            else:
                raise Grammar
            while stack:  # the value is whole: put it into its container, and close what ends here
                into, key = stack[-1]
                if key is None:
                    into.append(value)
                else:
                    into.setdefault(key, value)
                at = self._space(at)
                mark, at = text[at : at + 1], at + 1
                if mark == ",":
                    if key is not None:
                        key, at = self._key(into, at)
                        stack[-1] = (into, key)
                    break
                if mark != ("]" if key is None else "}"):
                    raise Grammar
                value, _ = stack.pop()
            else:
                if self._space(at) != len(text):
                    raise Grammar
                return value


_OUTSIDE = re.compile(rb'["\[\]{}]')
_INSIDE = re.compile(rb'\\.|"', re.DOTALL)


def json_deeper_than(text: bytes, limit: int) -> bool:
    """LIMIT-DEPTH-01: over the bytes, before they are parsed."""
    at = depth = 0
    while mark := _OUTSIDE.search(text, at):
        at = mark.end()
        if mark.group() in (b"[", b"{"):
            depth += 1
            if depth > limit:
                return True
        elif mark.group() == b'"':
            while (inside := _INSIDE.search(text, at)) and inside.group() != b'"':
                at = inside.end()
            if not inside:
                break
            at = inside.end()
        else:
            depth = max(0, depth - 1)
    return False


# ---- 8 Blocks and tensors -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    dtype: Dtype
    offset: int  # in the file
    length: int  # in bytes


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    block: int
    offset: int  # in the file
    length: int  # in bytes


def elements(shape) -> int | None:
    """The elements of a shape, or None where TENSOR-SHAPE-01 is broken."""
    product, empty = 1, False
    for dim in shape:
        if dim:
            product *= dim
        else:
            empty = True
        if product > MAX:  # so each dim is at most MAX, too
            return None
    return 0 if empty else product


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def odd_name(name: str) -> bool:
    """TENSOR-NAME-02"""
    return not name or bool(_CONTROL.search(name))


# ---- 4 Layouts ----------------------------------------------------------------------------------------------------------

HEAD_MAGIC = bytes.fromhex("89 46 50 4B 0D 0A 1A 0A")  # SEAL-MAGIC-01
TAIL_MAGIC = bytes.fromhex("46 4C 41 53 48 50 4B 00")  # TRAIL-MAGIC-01

# 7.2 Keys
TOP_V3 = ("format", "target_dtype", "align_bytes", "total_elems", "index")
TOP_V4 = ("format", "align_bytes", "total_payload_bytes", "total_elems", "macroblocks", "index")
BLOCK_KEYS = ("dtype", "offset_bytes", "length_bytes", "length_elems")
RECORD_V3 = ("name", "shape", "offset", "length")
RECORD_V4 = RECORD_V3 + ("macroblock",)

SECTIONS = ("blocks", "tensors", "dims", "digests", "names", "metadata", "extra", "payload", "footer")  # 5


@dataclass(frozen=True)
class Section:
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Pack:
    """An open pack. The file is opened once and read by its handle. `pack_id` is the id that the caller expects (PIN-ID-01)."""

    def __init__(self, path, *, pack_id: bytes | None = None, require_seal: bool = False, limits: Limits = Limits()):
        self.limits, self._pinned, self._require_seal = limits, pack_id, require_seal
        self.id: bytes | None = None
        self.metadata: dict[str, str] = {}
        self.tensors: list[Tensor] = []
        self.warnings: set[str] = set()
        self._file = open(path, "rb", buffering=0)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            # LAYOUT-TELL-01, LAYOUT-DOWN-01
            if self.size >= 8 and self._read(0, 8) == HEAD_MAGIC:
                self.layout = "sealed"
                self._open_sealed()
            else:
                self.layout = ""  # the footer says which
                self._open_legacy()
        except BaseException:
            self.close()
            raise
        self._by_name = {t.name: t for t in self.tensors}

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Pack:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _read(self, at: int, length: int) -> bytes:
        """Bytes of the file. Every caller has compared the range with the size of the file (CHECK-ROBUST-01)."""
        self._file.seek(at)
        out = bytearray()
        while len(out) < length:
            part = self._file.read(min(length - len(out), 1 << 26))
            if not part:
                raise OSError("the file became shorter while it was read")
            out += part
        return bytes(out)

    def _warn(self, when, rule: str) -> None:
        if when:
            self.warnings.add(rule)

    # ---- CHECK-ORDER-02: a file without the head magic ------------------------------------------------------------------

    def _open_legacy(self) -> None:
        size, limits = self.size, self.limits
        with step("size") as must:  # 1
            must(size >= 16, "FILE-SIZE-01")
        with step("size") as must:  # 2
            must(not self._require_seal, "PIN-SEAL-01")
        with step("header") as must:  # 3
            must(self._pinned is None, "PIN-ID-01")
        length, magic = struct.unpack("<Q8s", self._read(size - 16, 16))
        with step("trailer") as must:  # 4
            must(magic == TAIL_MAGIC, "TRAIL-MAGIC-01")
        with step("trailer") as must:  # 5
            must(length <= size - 16, "TRAIL-LENGTH-01")
        with step("limits") as must:  # 6
            must(length <= limits.footer_bytes, "LIMIT-FOOTER-01")
        self._footer_at = size - 16 - length
        raw = self._read(self._footer_at, length)
        with step("footer-text") as must:  # 7
            must(is_utf8(raw), "FOOT-TXT-01")
        with step("limits") as must:  # 8
            must(not json_deeper_than(raw, limits.json_depth), "LIMIT-DEPTH-01")
        with step("footer-text") as must:  # 9
            try:
                json = Json(raw.decode("utf-8"))
            except Grammar:
                must(False, "FOOT-TXT-02")
        with step("limits") as must:  # 10
            self._count(json.value, must)
        with step("footer-text") as must:  # 11
            must(not json.undecodable, "FOOT-TXT-02")
            must(not json.repeated, "FOOT-TXT-03")
        with step("footer-schema") as must:  # 12
            footer = self._schema(json.value, must)
        del json, raw
        with step("layout") as must:  # 13
            blocks = self._blocks(footer, must)
        with step("tensor") as must:  # 14
            self._tensors(footer, blocks, must)
        with step("tensor") as must:  # 15
            # Blocks lie one after the other by now, and tensors in their blocks, so places in the file decide.
            end = 0
            for t in sorted((t for t in self.tensors if t.length), key=lambda t: t.offset):
                must(t.offset >= end, "TENSOR-OVERLAP-01")
                end = t.offset + t.length

    def _count(self, footer, must) -> None:
        """Step 10: CHECK-ORDER-04."""
        limits = self.limits
        if not isinstance(footer, Object) or footer.undecodable:
            return
        layout = footer.get("format")
        if layout not in ("flashpack_v3", "flashpack_v4"):
            return
        blocks, index = footer.get("macroblocks"), footer.get("index")
        if layout == "flashpack_v4" and isinstance(blocks, list):
            must(len(blocks) <= limits.blocks, "LIMIT-BLOCKS-01")
        if not isinstance(index, list) or not must(len(index) <= limits.tensors, "LIMIT-TENSORS-01"):
            return
        for record in index:
            if not isinstance(record, Object) or record.undecodable:
                continue
            name, shape = record.get("name"), record.get("shape")
            if isinstance(name, str) and not _SURROGATE.search(name):
                must(len(name.encode("utf-8")) <= limits.name_bytes, "LIMIT-NAME-01")
            if isinstance(shape, list):
                must(len(shape) <= limits.rank, "LIMIT-RANK-01")

    def _schema(self, footer, must) -> dict:
        """Step 12. Returns the footer with its numbers as int; what it returns of a broken footer is of no use."""

        def integer(value):
            if not must(isinstance(value, Number), "FOOT-SCH-04"):
                return 0
            fits = re.fullmatch("0|[1-9][0-9]{0,15}", value.text) and int(value.text) <= MAX
            return int(value.text) if must(fits, "FOOT-SCH-05") else 0

        def of_type(type_):
            return lambda value: value if must(isinstance(value, type_), "FOOT-SCH-04") else type_()

        def dtype(value):
            known = BY_NAME.get(of_type(str)(value))
            return known if not isinstance(value, str) or must(known and known.legacy, "FOOT-SCH-06") else None

        def shape(value):
            return tuple(integer(dim) for dim in of_type(list)(value))

        types = {
            "format": of_type(str), "name": of_type(str), "index": of_type(list), "macroblocks": of_type(list),
            "target_dtype": dtype, "dtype": dtype, "shape": shape,
        }  # fmt: skip

        def members(obj, keys) -> dict:
            out = {}
            for key in keys:
                if must(key in obj, "FOOT-SCH-03"):
                    out[key] = types.get(key, integer)(obj[key])
            return out

        if not must(isinstance(footer, Object), "FOOT-SCH-01"):
            return {}
        must("flashpack_seal" not in footer, "FOOT-SCH-09")  # LAYOUT-DOWN-02
        form = members(footer, ("format",)).get("format")
        if not isinstance(footer.get("format"), str) or not must(form in ("flashpack_v3", "flashpack_v4"), "FOOT-SCH-02"):
            return {}
        self.layout = form.removeprefix("flashpack_")
        v3 = self.layout == "v3"
        top, record_keys = (TOP_V3, RECORD_V3) if v3 else (TOP_V4, RECORD_V4)
        other_top, other_record = (("macroblocks", "total_payload_bytes"), ("macroblock",)) if v3 else (("target_dtype",), ())

        must(not any(key in footer for key in other_top), "FOOT-SCH-08")
        self._warn(set(footer) - set(top) - set(other_top), "FOOT-SCH-11")
        out = members(footer, top)
        blocks, index = [], []
        if not v3 and isinstance(footer.get("macroblocks"), list):
            must(footer["macroblocks"], "FOOT-SCH-10")
            for block in footer["macroblocks"]:
                if must(isinstance(block, Object), "FOOT-SCH-01"):
                    must(not set(block) - set(BLOCK_KEYS), "FOOT-SCH-07")
                    blocks.append(members(block, BLOCK_KEYS))
        for record in out.get("index", ()):
            if must(isinstance(record, Object), "FOOT-SCH-01"):
                must(not any(key in record for key in other_record), "FOOT-SCH-08")
                self._warn(set(record) - set(record_keys) - set(other_record), "FOOT-SCH-11")
                index.append(members(record, record_keys))
        return out | {"macroblocks": blocks, "index": index}

    def _blocks(self, footer: dict, must) -> list[Block]:
        """Step 13: section 8.1."""
        at, total = self._footer_at, footer["total_elems"]
        if self.layout == "v3":
            dtype = footer["target_dtype"]
            must(rounding_unit(footer["align_bytes"], dtype) <= MAX, "BLOCK-ALIGN-01")
            must(total * dtype.bits // 8 == at, "BLOCK-TOTAL-01")
            return [Block(dtype, 0, total * dtype.bits // 8)]
        blocks, end = [], 0
        for row in footer["macroblocks"]:
            block = Block(row["dtype"], row["offset_bytes"], row["length_bytes"])
            unit = rounding_unit(footer["align_bytes"], block.dtype)
            must(block.length == row["length_elems"] * block.dtype.bits // 8, "BLOCK-LENGTH-01")
            must(unit <= MAX and block.offset % unit == 0, "BLOCK-ALIGN-01")
            must(block.offset >= end, "BLOCK-ORDER-01")  # nothing is before the first: end is 0
            end = block.offset + block.length
            must(end <= at, "BLOCK-END-01")
            blocks.append(block)
        must(total == sum(row["length_elems"] for row in footer["macroblocks"]), "BLOCK-TOTAL-01")
        must(footer["total_payload_bytes"] == at, "BLOCK-PAYLOAD-01")
        return blocks

    def _tensors(self, footer: dict, blocks: list[Block], must) -> None:
        """Step 14: sections 8.2 and 8.3."""
        names = set()
        for row in footer["index"]:
            name, shape, number = row["name"], row["shape"], row.get("macroblock", 0)
            must(name not in names, "TENSOR-NAME-01")
            names.add(name)
            self._warn(odd_name(name), "TENSOR-NAME-02")
            count = elements(shape)
            if must(count is not None, "TENSOR-SHAPE-01"):
                must(row["length"] == count, "TENSOR-LENGTH-01")
            if not must(number < len(blocks), "TENSOR-BLOCK-01"):
                continue
            block = blocks[number]
            size = block.dtype.bits // 8
            must((row["offset"] + row["length"]) * size <= block.length, "TENSOR-RANGE-01")
            must(row["offset"] * size % rounding_unit(footer["align_bytes"], block.dtype) == 0, "TENSOR-ALIGN-01")
            place = block.offset + row["offset"] * size
            self.tensors.append(Tensor(name, block.dtype, shape, number, place, row["length"] * size))

    # ---- CHECK-ORDER-03: a file with the head magic ---------------------------------------------------------------------

    def _open_sealed(self) -> None:
        limits = self.limits
        with step("size") as must:  # 1
            must(self.size >= 4112, "SEAL-SIZE-01")
        page = self._read(0, 4096)
        with step("header") as must:  # 2
            must(digest(page[:256]) == page[256:288], "SEAL-HDR-01")
        with step("header") as must:  # 3
            must(self._pinned in (None, page[256:288]), "PIN-ID-01")
        major, minor, header_size, file_size, required, optional = struct.unpack_from("<HHIQQQ", page, 8)
        with step("header") as must:  # 4
            must(major == 1, "SEAL-HDR-02")
        with step("header") as must:  # 5
            must(required == 0, "SEAL-HDR-03")
            self._warn(minor, "SEAL-HDR-10")
            self._warn(optional, "SEAL-HDR-11")
        s = self.sections = {n: Section(*struct.unpack_from("<QQ", page, 40 + 16 * i)) for i, n in enumerate(SECTIONS)}
        self.align, log2, reserved = struct.unpack_from("<IB3s", page, 184)
        with step("header") as must:  # 6
            must(header_size == 288, "SEAL-HDR-04")
            must(file_size == self.size, "SEAL-HDR-05")
            must(self.align <= 4096 and self.align & (self.align - 1) == 0, "SEAL-HDR-06")
            grouped = must(16 <= log2 <= 26, "SEAL-HDR-07")
            must(reserved == bytes(3), "SEAL-HDR-08")
            must(not any(page[288:]), "SEAL-HDR-09")
            if must(all(max(x.offset, x.length, x.end) <= MAX for x in s.values()), "SEAL-SEC-08"):
                must(s["blocks"].offset == 4096, "SEAL-SEC-01")
                for before, name in zip(SECTIONS, SECTIONS[1:7]):
                    must(s[name].offset == s[before].end, "SEAL-SEC-02")
                must(s["payload"].offset == round_up(s["extra"].end, 4096), "SEAL-SEC-03")
                for name, unit in (("blocks", 32), ("tensors", 32), ("dims", 8), ("digests", 32)):
                    must(s[name].length % unit == 0, "SEAL-SEC-04")
                if grouped:
                    must(s["digests"].length == 32 * -(-s["payload"].length >> log2), "SEAL-SEC-05")
                must(s["footer"].offset == s["payload"].end, "SEAL-SEC-06")
                must(s["footer"].end + 16 == self.size, "SEAL-SEC-07")
        # Sections follow one another to the end of the file: all lie inside of it.
        self.id, self.group, self._footer_at = page[256:288], 1 << log2, s["footer"].offset
        with step("limits") as must:  # 7
            must(s["payload"].offset - 4096 <= limits.table_bytes, "LIMIT-TABLES-01")
            must(s["blocks"].length // 32 <= limits.blocks, "LIMIT-BLOCKS-01")
            must(s["tensors"].length // 32 <= limits.tensors, "LIMIT-TENSORS-01")
            must(s["footer"].length <= limits.footer_bytes, "LIMIT-FOOTER-01")
        length, magic = struct.unpack("<Q8s", self._read(self.size - 16, 16))
        with step("trailer") as must:  # 8
            must(magic == TAIL_MAGIC, "TRAIL-MAGIC-01")
            must(length == s["footer"].length, "TRAIL-LENGTH-02")
        tables = self._read(4096, s["payload"].offset - 4096)
        with step("tables") as must:  # 9
            must(digest(tables) == page[192:224], "SEAL-TAB-01")
        self._footer_digest = page[224:256]

        def part(name: str) -> bytes:
            return tables[s[name].offset - 4096 : s[name].end - 4096]

        records = list(struct.iter_unpack("<IIIHHQQ", part("tensors")))
        with step("limits") as must:  # 10
            must(all(r[1] <= limits.name_bytes for r in records), "LIMIT-NAME-01")
            must(all(r[3] <= limits.rank for r in records), "LIMIT-RANK-01")
        with step("tables") as must:  # 11
            must(not tables[s["extra"].end - 4096 :].strip(b"\0"), "SEAL-TAB-02")
            self._warn(s["extra"].length, "SEAL-EXTRA-01")
            blocks = self._block_records(part("blocks"), must)
            names, shapes = self._names_and_shapes(records, part("names"), part("dims"), must)
            self._metadata(part("metadata"), must)
        with step("layout") as must:  # 12
            cursor = s["payload"].offset
            for i, block in enumerate(blocks):
                must(block.offset == (round_up(cursor, 4096) if i else cursor), "SEAL-BLK-03")
                cursor = block.offset + block.length
            must(cursor == s["payload"].end, "SEAL-BLK-03")
            must(set(range(len(blocks))) <= {r[4] for r in records}, "SEAL-BLK-04")
        with step("tensor") as must:  # 13
            for (_, _, _, _, number, offset, length), name, shape in zip(records, names, shapes):
                known = must(number < len(blocks), "TENSOR-BLOCK-01")
                count = elements(shape)
                if not must(count is not None, "TENSOR-SHAPE-01") or not known:
                    continue
                block = blocks[number]
                must(count * block.dtype.bits == length * 8, "TENSOR-LENGTH-01")  # DTYPE-REG-04
                self.tensors.append(Tensor(name, block.dtype, shape, number, block.offset + offset, length))
        with step("tensor") as must:  # 14: TENSOR-TILE-01. Tensors come by name, and sorting is stable.
            self._tiles = [[] for _ in blocks]
            for t in sorted(self.tensors, key=lambda t: (t.offset, t.length != 0)):
                self._tiles[t.block].append(t)
            for block, tiles in zip(blocks, self._tiles):
                unit, cursor = rounding_unit(self.align, block.dtype), 0
                for t in tiles:
                    must(t.offset - block.offset == round_up(cursor, unit), "TENSOR-TILE-01")
                    cursor = t.offset - block.offset + t.length
                must(cursor == block.length, "TENSOR-TILE-01")
        self._blocks_sealed, self._digests = blocks, part("digests")

    def _block_records(self, data: bytes, must) -> list[Block]:
        blocks = []
        for code, zero, offset, length, more in struct.iter_unpack("<H6sQQQ", data):
            must(zero == bytes(6) and more == 0, "SEAL-BLK-02")
            if must(code in BY_CODE, "SEAL-BLK-01"):
                blocks.append(Block(BY_CODE[code], offset, length))
        return blocks

    def _names_and_shapes(self, records, names: bytes, dims: bytes, must) -> tuple[list[str], list[tuple[int, ...]]]:
        at, dim, in_place, dims_in_place = 0, 0, True, True
        for name_at, name_length, first_dim, rank, *_ in records:
            in_place &= name_at == at
            dims_in_place &= first_dim == dim
            at, dim = at + name_length, dim + rank
        texts, shapes, before = [], [], None
        if must(in_place and at == len(names), "SEAL-TEN-01"):  # else names cannot be told (CHECK-ORDER-06)
            for name_at, name_length, *_ in records:
                name = names[name_at : name_at + name_length]
                must(before is None or name > before, "SEAL-TEN-03")
                before = name
                if must(is_utf8(name), "SEAL-TEN-02"):
                    texts.append(name.decode("utf-8"))
                    self._warn(odd_name(texts[-1]), "TENSOR-NAME-02")
        if must(dims_in_place and dim * 8 == len(dims), "SEAL-TEN-04"):
            shapes = [struct.unpack_from(f"<{rank}Q", dims, 8 * first) for _, _, first, rank, *_ in records]
        return texts, shapes

    def _metadata(self, data: bytes, must) -> None:
        """Section 6.4."""
        at, texts = 0, []
        while at < len(data):
            if not must(at + 4 <= len(data), "SEAL-META-01"):
                break
            (length,) = struct.unpack_from("<I", data, at)
            if not must(at + 4 + length <= len(data), "SEAL-META-01"):
                break
            texts.append(data[at + 4 : at + 4 + length])
            at += 4 + length
        must(len(texts) % 2 == 0, "SEAL-META-01")
        keys = texts[::2]
        must(all(a < b for a, b in zip(keys, keys[1:])), "SEAL-META-03")
        if must(all(map(is_utf8, texts)), "SEAL-META-02"):
            self.metadata = {k.decode("utf-8"): v.decode("utf-8") for k, v in zip(keys, texts[1::2])}

    # ---- Reading --------------------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """The bytes of one tensor (DTYPE-REG-03). Of a sealed file only bytes of groups that hold (12.2, CHECK-REPORT-04)."""
        t = self._by_name[name]
        if self.layout != "sealed" or not t.length:
            return self._read(t.offset, t.length)
        payload, out, end = self.sections["payload"], bytearray(), t.offset + t.length
        for i in range((t.offset - payload.offset) // self.group, (end - 1 - payload.offset) // self.group + 1):
            at = payload.offset + i * self.group
            data = self._read(at, min(self.group, payload.end - at))
            with step("integrity") as must:
                must(digest(data) == self._digests[32 * i : 32 * i + 32], "SEAL-INT-01")
            out += data[max(t.offset - at, 0) : end - at]  # SEAL-INT-03: the very bytes that were hashed
        return bytes(out)

    # ---- Validating -----------------------------------------------------------------------------------------------------

    def validate(self) -> dict[str, bytes]:
        """The steps that only validators carry out. Returns the BLAKE3 of the bytes of each tensor, by name."""
        if self.layout == "sealed":
            footer = self._read(self._footer_at, self.sections["footer"].length)
            with step("footer") as must:  # 15
                must(digest(footer) == self._footer_digest, "SEAL-FOOT-01")
            with step("footer") as must:  # 16: rendered and compared in parts, as it could be longer than the footer is
                at, same = 0, True
                for text in self._render_footer():
                    part = text.encode("utf-8")
                    same = footer.startswith(part, at)
                    at += len(part)
                    if not same:
                        break
                must(same and at == len(footer), "SEAL-FOOT-02")
            with step("integrity") as must:  # 17
                hashes, groups_hold, gaps_zero = self._sweep(self.sections["payload"].offset, self.group, self._digests)
                must(groups_hold, "SEAL-INT-01")
                must(gaps_zero, "SEAL-INT-02")
        else:
            hashes, _, gaps_zero = self._sweep(0)  # 16
            self._warn(not gaps_zero, "BLOCK-GAP-01")
        return hashes

    def _sweep(self, at: int, group: int = 0, digests: bytes = b""):
        """Reads all bytes from `at` to the footer once. Hashes tensors and groups; looks at the bytes between tensors."""
        start, groups_hold, gaps_zero = at, True, True
        hashes = {t.name: digest(b"") for t in self.tensors if not t.length}
        waiting = iter(sorted((t for t in self.tensors if t.length), key=lambda t: t.offset))
        tensor, tensor_hash, group_hash = next(waiting, None), blake3(), blake3()
        while at < self._footer_at:
            stop = min(at + PIECE, self._footer_at)
            if group:
                stop = min(stop, start + ((at - start) // group + 1) * group)
            data = memoryview(self._read(at, stop - at))
            if group:
                group_hash.update(data)
                if (stop - start) % group == 0 or stop == self._footer_at:
                    i = (at - start) // group
                    groups_hold &= group_hash.digest() == digests[32 * i : 32 * i + 32]
                    group_hash = blake3()
            here = at
            while here < stop:
                if tensor is None or here < tensor.offset:
                    until = min(stop, tensor.offset) if tensor else stop
                    gaps_zero &= not bytes(data[here - at : until - at]).strip(b"\0")
                else:
                    until = min(stop, tensor.offset + tensor.length)
                    tensor_hash.update(data[here - at : until - at])
                    if until == tensor.offset + tensor.length:
                        hashes[tensor.name] = tensor_hash.digest()
                        tensor, tensor_hash = next(waiting, None), blake3()
                here = until
            at = stop
        return hashes, groups_hold, gaps_zero

    def _render_footer(self):
        """Section 7.5, in parts."""
        blocks = self._blocks_sealed
        counts = [b.length * 8 // b.dtype.bits for b in blocks]
        yield f'{{"format":"flashpack_v4","align_bytes":{self.align},"total_payload_bytes":{self._footer_at}'
        yield f',"total_elems":{sum(counts)},"macroblocks":['
        for i, (b, n) in enumerate(zip(blocks, counts)):
            yield "," if i else ""
            yield f'{{"dtype":"{b.dtype.name}","offset_bytes":{b.offset},"length_bytes":{b.length},"length_elems":{n}}}'
        yield '],"index":['
        comma = ""
        for b, tiles in zip(blocks, self._tiles):  # FOOT-RENDER-04
            for t in tiles:
                shape, bits = ",".join(map(str, t.shape)), b.dtype.bits
                offset, length = (t.offset - b.offset) * 8 // bits, t.length * 8 // bits
                yield f'{comma}{{"name":{render_string(t.name)},"shape":[{shape}],"offset":{offset},"length":{length}'
                yield f',"macroblock":{t.block}}}'
                comma = ","
        yield '],"flashpack_seal":{"version":1}}'


_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def render_string(text: str) -> str:
    """FOOT-RENDER-02"""
    escaped = re.sub('["\\\\\x00-\x1f]', lambda m: _SHORT.get(m.group()) or f"\\u{ord(m.group()):04x}", text)
    return f'"{escaped}"'
