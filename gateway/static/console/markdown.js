/**
 * Markdown as models write it, parsed to a tree of plain data: CommonMark's blocks, GitHub's tables, strike-through and task
 * lists. HTML in it is text. No DOM here; `markdown-view.js` draws the tree.
 */

import { parseInline } from "./markdown-inline.js";

/**
 * @typedef {import("./markdown-inline.js").Inline} Inline
 * @typedef {{line: number} & (
 *   {type: "paragraph", children: Inline[]} | {type: "heading", level: number, children: Inline[]} | {type: "rule"}
 *   | {type: "code", language: string, text: string} | {type: "quote", children: Block[]}
 *   | {type: "list", ordered: boolean, start: number, tight: boolean, items: {task: boolean | null, children: Block[]}[]}
 *   | {type: "table", align: string[], head: Inline[][], rows: Inline[][][]}
 * )} Block `line` is the number of its first line.
 */

const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}>/;
const ITEM = /^( *)([-*+]|(\d{1,9})[.)])(?:([ \t]+)(.*))?$/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const DEEPEST = 12;

/** @param {string[]} lines @param {number} [depth] @returns {Block[]} */
export function parseBlocks(lines, depth = 0) {
  /** @type {Block[]} */
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const [block, next] = parseBlock(lines, at, depth);
    blocks.push({ ...block, line: at });
    at = next;
  }
  return blocks;
}

/**
 * The line from which a growing text is to be parsed again. A block depends on nothing before its first line, so that is where
 * the last block begins; once that line and the one behind it, which makes a table of it, are there in full.
 * @param {Block[]} blocks @param {string[]} lines
 */
export function settledLines(blocks, lines) {
  const last = blocks[blocks.length - 1];
  return last && last.line + 2 < lines.length ? last.line : 0;
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[any, number]} the block, and the line behind it */
function parseBlock(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = (heading[2] ?? "").replace(/(^|[ \t])#+[ \t]*$/, "").trim();
    return [{ type: "heading", level: heading[1].length, children: parseInline(text) }, at + 1];
  }
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (depth < DEEPEST) {
    if (QUOTE.test(line)) return quote(lines, at, depth);
    if (startsList(line)) return list(lines, at, depth);
  }
  if (indentOf(line) >= 4) return indented(lines, at);
  if (startsTable(lines, at)) return table(lines, at);
  return paragraph(lines, at);
}

