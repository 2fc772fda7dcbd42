// A reader and validator of FlashPack files (v3, v4, sealed 1.0), written from spec/flashpack.md alone. The parts follow the
// chapters of the specification and cite its clauses.
//
// Numbers. Every offset, length, count and dim of a sound file is at most 2^53 - 1 (CONV-INT-02), which a double holds exactly.
// Doubles do not wrap: a sum or product of exact numbers is exact up to 2^53 - 1, and rounds to something at or over 2^53 when it is
// larger. So `x <= n` and `x === n` are right for every n up to MAX, which is what CONV-INT-03 asks for.

import fs from 'node:fs';
import { isUtf8 } from 'node:buffer';
import { blake3 } from '@noble/hashes/blake3.js';
import * as json from './json.mjs';

const MAX = Number.MAX_SAFE_INTEGER;
const PAGE = 4096;
const HEAD_MAGIC = Buffer.from([0x89, 0x46, 0x50, 0x4b, 0x0d, 0x0a, 0x1a, 0x0a]);
const TAIL_MAGIC = Buffer.from('FLASHPK\0', 'latin1');
const CHUNK = 1 << 20;

// ---------------------------------------------------------------- chapter 9: dtypes

/** A dtype: `per` elements fill `bytes` bytes, so that no product with the bits is needed (DTYPE-REG-04). */
const dtype = (code, name, bits, legacy = true) => {
  const g = gcd(bits, 8);
  return { code, name, bits, legacy, per: 8 / g, bytes: bits / g };
};
const DTYPES = [
  ['float64', 64], ['float32', 32], ['float16', 16], ['bfloat16', 16], ['int64', 64], ['int32', 32], ['int16', 16], ['int8', 8],
  ['uint64', 64], ['uint32', 32], ['uint16', 16], ['uint8', 8], ['bool', 8], ['complex128', 128], ['complex64', 64],
  ['complex32', 32], ['float8_e4m3fn', 8], ['float8_e4m3fnuz', 8], ['float8_e5m2', 8], ['float8_e5m2fnuz', 8],
  ['float8_e8m0fnu', 8], ['float4_e2m1', 4], ['float6_e2m3', 6], ['float6_e3m2', 6],
].map(([name, bits], i) => dtype(i + 1, name, bits, bits >= 8));
const BY_CODE = new Map(DTYPES.map((d) => [d.code, d]));
const BY_LEGACY_NAME = new Map(DTYPES.filter((d) => d.legacy).map((d) => [d.name, d]));

function gcd(a, b) {
  while (b) [a, b] = [b, a % b];
  return a;
}

/** TENSOR-TILE-02: lcm(8 A, b) / 8. Where elements have whole bytes that is lcm(A, size), which does not outgrow a double for A alone. */
function roundingUnit(align, { bits }) {
  if (bits >= 8) {
    const size = bits / 8;
    return align === 0 ? size : (align / gcd(align, size)) * size;
  }
  const a = align === 0 ? 8 : 8 * align; // sealed only: at most 8 * 4096
  return ((a / gcd(a, bits)) * bits) / 8;
}

const roundUp = (x, unit) => (x % unit === 0 ? x : x + (unit - (x % unit)));

// ---------------------------------------------------------------- chapter 10 and 11: reports and limits

/** A refused file: the stage of the first failing step, and the rules of this step that it breaks (CHECK-REPORT-01). */
export class Rejected extends Error {
  constructor(stage, rules, notes = []) {
    super(`${stage}: ${notes.join('; ') || rules.join(', ')}`);
    this.stage = stage;
    this.rules = [...new Set(rules)].sort();
  }
}

/** What a file asks for and this runtime cannot hold. */
export class Unsupported extends Error {}

