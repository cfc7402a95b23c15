/**
 * What stands inside a line of Markdown: emphasis, code, links. CommonMark 0.31's delimiter algorithm (its appendix), with
 * GitHub's strike-through and bare addresses.
 */

/**
 * @typedef {{type: "text", value: string} | {type: "code", value: string} | {type: "break"}
 *   | {type: "strong" | "emphasis" | "deleted", children: Inline[]}
 *   | {type: "link", href: string, children: Inline[]}} Inline
 *
 * @typedef {object} Mark A run of delimiters that may yet become emphasis.
 * @property {string} character
 * @property {number} count
 * @property {number} length Of the whole run.
 * @property {boolean} opens
 * @property {boolean} closes
 *
 * @typedef {Inline & {mark?: Mark, bracket?: {image: boolean, active: boolean, at: number}}} Node
 */

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: "\u00a0", copy: "©", hellip: "…", mdash: "—", ndash: "–" };
const SPECIAL = /[\\`*_~[\]!<&\n]|https?:\/\//g;
const KINDS = /** @type {const} */ ({ 1: "emphasis", 2: "strong" });
const BRACKETS_AT_ONCE = 100;

/**
 * The address if a link may lead there, else null: http, https and mailto, written out in full. A relative one would point
 * into the console, and every other scheme runs something.
 * @param {string} address
 */
export function safeAddress(address) {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return null;
  try {
    const url = new URL(address);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** @param {string} text @returns {Inline[]} */
export function parseInline(text) {
  /** @type {Node[]} */
  const nodes = [];
  /** @type {number[]} */
  const brackets = [];
  const missing = new Set();
  let at = 0;
  const say = (/** @type {string} */ value) => value && nodes.push({ type: "text", value });

  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    if (!found) {
      say(text.slice(at));
      break;
    }
    say(text.slice(at, found.index));
    at = found.index;
    const character = text[at];

    if (character === "\\") {
      if (text[at + 1] === "\n") nodes.push({ type: "break" });
      else if (/[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) say(text[at + 1]);
      else {
        say("\\");
        at -= 1;
      }
      at += 2;
    } else if (character === "`") {
      at = codeSpan(text, at, nodes, missing);
    } else if (character === "*" || character === "_" || character === "~") {
      const mark = markAt(text, at);
      nodes.push({ type: "text", value: character.repeat(mark.length), mark });
      at += mark.length;
    } else if (character === "[" || (character === "!" && text[at + 1] === "[")) {
      const image = character === "!";
      if (brackets.length < BRACKETS_AT_ONCE) brackets.push(nodes.length);
      nodes.push({ type: "text", value: image ? "![" : "[", bracket: { image, active: true, at: at + (image ? 2 : 1) } });
      at += image ? 2 : 1;
    } else if (character === "]") {
      at = closeBracket(text, at, nodes, brackets);
    } else if (character === "<") {
      const link = /^<((?:https?:\/\/|mailto:)[^\s<>]*)>/i.exec(text.slice(at, at + 2048));
      if (link) nodes.push(linked(link[1], [{ type: "text", value: link[1] }]));
      else say("<");
      at += link ? link[0].length : 1;
    } else if (character === "&") {
      const entity = /^&(?:#(\d{1,7})|#x([0-9a-f]{1,6})|([a-z]{2,8}));/i.exec(text.slice(at, at + 12));
      const value = entity && decoded(entity);
      say(value ?? "&");
      at += entity && value ? entity[0].length : 1;
    } else if (character === "\n") {
      const last = nodes[nodes.length - 1];
      const hard = last?.type === "text" && !last.mark && / {2,}$/.test(last.value);
      if (last?.type === "text" && !last.mark) last.value = last.value.replace(/ +$/, "");
      nodes.push(hard ? { type: "break" } : { type: "text", value: "\n" });
      at += 1;
    } else if (character === "h") {
      at = bareAddress(text, at, nodes);
    } else {
      say(character);
      at += 1;
    }
  }
  return emphasised(nodes);
}

/** @param {string} text @param {number} at @param {Node[]} nodes @param {Set<number>} missing lengths that close nowhere @returns {number} */
function codeSpan(text, at, nodes, missing) {
  const marks = /^`+/.exec(text.slice(at))?.[0] ?? "`";
  if (!missing.has(marks.length)) {
    for (let from = at + marks.length; ; ) {
      const end = text.indexOf(marks, from);
      if (end < 0) break;
      let behind = end + marks.length;
      while (text[behind] === "`") behind += 1;
      if (behind === end + marks.length) {
        let value = text.slice(at + marks.length, end).replaceAll("\n", " ");
        if (value.startsWith(" ") && value.endsWith(" ") && value.trim()) value = value.slice(1, -1);
        nodes.push({ type: "code", value });
        return behind;
      }
      from = behind;
    }
    missing.add(marks.length);
  }
  nodes.push({ type: "text", value: marks });
  return at + marks.length;
}

/** @param {string} text @param {number} at @returns {Mark} */
function markAt(text, at) {
  const character = text[at];
  let end = at;
  while (text[end] === character) end += 1;
  const before = at === 0 ? " " : text[at - 1];
  const after = text[end] ?? " ";
  const punctuation = /[\p{P}\p{S}]/u;
  const leftFlanking = !/\s/.test(after) && (!punctuation.test(after) || /\s/.test(before) || punctuation.test(before));
  const rightFlanking = !/\s/.test(before) && (!punctuation.test(before) || /\s/.test(after) || punctuation.test(after));
  const length = end - at;
  if (character === "~") return { character, count: length, length, opens: leftFlanking && length <= 2, closes: rightFlanking && length <= 2 };
  const word = character === "_";
  return {
    character,
    count: length,
    length,
    opens: leftFlanking && (!word || !rightFlanking || punctuation.test(before)),
    closes: rightFlanking && (!word || !leftFlanking || punctuation.test(after)),
  };
}