/** @param {string[]} lines @param {number} at @param {RegExpExecArray} opening @returns {[any, number]} */
function fenced(lines, at, [, indent, marks, info]) {
  const text = [];
  const strip = new RegExp(`^ {0,${indent.length}}`);
  let next = at + 1;
  while (next < lines.length) {
    const closing = /^ {0,3}(`{3,}|~{3,})[ \t]*$/.exec(lines[next]);
    if (closing && closing[1][0] === marks[0] && closing[1].length >= marks.length) {
      next += 1;
      break;
    }
    text.push(lines[next].replace(strip, ""));
    next += 1;
  }
  return [{ type: "code", language: info.trim().split(/\s/)[0], text: text.join("\n") }, next];
}

/** @param {string[]} lines @param {number} at @returns {[any, number]} */
function indented(lines, at) {
  const text = [];
  let next = at;
  while (next < lines.length && (isBlank(lines[next]) || indentOf(lines[next]) >= 4)) {
    text.push(lines[next].slice(4));
    next += 1;
  }
  return [{ type: "code", language: "", text: text.join("\n").trimEnd() }, next];
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[any, number]} */
function quote(lines, at, depth) {
  const inner = [];
  let next = at;
  while (next < lines.length) {
    const line = lines[next];
    if (QUOTE.test(line)) inner.push(line.replace(/^ {0,3}> ?/, ""));
    else if (isBlank(line) || interrupts(line) || isBlank(inner[inner.length - 1])) break;
    else inner.push(line);
    next += 1;
  }
  return [{ type: "quote", children: parseBlocks(inner, depth + 1) }, next];
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[any, number]} */
function list(lines, at, depth) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
  const kind = first[2].slice(-1);
  const items = [];
  let loose = false;
  let next = at;
  while (next < lines.length) {
    const marker = ITEM.exec(lines[next]);
    if (!marker || marker[2].slice(-1) !== kind || RULE.test(lines[next]) || marker[1].length > first[1].length + 3) break;
    const [inner, behind] = itemLines(lines, next, marker);
    const task = /^\[([ xX])\][ \t]+/.exec(inner[0]);
    if (task) inner[0] = inner[0].slice(task[0].length);
    const children = parseBlocks(inner, depth + 1);
    items.push({ task: task ? task[1] !== " " : null, children });
    const gap = isBlank(inner[inner.length - 1]) && inner.length > 1;
    const more = behind < lines.length && ITEM.exec(lines[behind])?.[2].slice(-1) === kind;
    loose ||= (gap && more) || children.some((child, index) => index > 0 && child.type === "paragraph" && isBlank(inner[child.line - 1]));
    next = behind;
  }
  const start = first[3] === undefined ? 1 : Number(first[3]);
  return [{ type: "list", ordered: first[3] !== undefined, start, tight: !loose, items }, next];
}

/**
 * The lines of one item without its indent, and the line behind it. Models often indent by two where CommonMark wants three.
 * @param {string[]} lines @param {number} at @param {RegExpExecArray} marker @returns {[string[], number]}
 */
function itemLines(lines, at, [, indent, mark, , space = " ", rest = ""]) {
  const width = indent.length + mark.length + (space.length > 4 ? 1 : space.length);
  const enough = Math.min(width, indent.length + 2);
  const inner = [rest];
  let next = at + 1;
  while (next < lines.length) {
    const line = lines[next];
    const lastBlank = isBlank(inner[inner.length - 1]);
    if (isBlank(line)) inner.push("");
    else if (indentOf(line) >= enough) inner.push(line.slice(Math.min(width, indentOf(line))));
    else if (lastBlank || interrupts(line) || ITEM.test(line)) break;
    else inner.push(line);
    next += 1;
  }
  return [inner, next];
}

/** @param {string[]} lines @param {number} at @returns {[any, number]} */
function table(lines, at) {
  const head = cells(lines[at]);
  const align = cells(lines[at + 1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  const rows = [];
  let next = at + 2;
  while (next < lines.length && !isBlank(lines[next]) && lines[next].includes("|") && !interrupts(lines[next])) {
    const row = cells(lines[next]);
    rows.push(head.map((_, index) => parseInline(row[index] ?? "")));
    next += 1;
  }
  return [{ type: "table", align, head: head.map((cell) => parseInline(cell)), rows }, next];
}

/** @param {string} line */
function cells(line) {
  const inner = line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "");
  return inner.split(/(?<!\\)\|/).map((cell) => cell.replaceAll("\\|", "|").trim());
}

/** @param {string[]} lines @param {number} at @returns {[any, number]} */
function paragraph(lines, at) {
  const text = [lines[at].trimStart()];
  let next = at + 1;
  while (next < lines.length && !isBlank(lines[next]) && !interrupts(lines[next]) && !startsTable(lines, next)) {
    const underline = /^ {0,3}(=+|-+)[ \t]*$/.exec(lines[next]);
    if (underline) return [{ type: "heading", level: underline[1][0] === "=" ? 1 : 2, children: parseInline(text.join("\n")) }, next + 1];
    text.push(lines[next].trimStart());
    next += 1;
  }
  return [{ type: "paragraph", children: parseInline(text.join("\n").trimEnd()) }, next];
}

/** Whether the line ends a paragraph before it. @param {string} line */
function interrupts(line) {
  if (FENCE.test(line) || HEADING.test(line) || QUOTE.test(line)) return true;
  if (RULE.test(line)) return !/^ {0,3}-+[ \t]*$/.test(line); // dashes alone underline a heading
  const item = ITEM.exec(line);
  return item !== null && startsList(line) && Boolean(item[5]) && (item[3] === undefined || item[3] === "1");
}

/** @param {string} line */
function startsList(line) {
  const item = ITEM.exec(line);
  return item !== null && item[1].length < 4;
}

/** @param {string[]} lines @param {number} at */
function startsTable(lines, at) {
  const rule = lines[at + 1];
  return rule !== undefined && lines[at].includes("|") && TABLE_RULE.test(rule) && cells(lines[at]).length === cells(rule).length;
}

/** @param {string} line */
function isBlank(line) {
  return line.trim() === "";
}

/** @param {string} line */
function indentOf(line) {
  return line.length - line.trimStart().length;
}