/** One step after another; each ends the reading when it found an error (CHECK-ORDER-01). */
class Judge {
  warnings = new Set();
  #stage = '';
  #rules = [];
  #notes = [];
  step(stage, judge) {
    this.#stage = stage;
    judge();
    if (this.#rules.length) throw new Rejected(this.#stage, this.#rules, this.#notes);
  }
  /** `must(holds, rule)`: the rule is broken unless it holds. */
  must(holds, rule, note) {
    if (holds) return true;
    if (!this.#rules.includes(rule)) {
      this.#rules.push(rule);
      this.#notes.push(note ? `${rule} (${note()})` : rule);
    }
    return false;
  }
  warn(rule) {
    this.warnings.add(rule);
  }
}

export const DEFAULT_LIMITS = Object.freeze({
  table_bytes: 2 ** 30,
  footer_bytes: 2 ** 28,
  tensors: 2 ** 22,
  blocks: 2 ** 16,
  name_bytes: 2 ** 20,
  rank: 64,
  json_depth: 32,
});

function takeLimits(given = {}) {
  const limits = { ...DEFAULT_LIMITS };
  for (const [key, value] of Object.entries(given ?? {})) {
    if (!Object.hasOwn(limits, key)) throw new TypeError(`no such limit: ${JSON.stringify(key)}`);
    if (!/^[0-9]+$/.test(String(value))) throw new TypeError(`the limit ${key} is no whole number`);
    limits[key] = Number(value);
  }
  return limits;
}

// ---------------------------------------------------------------- bytes of the file

/** One handle for all reads (chapter 15, "Files that change"). */
class Source {
  constructor(path) {
    this.fd = fs.openSync(path, 'r');
    const stat = fs.fstatSync(this.fd);
    if (!stat.isFile()) {
      this.close();
      throw new Error('not a regular file');
    }
    this.size = stat.size;
  }
  read(at, length) {
    const bytes = Buffer.alloc(length);
    for (let done = 0; done < length; ) {
      const n = fs.readSync(this.fd, bytes, done, length - done, at + done);
      if (n === 0) throw new Error('the file became shorter while it was read');
      done += n;
    }
    return bytes;
  }
  /** Pieces `[at, bytes]` of a range. */
  *pieces(start, end, size = CHUNK) {
    for (let at = start; at < end; at += size) yield [at, this.read(at, Math.min(size, end - at))];
  }
  close() {
    fs.closeSync(this.fd);
  }
}

/** CONV-INT-01. Exact up to 2^53 - 1, at or over 2^53 otherwise. */
const u64 = (b, at) => b.readUInt32LE(at + 4) * 2 ** 32 + b.readUInt32LE(at);

const digest = (bytes) => Buffer.from(blake3(bytes));

function isZero(bytes, start = 0, end = bytes.length) {
  for (let i = start; i < end; i++) if (bytes[i] !== 0) return false;
  return true;
}

/** TENSOR-NAME-02, on bytes that are UTF-8: U+0080 to U+009F are C2 80 to C2 9F. */
function isOddName(bytes) {
  for (let i = 0; i < bytes.length; i++) {
    const c = bytes[i];
    if (c < 0x20 || c === 0x7f || (c === 0xc2 && bytes[i + 1] < 0xa0)) return true;
  }
  return bytes.length === 0;
}

/** The ranges of start to end that none of the ranges of `taken` (sorted, disjoint) covers. */
function* gapsBetween(taken, start, end) {
  let at = start;
  for (const [from, to] of taken) {
    if (from > at) yield [at, from];
    if (to > at) at = to;
  }
  if (at < end) yield [at, end];
}

/** Looks at pieces in ascending order: are all bytes of the gaps zero? */
class GapScan {
  clean = true;
  constructor(gaps) {
    this.gaps = gaps;
    this.gap = gaps.next().value;
  }
  piece(at, bytes) {
    const end = at + bytes.length;
    while (this.gap && this.gap[0] < end) {
      const [from, to] = this.gap;
      if (!isZero(bytes, Math.max(from, at) - at, Math.min(to, end) - at)) this.clean = false;
      if (to > end) return;
      this.gap = this.gaps.next().value;
    }
  }
}

const tensorRanges = (tensors) =>
  tensors.filter((t) => t.length > 0).map((t) => [t.offset, t.offset + t.length]).sort((x, y) => x[0] - y[0]);

/** The product of the dims other than 0, and the elements (8.2). Stops when the product is too large. */
function countElements(shape) {
  let product = 1, zero = false, small = true;
  for (const dim of shape) {
    if (dim > MAX) small = false;
    if (dim === 0) zero = true;
    else if (product <= MAX) product *= dim;
  }
  return { fits: small && product <= MAX, elements: zero ? 0 : product };
}

// ---------------------------------------------------------------- chapter 5: the header page

const SECTIONS = ['blocks', 'tensors', 'dims', 'digests', 'names', 'metadata', 'extra', 'payload', 'footer'];

function readHeader(page, size, judge, id) {
  const { must } = bind(judge);
  judge.step('header', () => must(digest(page.subarray(0, 256)).equals(page.subarray(256, 288)), 'SEAL-HDR-01'));
  const packId = page.toString('hex', 256, 288);
  judge.step('header', () => must(id === undefined || packId === id.toLowerCase(), 'PIN-ID-01'));
  judge.step('header', () => must(page.readUInt16LE(8) === 1, 'SEAL-HDR-02'));
  judge.step('header', () => {
    must(isZero(page, 24, 32), 'SEAL-HDR-03');
    if (page.readUInt16LE(10) !== 0) judge.warn('SEAL-HDR-10');
    if (!isZero(page, 32, 40)) judge.warn('SEAL-HDR-11');
  });

  const header = { id: packId, align: page.readUInt32LE(184), group: 2 ** page[188] };
  header.tablesDigest = page.subarray(192, 224);
  header.footerDigest = page.subarray(224, 256);
  SECTIONS.forEach((name, i) => {
    const [offset, length] = [u64(page, 40 + 16 * i), u64(page, 48 + 16 * i)];
    header[name] = { offset, length, end: offset + length };
  });

  judge.step('header', () => {
    must(page.readUInt32LE(12) === 288, 'SEAL-HDR-04');
    must(u64(page, 16) === size, 'SEAL-HDR-05');
    const { align } = header;
    must(align <= 4096 && (align & (align - 1)) === 0, 'SEAL-HDR-06');
    const groups = must(page[188] >= 16 && page[188] <= 26, 'SEAL-HDR-07');
    must(isZero(page, 189, 192), 'SEAL-HDR-08');
    must(isZero(page, 288, 4096), 'SEAL-HDR-09');

    // 5.2: the other clauses are judged only where SEAL-SEC-08 holds.
    const all = SECTIONS.map((name) => header[name]);
    if (!must(all.every((s) => s.offset <= MAX && s.length <= MAX && s.end <= MAX), 'SEAL-SEC-08')) return;
    const { blocks, tensors, dims, digests, extra, payload, footer } = header;
    must(blocks.offset === PAGE, 'SEAL-SEC-01');
    for (let i = 1; i <= 6; i++) must(all[i].offset === all[i - 1].end, 'SEAL-SEC-02', () => SECTIONS[i]);
    must(payload.offset === roundUp(extra.end, PAGE), 'SEAL-SEC-03');
    const whole = blocks.length % 32 === 0 && tensors.length % 32 === 0 && dims.length % 8 === 0 && digests.length % 32 === 0;
    must(whole, 'SEAL-SEC-04');
    if (groups) must(digests.length === 32 * Math.ceil(payload.length / header.group), 'SEAL-SEC-05');
    must(footer.offset === payload.end, 'SEAL-SEC-06');
    must(footer.end + 16 === size, 'SEAL-SEC-07');
  });
  return header;
}

const bind = (judge) => ({ must: judge.must.bind(judge) });

// ---------------------------------------------------------------- chapter 6: the tables

/** Steps 9 to 11 of a sealed file. `tables` are the bytes from 4096 to the payload. */
function readTables(tables, header, limits, judge) {
  const { must } = bind(judge);
  const section = (s) => tables.subarray(s.offset - PAGE, s.end - PAGE);
  const [blockBytes, tensorBytes] = [section(header.blocks), section(header.tensors)];
  const [dimBytes, names, metadataBytes] = [section(header.dims), section(header.names), section(header.metadata)];
  const count = tensorBytes.length / 32;
  const blocks = [], tensors = [], metadata = new Map();

  judge.step('tables', () => must(digest(tables).equals(header.tablesDigest), 'SEAL-TAB-01'));
  judge.step('limits', () => {
    for (let i = 0; i < count; i++) {
      must(tensorBytes.readUInt32LE(32 * i + 4) <= limits.name_bytes, 'LIMIT-NAME-01', () => `tensor ${i}`);
      must(tensorBytes.readUInt16LE(32 * i + 12) <= limits.rank, 'LIMIT-RANK-01', () => `tensor ${i}`);
    }
  });
  judge.step('tables', () => {
    must(isZero(tables, header.extra.end - PAGE), 'SEAL-TAB-02');

    for (let at = 0; at < blockBytes.length; at += 32) {
      const block = { dtype: BY_CODE.get(blockBytes.readUInt16LE(at)), offset: u64(blockBytes, at + 8), length: u64(blockBytes, at + 16) };
      must(block.dtype, 'SEAL-BLK-01', () => `block ${at / 32}`);
      must(isZero(blockBytes, at + 2, at + 8) && isZero(blockBytes, at + 24, at + 32), 'SEAL-BLK-02', () => `block ${at / 32}`);
      blocks.push(block);
    }

    // Once a name or a dim lies in a wrong place, the rest of them have no place to be judged by (CHECK-ORDER-06).
    let nextName = 0, nextDim = 0, namesHold = true, dimsHold = true, before = null;
    for (let i = 0; i < count; i++) {
      const at = 32 * i;
      const [nameLength, rank] = [tensorBytes.readUInt32LE(at + 4), tensorBytes.readUInt16LE(at + 12)];
      const tensor = { number: i, block: tensorBytes.readUInt16LE(at + 14), at: u64(tensorBytes, at + 16), length: u64(tensorBytes, at + 24) };
      if (tensor.length > MAX) tensor.exactLength = tensorBytes.readBigUInt64LE(at + 24);

      const inPlace = tensorBytes.readUInt32LE(at) === nextName && nextName + nameLength <= names.length;
      namesHold &&= must(inPlace, 'SEAL-TEN-01', () => `tensor ${i}`);
      if (namesHold) {
        const name = names.subarray(nextName, nextName + nameLength);
        tensor.nameBytes = name;
        must(isUtf8(name), 'SEAL-TEN-02', () => `tensor ${i}`);
        must(before === null || Buffer.compare(before, name) < 0, 'SEAL-TEN-03', () => `tensor ${i}`);
        if (isOddName(name)) judge.warn('TENSOR-NAME-02');
        before = name;
        nextName += nameLength;
      }

      dimsHold &&= must(tensorBytes.readUInt32LE(at + 8) === nextDim && 8 * (nextDim + rank) <= dimBytes.length, 'SEAL-TEN-04', () => `tensor ${i}`);
      if (dimsHold) {
        tensor.shape = [];
        for (let d = nextDim; d < nextDim + rank; d++) tensor.shape.push(u64(dimBytes, 8 * d));
        nextDim += rank;
      }
      tensors.push(tensor);
    }
    if (namesHold) must(nextName === names.length, 'SEAL-TEN-01', () => 'the end of the names');
    if (dimsHold) must(8 * nextDim === dimBytes.length, 'SEAL-TEN-04', () => 'the end of the dims');

    let keyBefore = null;
    for (let at = 0; at < metadataBytes.length; ) {
      const pair = [];
      for (let half = 0; half < 2; half++) {
        const room = metadataBytes.length - at - 4;
        if (room < 0 || metadataBytes.readUInt32LE(at) > room) break;
        const end = at + 4 + metadataBytes.readUInt32LE(at);
        pair.push(metadataBytes.subarray(at + 4, end));
        at = end;
      }
      if (pair.length) {
        must(keyBefore === null || Buffer.compare(keyBefore, pair[0]) < 0, 'SEAL-META-03');
        keyBefore = pair[0];
      }
      must(pair.every((text) => isUtf8(text)), 'SEAL-META-02');
      if (!must(pair.length === 2, 'SEAL-META-01')) break;
      metadata.set(pair[0].toString(), pair[1].toString());
    }
    if (header.extra.length > 0) judge.warn('SEAL-EXTRA-01');
  });
  for (const tensor of tensors) tensor.name = tensor.nameBytes.toString();
  return { blocks, tensors, metadata };
}

/** Steps 12 to 14 of a sealed file: chapter 8. Gives the tensors in tiling order, block after block. */
function placeSealed({ blocks, tensors }, header, judge) {
  const { must } = bind(judge);
  const { payload } = header;
  const members = blocks.map(() => []);
  for (const tensor of tensors) members[tensor.block]?.push(tensor);

  judge.step('layout', () => {
    let cursor = payload.offset;
    blocks.forEach(({ offset, length }, i) => {
      must(offset === roundUp(cursor, PAGE), 'SEAL-BLK-03', () => `block ${i}`);
      cursor = offset + length;
      must(members[i].length > 0, 'SEAL-BLK-04', () => `block ${i}`);
    });
    must(cursor === payload.end, 'SEAL-BLK-03', () => 'the end of the payload');
  });
  judge.step('tensor', () => {
    for (const tensor of tensors) {
      const note = () => `tensor ${tensor.number}`;
      const block = blocks[tensor.block];
      const { fits, elements } = countElements(tensor.shape);
      const known = must(block, 'TENSOR-BLOCK-01', note);
      const counted = must(fits, 'TENSOR-SHAPE-01', note);
      if (!known || !counted) continue;
      const { per, bytes } = block.dtype;
      const length = (elements / per) * bytes;
      // Over 2^53 - 1 the length is still judged exactly; step 14 finds then that it is in no block.
      const same = tensor.exactLength === undefined ? length === tensor.length : BigInt(elements) * BigInt(bytes) === tensor.exactLength * BigInt(per);
      must(elements % per === 0 && same, 'TENSOR-LENGTH-01', note);
      tensor.elements = elements;
    }
  });
  const tiled = [];
  judge.step('tensor', () => {
    blocks.forEach((block, i) => {
      const unit = roundingUnit(header.align, block.dtype);
      const order = members[i].sort((a, b) => a.at - b.at || (a.length > 0) - (b.length > 0) || a.number - b.number);
      let cursor = 0;
      for (const tensor of order) {
        must(tensor.at === roundUp(cursor, unit) && tensor.at + tensor.length <= MAX, 'TENSOR-TILE-01', () => `tensor ${tensor.number}`);
        cursor = tensor.at + tensor.length;
        tensor.offset = block.offset + tensor.at;
        tensor.dtype = block.dtype;
        tiled.push(tensor);
      }
      must(cursor === block.length, 'TENSOR-TILE-01', () => `the end of block ${i}`);
    });
  });
  return tiled;
}

// ---------------------------------------------------------------- 7.4 and 7.5: the footer of a sealed file

/** FOOT-RENDER-02 is what JSON.stringify does with a string of scalar values. */
const quoted = (text) => JSON.stringify(text);

function* renderFooter(header, blocks, tiled) {
  const elements = (bytes, { bits }) => (BigInt(bytes) * 8n) / BigInt(bits);
  const total = blocks.reduce((sum, b) => sum + elements(b.length, b.dtype), 0n);
  yield `{"format":"flashpack_v4","align_bytes":${header.align},"total_payload_bytes":${header.footer.offset},"total_elems":${total}`;
  yield ',"macroblocks":[';
  for (const [i, { dtype: d, offset, length }] of blocks.entries()) {
    yield `${i ? ',' : ''}{"dtype":"${d.name}","offset_bytes":${offset},"length_bytes":${length},"length_elems":${elements(length, d)}}`;
  }
  yield '],"index":[';
  for (const [i, t] of tiled.entries()) {
    yield `${i ? ',' : ''}{"name":${quoted(t.name)},"shape":[${t.shape.join(',')}],"offset":${elements(t.at, t.dtype)}`;
    yield `,"length":${t.elements},"macroblock":${t.block}}`;
  }
  yield '],"flashpack_seal":{"version":1}}';
}

function isRendered(footer, parts) {
  let at = 0;
  for (const part of parts) {
    const bytes = Buffer.from(part);
    if (!footer.subarray(at, at + bytes.length).equals(bytes)) return false;
    at += bytes.length;
  }
  return at === footer.length;
}

// ---------------------------------------------------------------- 7.2 and 7.3: the footer of v3 and v4

const TOP = {
  v3: ['format', 'target_dtype', 'align_bytes', 'total_elems', 'index'],
  v4: ['format', 'align_bytes', 'total_payload_bytes', 'total_elems', 'macroblocks', 'index'],
};
const FOREIGN = { v3: ['macroblocks', 'total_payload_bytes'], v4: ['target_dtype'] };
const BLOCK = ['dtype', 'offset_bytes', 'length_bytes', 'length_elems'];
const RECORD = { v3: ['name', 'shape', 'offset', 'length'], v4: ['name', 'shape', 'offset', 'length', 'macroblock'] };
const FORMATS = new Map([['flashpack_v3', 'v3'], ['flashpack_v4', 'v4']]);

/** Steps 7 to 12 of v3 and v4. */
function readFooter(b, limits, judge) {
  const { must } = bind(judge);
  const start = json.skipSpace(b, 0);
  judge.step('footer-text', () => must(isUtf8(b), 'FOOT-TXT-01'));
  judge.step('limits', () => must(json.depth(b) <= limits.json_depth, 'LIMIT-DEPTH-01'));
  judge.step('footer-text', () => must(json.checkGrammar(b), 'FOOT-TXT-02'));
  judge.step('limits', () => checkFooterLimits(b, start, limits, must));
  judge.step('footer-text', () => json.checkStrings(b, must));

  const footer = { blocks: [], tensors: [] };
  judge.step('footer-schema', () => {
    if (!must(json.isObject(b, start), 'FOOT-SCH-01', () => 'the footer')) return;
    const top = json.membersOf(b, start);
    must(!top.has('flashpack_seal'), 'FOOT-SCH-09');

    // One value of a type of the tables; undefined where it is none, the fault being reported.
    const value = (members, key, type) => {
      if (!must(members.has(key), 'FOOT-SCH-03', () => key)) return undefined;
      return typed(members.get(key), key, type);
    };
    const typed = (i, key, type) => {
      if (!must(type.is(b, i), 'FOOT-SCH-04', () => key)) return undefined;
      return type.of(i, key);
    };
    const string = { is: json.isString, of: (i) => json.decodeString(b, i) };
    const list = { is: json.isList, of: (i) => i };
    const integer = {
      is: json.isNumber,
      of: (i, key) => {
        const end = json.skipValue(b, i);
        let n = end - i <= 16 ? 0 : Infinity; // grammar forbids leading zeros
        for (let k = i; k < end && n <= MAX; k++) n = json.isDigit(b[k]) ? 10 * n + (b[k] - 0x30) : Infinity;
        return must(n <= MAX, 'FOOT-SCH-05', () => key) ? n : undefined;
      },
    };
    const dtypeName = {
      is: json.isString,
      of: (i, key) => {
        const known = BY_LEGACY_NAME.get(json.decodeString(b, i));
        must(known, 'FOOT-SCH-06', () => key);
        return known;
      },
    };

    const format = value(top, 'format', string);
    if (format === undefined || !must(FORMATS.has(format), 'FOOT-SCH-02')) return;
    const layout = (footer.layout = FORMATS.get(format));
    for (const key of FOREIGN[layout]) must(!top.has(key), 'FOOT-SCH-08', () => key);
    for (const key of top.keys()) if (!TOP[layout].includes(key)) judge.warn('FOOT-SCH-11');

    footer.align = value(top, 'align_bytes', integer);
    footer.total = value(top, 'total_elems', integer);
    if (layout === 'v3') {
      footer.dtype = value(top, 'target_dtype', dtypeName);
    } else {
      footer.payload = value(top, 'total_payload_bytes', integer);
      const blocks = value(top, 'macroblocks', list);
      if (blocks !== undefined) {
        for (const i of json.elementsOf(b, blocks)) {
          if (!must(json.isObject(b, i), 'FOOT-SCH-01', () => 'a block')) continue;
          const members = json.membersOf(b, i);
          for (const key of members.keys()) must(BLOCK.includes(key), 'FOOT-SCH-07');
          footer.blocks.push({
            dtype: value(members, 'dtype', dtypeName),
            offset: value(members, 'offset_bytes', integer),
            length: value(members, 'length_bytes', integer),
            elements: value(members, 'length_elems', integer),
          });
        }
        must(!json.elementsOf(b, blocks).next().done, 'FOOT-SCH-10');
      }
    }
    const index = value(top, 'index', list);
    if (index === undefined) return;
    for (const i of json.elementsOf(b, index)) {
      if (!must(json.isObject(b, i), 'FOOT-SCH-01', () => 'an index record')) continue;
      const members = json.membersOf(b, i);
      if (layout === 'v3') must(!members.has('macroblock'), 'FOOT-SCH-08', () => 'macroblock');
      for (const key of members.keys()) if (!RECORD[layout].includes(key)) judge.warn('FOOT-SCH-11');
      const shape = value(members, 'shape', list);
      footer.tensors.push({
        number: footer.tensors.length,
        name: value(members, 'name', string),
        shape: shape === undefined ? [] : Array.from(json.elementsOf(b, shape), (k) => typed(k, 'shape', integer)),
        at: value(members, 'offset', integer),
        elements: value(members, 'length', integer),
        block: layout === 'v3' ? 0 : value(members, 'macroblock', integer),
      });
    }
  });
  return footer;
}

/** CHECK-ORDER-04: step 10, which looks at these things alone. */
function checkFooterLimits(b, start, limits, must) {
  const top = json.isObject(b, start) ? json.membersOf(b, start) : null;
  if (top === null || !json.isString(b, top.get('format'))) return;
  const layout = FORMATS.get(json.decodeString(b, top.get('format')));
  if (layout === undefined) return;
  const isWithin = (list, limit) => {
    let n = 0;
    for (const _ of json.elementsOf(b, list)) if (++n > limit) return false;
    return true;
  };
  const [index, blocks] = [top.get('index'), top.get('macroblocks')];
  if (layout === 'v4' && json.isList(b, blocks)) must(isWithin(blocks, limits.blocks), 'LIMIT-BLOCKS-01');
  if (!json.isList(b, index) || !must(isWithin(index, limits.tensors), 'LIMIT-TENSORS-01')) return;
  for (const i of json.elementsOf(b, index)) {
    const members = json.isObject(b, i) ? json.membersOf(b, i) : null;
    if (members === null) continue;
    const [name, shape] = [members.get('name'), members.get('shape')];
    const text = json.isString(b, name) ? json.decodeString(b, name) : null;
    if (text !== null) must(Buffer.byteLength(text) <= limits.name_bytes, 'LIMIT-NAME-01');
    if (json.isList(b, shape)) must(isWithin(shape, limits.rank), 'LIMIT-RANK-01');
  }
}

// ---------------------------------------------------------------- chapter 8: blocks and tensors of v3 and v4

/** Steps 13 to 15 of v3 and v4. */
function placeLegacy(footer, footerOffset, judge) {
  const { must } = bind(judge);
  const { layout, tensors, align } = footer;
  const sizeOf = (d) => d.bits / 8;

  judge.step('layout', () => {
    if (layout === 'v3') {
      const length = footer.total * sizeOf(footer.dtype);
      must(length === footerOffset, 'BLOCK-TOTAL-01');
      must(roundingUnit(align, footer.dtype) <= MAX, 'BLOCK-ALIGN-01');
      footer.blocks = [{ dtype: footer.dtype, offset: 0, length, elements: footer.total }];
      return;
    }
    let end = 0, total = 0;
    footer.blocks.forEach(({ dtype: d, offset, length, elements }, i) => {
      const note = () => `block ${i}`;
      const unit = roundingUnit(align, d);
      must(length === elements * sizeOf(d), 'BLOCK-LENGTH-01', note);
      must(unit <= MAX && offset % unit === 0, 'BLOCK-ALIGN-01', note);
      must(i === 0 || offset >= end, 'BLOCK-ORDER-01', note);
      end = offset + length;
      total += elements;
      must(end <= footerOffset, 'BLOCK-END-01', note);
    });
    must(footer.total === total, 'BLOCK-TOTAL-01');
    must(footer.payload === footerOffset, 'BLOCK-PAYLOAD-01');
  });

  judge.step('tensor', () => {
    const names = new Set();
    for (const tensor of tensors) {
      const note = () => `tensor ${tensor.number}`;
      const { fits, elements } = countElements(tensor.shape);
      if (must(fits, 'TENSOR-SHAPE-01', note)) must(tensor.elements === elements, 'TENSOR-LENGTH-01', note);
      must(!names.has(tensor.name), 'TENSOR-NAME-01', note);
      names.add(tensor.name);
      tensor.nameBytes = Buffer.from(tensor.name);
      if (isOddName(tensor.nameBytes)) judge.warn('TENSOR-NAME-02');
      const block = footer.blocks[tensor.block];
      if (!must(block, 'TENSOR-BLOCK-01', note)) continue;
      must(tensor.at + tensor.elements <= block.elements, 'TENSOR-RANGE-01', note);
      // In elements, so that no product is too large: the unit is a multiple of the size.
      const size = sizeOf(block.dtype);
      must(tensor.at % (roundingUnit(align, block.dtype) / size) === 0, 'TENSOR-ALIGN-01', note);
      tensor.dtype = block.dtype;
      tensor.offset = block.offset + tensor.at * size;
      tensor.length = tensor.elements * size;
    }
  });
  judge.step('tensor', () => {
    let end = 0;
    for (const [from, to] of tensorRanges(tensors)) {
      must(from >= end, 'TENSOR-OVERLAP-01', () => `at byte ${from}`);
      end = to;
    }
  });
}

// ---------------------------------------------------------------- chapters 3, 10 and 12: the reader

/** An open pack. `open` carries out the steps up to stage `tensor` (CONF-READ-01), `open(path, { strict: true })` all (CONF-FULL-01). */
export class Pack {
  #source;
  #header = null;
  #digests = null;
  #group = { number: -1, bytes: null }; // the last group that was read and checked
  #byName = new Map();

