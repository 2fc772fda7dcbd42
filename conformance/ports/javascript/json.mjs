// Section 7.1 of spec/flashpack.md: JSON, read in place.
//
// No tree is built. `checkGrammar` says whether the text is JSON; the other functions walk over a text of which that is known. A value
// is known by the position of its first byte. Nothing recurses, so no depth that a caller allows is too deep for the stack.

const ch = (c) => c.charCodeAt(0);
const [QUOTE, BACKSLASH, COMMA, COLON, MINUS, ZERO, NINE] = [...'"\\,:-09'].map(ch);
const [LIST, LIST_END, OBJECT, OBJECT_END] = [...'[]{}'].map(ch);
export const isDigit = (c) => c >= ZERO && c <= NINE;
export const skipSpace = (b, i) => {
  while (b[i] === 0x20 || b[i] === 0x09 || b[i] === 0x0a || b[i] === 0x0d) i++;
  return i;
};
/** From a quote to behind the closing quote, or to the end of the text. */
const skipString = (b, i) => {
  for (i++; i < b.length && b[i] !== QUOTE; i++) if (b[i] === BACKSLASH) i++;
  return i + 1;
};

/** LIMIT-DEPTH-01: counted over the text before it is parsed. */
export function depth(b) {
  let now = 0, highest = 0;
  for (let i = 0; i < b.length; ) {
    const c = b[i];
    if (c === QUOTE) {
      i = skipString(b, i);
      continue;
    }
    if (c === LIST || c === OBJECT) highest = Math.max(highest, ++now);
    else if ((c === LIST_END || c === OBJECT_END) && now > 0) now--;
    i++;
  }
  return highest;
}

/** Behind a string, number or literal that is as RFC 8259 says; -1 where it is not. */
function checkString(b, i) {
  for (i++; i < b.length; i++) {
    const c = b[i];
    if (c === QUOTE) return i + 1;
    if (c < 0x20) return -1;
    if (c !== BACKSLASH) continue;
    const e = String.fromCharCode(b[++i]);
    if (e === 'u') {
      if (!/^[0-9A-Fa-f]{4}$/.test(b.toString('latin1', i + 1, i + 5))) return -1;
      i += 4;
    } else if (!'"\\/bfnrt'.includes(e)) return -1;
  }
  return -1;
}
function checkNumber(b, i) {
  const digits = () => {
    const from = i;
    while (isDigit(b[i])) i++;
    return i > from;
  };
  if (b[i] === MINUS) i++;
  if (b[i] === ZERO) i++;
  else if (!digits()) return -1;
  if (b[i] === ch('.')) {
    i++;
    if (!digits()) return -1;
  }
  if (b[i] === ch('e') || b[i] === ch('E')) {
    i++;
    if (b[i] === ch('+') || b[i] === MINUS) i++;
    if (!digits()) return -1;
  }
  return i;
}
const WORDS = ['true', 'false', 'null'];
function checkScalar(b, i) {
  if (b[i] === QUOTE) return checkString(b, i);
  if (b[i] === MINUS || isDigit(b[i])) return checkNumber(b, i);
  const word = WORDS.find((w) => b.toString('latin1', i, i + w.length) === w);
  return word === undefined ? -1 : i + word.length;
}

/** FOOT-TXT-02, the grammar: one value, whitespace around it at most. */
export function checkGrammar(b) {
  const open = []; // the closing byte of each list and object that is open
  let i = skipSpace(b, 0);
  const key = () => {
    i = skipSpace(b, i);
    if (b[i] !== QUOTE || (i = checkString(b, i)) < 0) return false;
    i = skipSpace(b, i);
    return b[i++] === COLON;
  };
  for (;;) {
    // Here a value begins.
    i = skipSpace(b, i);
    const c = b[i];
    if (c === LIST || c === OBJECT) {
      const end = c === LIST ? LIST_END : OBJECT_END;
      i = skipSpace(b, i + 1);
      if (b[i] === end) i++;
      else {
        open.push(end);
        if (c === OBJECT && !key()) return false;
        continue;
      }
    } else if ((i = checkScalar(b, i)) < 0) return false;
    // Here a value ended.
    for (;;) {
      i = skipSpace(b, i);
      if (open.length === 0) return i === b.length;
      const end = open[open.length - 1];
      const next = b[i++];
      if (next === end) open.pop();
      else if (next === COMMA) {
        if (end === OBJECT_END && !key()) return false;
        break;
      } else return false;
    }
  }
}