/** @param {string} text @param {number} at @param {Node[]} nodes @param {number[]} brackets @returns {number} */
function closeBracket(text, at, nodes, brackets) {
  const place = brackets.pop();
  const opener = place === undefined ? undefined : nodes[place].bracket;
  const target = opener?.active ? /^\(\s*(?:<([^<>\n]*)>|((?:[^\s()\\]|\\.|\((?:[^\s()\\]|\\.)*\))*))(?:\s+(?:"[^"]*"|'[^']*'|\([^()]*\)))?\s*\)/.exec(text.slice(at + 1, at + 4096)) : null;
  if (place === undefined || !opener || !target) {
    nodes.push({ type: "text", value: "]" });
    return at + 1;
  }
  const children = emphasised(nodes.splice(place).slice(1));
  const address = (target[1] ?? target[2] ?? "").replace(/\\([!-/:-@[-`{-~])/g, "$1").replaceAll("&amp;", "&");
  // A picture would be fetched from wherever the text says: it is shown as a link.
  const shown = opener.image && !children.length ? [/** @type {Inline} */ ({ type: "text", value: "image" })] : children;
  nodes.push(linked(address, shown));
  if (!opener.image) {
    for (const place of brackets) {
      const around = nodes[place].bracket;
      if (around && !around.image) around.active = false; // no link within a link
    }
  }
  return at + 1 + target[0].length;
}

/** @param {string} address @param {Inline[]} children @returns {Inline} */
function linked(address, children) {
  const href = safeAddress(address);
  if (href) return { type: "link", href, children };
  return children.length === 1 ? children[0] : { type: "link", href: "", children };
}

/** @param {string} text @param {number} at @param {Node[]} nodes @returns {number} */
function bareAddress(text, at, nodes) {
  const before = at === 0 ? " " : text[at - 1];
  let address = /^https?:\/\/[^\s<>"`\\|]+/.exec(text.slice(at, at + 2048))?.[0].replace(/[?!.,:;*_~'\]]+$/, "") ?? "";
  while (address.endsWith(")") && address.split(")").length > address.split("(").length) address = address.slice(0, -1);
  const href = /[\p{L}\p{N}]/u.test(before) ? null : safeAddress(address);
  if (!href) {
    nodes.push({ type: "text", value: "http" });
    return at + 4;
  }
  nodes.push({ type: "link", href, children: [{ type: "text", value: address }] });
  return at + address.length;
}

/** @param {RegExpExecArray} entity */
function decoded([, decimal, hexadecimal, name]) {
  if (name) return /** @type {Record<string, string>} */ (ENTITIES)[name] ?? null;
  const code = decimal ? Number(decimal) : parseInt(hexadecimal, 16);
  return code > 0 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? String.fromCodePoint(code) : "\ufffd";
}

/**
 * Turn pairs of delimiters into emphasis. A stack of what is open, so that each node is looked at a bounded number of times.
 * @param {Node[]} nodes @returns {Inline[]}
 */
function emphasised(nodes) {
  /** @type {{mark: Mark | null, children: Node[]}[]} */
  const open = [{ mark: null, children: [] }];
  const top = () => open[open.length - 1];
  for (const node of nodes) {
    const { mark } = node;
    if (!mark) {
      top().children.push(node);
      continue;
    }
    while (mark.closes && mark.count > 0) {
      const place = open.findLastIndex((level) => level.mark !== null && pairs(level.mark, mark));
      if (place < 1) break;
      while (open.length - 1 > place) flatten(open);
      const { mark: opener, children } = top();
      if (!opener) break;
      const used = opener.character === "~" ? opener.count : Math.min(opener.count, mark.count, 2);
      const type = opener.character === "~" ? "deleted" : KINDS[/** @type {1 | 2} */ (used)];
      opener.count -= used;
      mark.count -= used;
      if (opener.count > 0) {
        top().children = [{ type, children: merged(children) }];
      } else {
        open.pop();
        top().children.push({ type, children: merged(children) });
      }
    }
    if (mark.count > 0) {
      if (mark.opens && open.length < 64) open.push({ mark, children: [] });
      else top().children.push({ type: "text", value: mark.character.repeat(mark.count) });
    }
  }
  while (open.length > 1) flatten(open);
  return merged(open[0].children);
}

/** @param {Mark} opener @param {Mark} closer */
function pairs(opener, closer) {
  if (opener.character !== closer.character) return false;
  if (opener.character === "~") return opener.count === closer.count;
  const both = opener.closes || closer.opens;
  return !both || (opener.length + closer.length) % 3 !== 0 || (opener.length % 3 === 0 && closer.length % 3 === 0);
}

/** The innermost opener was none. @param {{mark: Mark | null, children: Node[]}[]} open */
function flatten(open) {
  const level = open.pop();
  if (!level?.mark) return;
  const { children } = open[open.length - 1];
  children.push({ type: "text", value: level.mark.character.repeat(level.mark.count) });
  for (const child of level.children) children.push(child);
}

/** Adjacent texts as one. @param {Node[]} nodes @returns {Inline[]} */
function merged(nodes) {
  /** @type {Inline[]} */
  const result = [];
  for (const node of nodes) {
    const last = result[result.length - 1];
    if (node.type === "text" && last?.type === "text") last.value += node.value;
    else result.push(node.type === "text" ? { type: "text", value: node.value } : node);
  }
  return result;
}