  /** Options: id (hex of the pack id), requireSeal, limits (see DEFAULT_LIMITS), strict. */
  static open(path, options = {}) {
    const limits = takeLimits(options.limits);
    const source = new Source(path);
    try {
      return new Pack(source, { ...options, limits });
    } catch (error) {
      source.close();
      // A buffer, string, map or set that is too large for this runtime.
      if (error instanceof RangeError || error?.code === 'ERR_STRING_TOO_LONG') throw new Unsupported(error.message);
      throw error;
    }
  }

  constructor(source, options) {
    this.#source = source;
    const judge = new Judge();
    const { size } = source;
    // SEAL-MAGIC-01, LAYOUT-DOWN-01
    if (size >= 8 && source.read(0, 8).equals(HEAD_MAGIC)) this.#openSealed(judge, size, options);
    else this.#openLegacy(judge, size, options);
    this.warnings = [...judge.warnings].sort();
    for (const tensor of this.tensors) this.#byName.set(tensor.name, tensor);
  }

  /** CHECK-ORDER-03 */
  #openSealed(judge, size, { id, limits, strict }) {
    const { must } = bind(judge);
    const source = this.#source;
    judge.step('size', () => must(size >= PAGE + 16, 'SEAL-SIZE-01'));
    const header = readHeader(source.read(0, PAGE), size, judge, id);
    const { payload, footer } = header;
    judge.step('limits', () => {
      must(payload.offset - PAGE <= limits.table_bytes, 'LIMIT-TABLES-01');
      must(header.blocks.length / 32 <= limits.blocks, 'LIMIT-BLOCKS-01');
      must(header.tensors.length / 32 <= limits.tensors, 'LIMIT-TENSORS-01');
      must(footer.length <= limits.footer_bytes, 'LIMIT-FOOTER-01');
    });
    const trailer = source.read(size - 16, 16);
    judge.step('trailer', () => {
      must(trailer.subarray(8).equals(TAIL_MAGIC), 'TRAIL-MAGIC-01');
      must(u64(trailer, 0) === footer.length, 'TRAIL-LENGTH-02');
    });
    const bytes = source.read(PAGE, payload.offset - PAGE);
    const tables = readTables(bytes, header, limits, judge);
    const tiled = placeSealed(tables, header, judge);
    this.#header = header;
    this.#digests = bytes.subarray(header.digests.offset - PAGE, header.digests.end - PAGE);
    if (strict) {
      const text = source.read(footer.offset, footer.length);
      judge.step('footer', () => must(digest(text).equals(header.footerDigest), 'SEAL-FOOT-01'));
      judge.step('footer', () => must(isRendered(text, renderFooter(header, tables.blocks, tiled)), 'SEAL-FOOT-02'));
      judge.step('integrity', () => {
        const gaps = new GapScan(gapsBetween(tensorRanges(tiled), payload.offset, payload.end));
        let number = 0;
        for (const [at, group] of source.pieces(payload.offset, payload.end, header.group)) {
          must(this.#isGroup(number, group), 'SEAL-INT-01', () => `group ${number}`);
          gaps.piece(at, group);
          number++;
        }
        must(gaps.clean, 'SEAL-INT-02');
      });
    }
    this.layout = 'sealed';
    this.id = header.id;
    this.metadata = tables.metadata;
    this.tensors = tables.tensors;
  }

