#!/usr/bin/env node
// The conformance program of this port: probe, check and serve (conformance/README.md says what they do).

import fs from 'node:fs';
import readline from 'node:readline';
import { Pack, Rejected, Unsupported } from './flashpack.mjs';

const PROBE = '{"protocol":"1","name":"flashpack-javascript","version":"0.1.0","layouts":["v3","v4","sealed"],"features":[]}';

/** Compact JSON of strings, null, arrays and Maps, the keys of which are sorted by their UTF-8 bytes. Plain objects would reorder keys. */
function render(value) {
  if (Array.isArray(value)) return `[${value.map(render).join(',')}]`;
  if (!(value instanceof Map)) return JSON.stringify(value);
  const keys = [...value.keys()].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  return `{${keys.map((key) => `${JSON.stringify(key)}:${render(value.get(key))}`).join(',')}}`;
}
const object = (plain) => new Map(Object.entries(plain));

function describe(pack) {
  const tensors = pack.list(); // by the bytes of the names
  const digests = new Map();
  // In the order of the file, so that each group is read once.
  for (const { name } of [...tensors].sort((a, b) => a.offset - b.offset)) digests.set(name, pack.digestOf(name));
  return object({
    id: pack.id,
    layout: pack.layout,
    metadata: pack.metadata,
    tensors: tensors.map(({ name, dtype, shape, offset, length }) =>
      object({ blake3: digests.get(name), dtype, length: String(length), name, offset: String(offset), shape: shape.map(String) })),
    warnings: pack.warnings,
  });
}

/** Exit status and result. */
function judge(file, options) {
  try {
    const pack = Pack.open(file, { ...options, strict: true });
    try {
      return ['0', describe(pack)];
    } finally {
      pack.close();
    }
  } catch (error) {
    if (error instanceof Rejected) return ['1', object({ rules: error.rules, stage: error.stage })];
    return [error instanceof Unsupported ? '3' : '2', object({ error: String(error?.message ?? error) })];
  }
}

function check(args) {
  const options = {};
  let file;
  while (args.length) {
    const arg = args.shift();
    if (arg === '--require-seal') options.requireSeal = true;
    else if (arg === '--id' && args.length) options.id = args.shift();
    else if (arg === '--limits' && args.length) options.limits = JSON.parse(fs.readFileSync(args.shift(), 'utf8'));
    else if (file === undefined && !arg.startsWith('--')) file = arg;
    else return usage();
  }
  if (file === undefined) return usage();
  const [exit, result] = judge(file, options);
  process.exitCode = Number(exit);
  process.stdout.write(`${render(result)}\n`);
}

async function serve() {
  for await (const line of readline.createInterface({ input: process.stdin, crlfDelay: Infinity })) {
    if (line.trim() === '') continue;
    let exit, result;
    try {
      const { file, id, require_seal: requireSeal, limits } = JSON.parse(line);
      [exit, result] = judge(file, { id: id ?? undefined, requireSeal, limits });
    } catch (error) {
      [exit, result] = ['2', object({ error: String(error?.message ?? error) })];
    }
    process.stdout.write(`${render(object({ exit, result }))}\n`);
  }
}

function usage() {
  process.stderr.write('usage: conform.mjs probe | check FILE [--id HEX] [--require-seal] [--limits FILE] | serve\n');
  process.exitCode = 2;
}

try {
  const [command, ...args] = process.argv.slice(2);
  if (command === 'probe') process.stdout.write(`${PROBE}\n`);
  else if (command === 'check') check(args);
  else if (command === 'serve') await serve();
  else usage();
} catch (error) {
  process.stderr.write(`${error?.message ?? error}\n`);
  process.exitCode = 2;
}
