// The Kaitai Struct description against the suite: every valid sealed vector, read with the generated reader, gives the fields that
// `flashpack metadata --json` prints.
//
//     npm ci && node kaitai.mjs FLASHPACK-COMMAND

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import vm from "node:vm";

const require = createRequire(import.meta.url);
const KaitaiStructCompiler = require("kaitai-struct-compiler");
const KaitaiStream = require("kaitai-struct/KaitaiStream");
const yaml = require("js-yaml");

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const command = process.argv[2] ?? "flashpack";

// The compiler gives a module as text, which wants `KaitaiStream` by its name.
const source = yaml.load(readFileSync(join(root, "spec/flashpack.ksy"), "utf8"));
const files = await KaitaiStructCompiler.compile("javascript", source, null, false);
const module = { exports: {} };
for (const text of Object.values(files)) {
  const context = { module, exports: module.exports, require: (name) => require(name), Uint8Array, ArrayBuffer, TextDecoder };
  vm.runInNewContext(text, context);
}
const { Flashpack } = module.exports;

let passed = 0;
let failed = 0;
const { vectors } = JSON.parse(readFileSync(join(root, "conformance/manifest.json"), "utf8"));
for (const vector of vectors) {
  if (vector.layout !== "sealed" || vector.verdict !== "accept") continue;
  const path = join(root, "conformance", vector.file);
  const expected = JSON.parse(execFileSync(command, ["metadata", "-i", "-j", path], { maxBuffer: 1 << 28 }));
  const bytes = readFileSync(path);
  const view = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  try {
    compare(new Flashpack(new KaitaiStream(view)), expected);
    passed += 1;
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${vector.id}: ${error.message}`);
  }
}
console.log(`kaitai: ${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);

function compare(pack, expected) {
  const { header } = pack;
  const { seal, ...footer } = expected;
  equal("version", `${header.major}.${header.minor}`, seal.version);
  equal("pack id", Buffer.from(header.headerDigest).toString("hex"), seal.id);
  equal("file size", Number(header.fileSize), seal.file_size);
  equal("alignment", header.alignment, seal.alignment);
  equal("group size", 2 ** header.groupLog2, seal.group_size);
  for (const [name, { offset, length }] of Object.entries(seal.sections)) {
    equal(`${name} offset`, Number(header.sections[name].offset), offset);
    equal(`${name} length`, Number(header.sections[name].length), length);
  }
  equal("blocks", pack.blocks.length, expected.macroblocks.length);
  expected.macroblocks.forEach((block, number) => {
    equal(`block ${number} offset`, Number(pack.blocks[number].offset), block.offset_bytes);
    equal(`block ${number} length`, Number(pack.blocks[number].length), block.length_bytes);
  });
  const shapes = new Map(expected.index.map((record) => [record.name, record.shape.join()]));
  equal("tensors", pack.tensors.length, shapes.size);
  for (const { name, dims } of pack.tensors) equal(`shape of ${JSON.stringify(name)}`, dims.map(Number).join(), shapes.get(name));
  const pairs = pack.metadata.pairs.map(({ key, value }) => [key, value]);
  equal("metadata", JSON.stringify(pairs.sort()), JSON.stringify(Object.entries(seal.metadata).sort()));
  equal("footer", JSON.stringify(JSON.parse(pack.footer)), JSON.stringify(footer));
}

function equal(what, found, expected) {
  if (found !== expected) throw new Error(`${what}: ${found}, not ${expected}`);
}