  /** CHECK-ORDER-02 */
  #openLegacy(judge, size, { id, requireSeal, limits, strict }) {
    const { must } = bind(judge);
    const source = this.#source;
    judge.step('size', () => must(size >= 16, 'FILE-SIZE-01'));
    judge.step('size', () => must(!requireSeal, 'PIN-SEAL-01'));
    judge.step('header', () => must(id === undefined, 'PIN-ID-01'));
    const trailer = source.read(size - 16, 16);
    judge.step('trailer', () => must(trailer.subarray(8).equals(TAIL_MAGIC), 'TRAIL-MAGIC-01'));
    const length = u64(trailer, 0);
    judge.step('trailer', () => must(length <= size - 16, 'TRAIL-LENGTH-01'));
    judge.step('limits', () => must(length <= limits.footer_bytes, 'LIMIT-FOOTER-01'));
    const footerOffset = size - 16 - length;
    const footer = readFooter(source.read(footerOffset, length), limits, judge);
    placeLegacy(footer, footerOffset, judge);
    if (strict) {
      const gaps = new GapScan(gapsBetween(tensorRanges(footer.tensors), 0, footerOffset));
      for (const [at, bytes] of source.pieces(0, footerOffset)) gaps.piece(at, bytes);
      if (!gaps.clean) judge.warn('BLOCK-GAP-01');
    }
    this.layout = footer.layout;
    this.id = null;
    this.metadata = new Map();
    this.tensors = footer.tensors.sort((x, y) => Buffer.compare(x.nameBytes, y.nameBytes));
  }