/** A string without its escapes, or null where it has half a pair of surrogates. The text is UTF-8, and JSON. */
export function decodeString(b, start, end = skipString(b, start)) {
  const raw = b.toString('utf8', start, end);
  if (!raw.includes('\\')) return raw.slice(1, -1);
  const text = JSON.parse(raw);
  return text.isWellFormed() ? text : null;
}

/** Step 11: strings that do not decode, and repeated keys, in the whole text. */
export function checkStrings(b, must) {
  const outer = [];
  let keys = null, atKey = false; // the keys of the innermost object; null in a list
  for (let i = 0; i < b.length; ) {
    const c = b[i];
    if (c === QUOTE) {
      const end = skipString(b, i);
      const text = decodeString(b, i, end);
      must(text !== null, 'FOOT-TXT-02');
      if (atKey && text !== null) {
        must(!keys.has(text), 'FOOT-TXT-03');
        keys.add(text);
      }
      atKey = false;
      i = end;
      continue;
    }
    if (c === LIST || c === OBJECT) {
      outer.push(keys);
      keys = c === OBJECT ? new Set() : null;
      atKey = c === OBJECT;
    } else if (c === LIST_END || c === OBJECT_END) keys = outer.pop();
    else if (c === COMMA) atKey = keys !== null;
    i++;
  }
}

export function skipValue(b, i) {
  if (b[i] === QUOTE) return skipString(b, i);
  if (b[i] !== LIST && b[i] !== OBJECT) {
    while (i < b.length && b[i] > 0x20 && b[i] !== COMMA && b[i] !== LIST_END && b[i] !== OBJECT_END) i++;
    return i;
  }
  let depth = 0;
  do {
    const c = b[i];
    if (c === QUOTE) {
      i = skipString(b, i);
      continue;
    }
    if (c === LIST || c === OBJECT) depth++;
    else if (c === LIST_END || c === OBJECT_END) depth--;
    i++;
  } while (depth > 0);
  return i;
}
/** The positions of the elements of a list. */
export function* elementsOf(b, i) {
  for (i = skipSpace(b, i + 1); b[i] !== LIST_END; ) {
    yield i;
    i = skipSpace(b, skipValue(b, i));
    if (b[i] === COMMA) i = skipSpace(b, i + 1);
  }
}
/** Keys and positions of values; of a repeated key the first (CHECK-ORDER-05). Null where a key does not decode (CHECK-ORDER-04). */
export function membersOf(b, i) {
  const members = new Map();
  for (i = skipSpace(b, i + 1); b[i] !== OBJECT_END; ) {
    const end = skipString(b, i);
    const key = decodeString(b, i, end);
    if (key === null) return null;
    i = skipSpace(b, skipSpace(b, end) + 1);
    if (!members.has(key)) members.set(key, i);
    i = skipSpace(b, skipValue(b, i));
    if (b[i] === COMMA) i = skipSpace(b, i + 1);
  }
  return members;
}
export const isList = (b, i) => i !== undefined && b[i] === LIST;
export const isString = (b, i) => i !== undefined && b[i] === QUOTE;
export const isObject = (b, i) => i !== undefined && b[i] === OBJECT;
export const isNumber = (b, i) => i !== undefined && (b[i] === MINUS || isDigit(b[i]));
