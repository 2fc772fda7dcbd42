# The sealed layout of FlashPack 1.0, for Kaitai Struct. It shows where things are; what must hold of them is in flashpack.md.
meta:
  id: flashpack
  title: FlashPack, sealed layout 1.0
  file-extension: flashpack
  endian: le
  encoding: UTF-8
  ks-version: 0.9
doc: |
  A sealed pack: header page, tables, payload, footer, trailer. v3 and v4 packs have no header and are not described here:
  read their trailer and footer.
seq:
  - id: header
    type: header
  - id: header_fill
    size: 4096 - 288
    doc: Zero (SEAL-HDR-09).
instances:
  blocks:
    pos: header.sections.blocks.offset
    type: block
    repeat: expr
    repeat-expr: header.sections.blocks.length / 32
  tensors:
    pos: header.sections.tensors.offset
    type: tensor
    repeat: expr
    repeat-expr: header.sections.tensors.length / 32
  dims:
    pos: header.sections.dims.offset
    type: u8
    repeat: expr
    repeat-expr: header.sections.dims.length / 8
  group_digests:
    pos: header.sections.digests.offset
    size: 32
    repeat: expr
    repeat-expr: header.sections.digests.length / 32
    doc: BLAKE3 of each group of the payload (SEAL-INT-01).
  metadata:
    pos: header.sections.metadata.offset
    size: header.sections.metadata.length
    type: metadata
  extra:
    pos: header.sections.extra.offset
    size: header.sections.extra.length
  tables_fill:
    pos: header.sections.extra.end
    size: header.sections.payload.offset - header.sections.extra.end
    doc: Zero (SEAL-TAB-02).
  footer:
    pos: header.sections.footer.offset
    size: header.sections.footer.length
    type: str
    doc: JSON, determined by header and tables (SEAL-FOOT-02).
  trailer:
    pos: header.sections.footer.end
    type: trailer
types:
  header:
    seq:
      - id: magic
        contents: [0x89, 0x46, 0x50, 0x4b, 0x0d, 0x0a, 0x1a, 0x0a]
      - id: major
        type: u2
        valid: 1
      - id: minor
        type: u2
      - id: header_size
        type: u4
        valid: 288
      - id: file_size
        type: u8
      - id: required_features
        type: u8
        valid: 0
      - id: optional_features
        type: u8
      - id: sections
        type: sections
      - id: alignment
        type: u4
        doc: Of tensors in their block, in bytes; 0 or a power of two up to 4096 (SEAL-HDR-06).
      - id: group_log2
        type: u1
        valid:
          min: 16
          max: 26
      - id: reserved
        contents: [0, 0, 0]
      - id: tables_digest
        size: 32
        doc: BLAKE3 of bytes 4096 to the payload (SEAL-TAB-01).
      - id: footer_digest
        size: 32
        doc: BLAKE3 of the footer (SEAL-FOOT-01).
      - id: header_digest
        size: 32
        doc: BLAKE3 of bytes 0 to 256, the pack id (SEAL-HDR-01).
  section:
    seq:
      - id: offset
        type: u8
      - id: length
        type: u8
    instances:
      end:
        value: offset + length
  sections:
    seq:
      - id: blocks
        type: section
      - id: tensors
        type: section
      - id: dims
        type: section
      - id: digests
        type: section
      - id: names
        type: section
      - id: metadata
        type: section
      - id: extra
        type: section
      - id: payload
        type: section
      - id: footer
        type: section
  block:
    seq:
      - id: dtype
        type: u2
        enum: dtype
      - id: reserved
        type: u2
        valid: 0
      - id: codec
        type: u4
        valid: 0
      - id: offset
        type: u8
        doc: In the file, in bytes.
      - id: length
        type: u8
      - id: decoded_length
        type: u8
        valid: 0
    instances:
      data:
        io: _root._io
        pos: offset
        size: length
  tensor:
    seq:
      - id: name_offset
        type: u4
      - id: name_length
        type: u4
      - id: first_dim
        type: u4
      - id: rank
        type: u2
      - id: block_number
        type: u2
      - id: offset
        type: u8
        doc: In the block, in bytes.
      - id: length
        type: u8
    instances:
      name:
        io: _root._io
        pos: _root.header.sections.names.offset + name_offset
        size: name_length
        type: str
      dims:
        io: _root._io
        pos: _root.header.sections.dims.offset + 8 * first_dim
        type: u8
        repeat: expr
        repeat-expr: rank
      block:
        value: _root.blocks[block_number]
      data:
        io: _root._io
        pos: block.offset + offset
        size: length
  metadata:
    seq:
      - id: pairs
        type: pair
        repeat: eos
  pair:
    seq:
      - id: key_length
        type: u4
      - id: key
        size: key_length
        type: str
      - id: value_length
        type: u4
      - id: value
        size: value_length
        type: str
  trailer:
    seq:
      - id: footer_length
        type: u8
      - id: magic
        contents: [0x46, 0x4c, 0x41, 0x53, 0x48, 0x50, 0x4b, 0x00]
enums:
  dtype:
    1: float64
    2: float32
    3: float16
    4: bfloat16
    5: int64
    6: int32
    7: int16
    8: int8
    9: uint64
    10: uint32
    11: uint16
    12: uint8
    13: bool
    14: complex128
    15: complex64
    16: complex32
    17: float8_e4m3fn
    18: float8_e4m3fnuz
    19: float8_e5m2
    20: float8_e5m2fnuz
    21: float8_e8m0fnu
    22: float4_e2m1
    23: float6_e2m3
    24: float6_e3m2