  #isGroup(number, bytes) {
    return digest(bytes).equals(this.#digests.subarray(32 * number, 32 * number + 32));
  }

  /** SEAL-INT-01, SEAL-INT-03: what comes back are the very bytes that were hashed. */
  #checkedGroup(number) {
    if (this.#group.number !== number) {
      const { payload, group } = this.#header;
      const at = payload.offset + number * group;
      const bytes = this.#source.read(at, Math.min(group, payload.end - at));
      if (!this.#isGroup(number, bytes)) throw new Rejected('integrity', ['SEAL-INT-01'], [`group ${number}`]);
      this.#group = { number, bytes };
    }
    return this.#group.bytes;
  }

  /** The bytes of a tensor, piece by piece. A caller must not hand out any before all have come (CHECK-REPORT-04). */
  *#pieces({ offset, length }) {
    if (this.#header === null) {
      for (const [, bytes] of this.#source.pieces(offset, offset + length)) yield bytes;
      return;
    }
    const { payload, group } = this.#header;
    for (let at = offset - payload.offset, end = at + length; at < end; ) {
      const number = Math.floor(at / group);
      const stop = Math.min(end, (number + 1) * group);
      yield this.#checkedGroup(number).subarray(at - number * group, stop - number * group);
      at = stop;
    }
  }

  /** Name, dtype, shape, absolute offset and length in bytes of each tensor, by the bytes of the names. */
  list() {
    return this.tensors.map(({ name, dtype: d, shape, offset, length }) => ({ name, dtype: d.name, shape: [...shape], offset, length }));
  }

  /** The bytes of one tensor, checked group by group in a sealed file (CONF-READ-02). */
  read(name) {
    return Buffer.concat([...this.#pieces(this.#tensor(name))].map((piece) => Buffer.from(piece)));
  }

  /** The BLAKE3 of the bytes of one tensor, in hex; holds one group or piece at a time. */
  digestOf(name) {
    const hash = blake3.create();
    for (const piece of this.#pieces(this.#tensor(name))) hash.update(piece);
    return Buffer.from(hash.digest()).toString('hex');
  }

  #tensor(name) {
    const tensor = this.#byName.get(name);
    if (tensor === undefined) throw new Error('no such tensor');
    return tensor;
  }

  close() {
    this.#source.close();
  }
}
