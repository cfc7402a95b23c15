/** Draws Markdown as DOM nodes, and goes on drawing as the text grows. Nothing here turns a string into markup. */

import { copyButton, h } from "./dom.js";
import { parseBlocks, settledLines } from "./markdown.js";

/** @typedef {import("./markdown.js").Block} Block @typedef {import("./markdown-inline.js").Inline} Inline */

/** One growing text. Blocks before the last are drawn once. */
export class MarkdownView {
  element = h("div", { class: "markdown" });
  #text = "";
  /** Where the last block begins: what is before it does not change any more while the text grows. */
  #settled = 0;
  #settledNodes = 0;

  /** @param {string} text */
  update(text) {
    if (text === this.#text) return;
    if (!text.startsWith(this.#text)) {
      this.#settled = this.#settledNodes = 0;
    }
    this.#text = text;
    const rest = text.slice(this.#settled);
    const lines = rest.replaceAll("\r\n", "\n").split("\n");
    const blocks = parseBlocks(lines);
    const drawn = blocks.map(drawBlock);
    const old = [...this.element.childNodes].slice(this.#settledNodes);
    drawn.forEach((node, index) => {
      if (index >= old.length) this.element.append(node);
      else old[index].replaceWith(node);
    });
    for (const node of old.slice(drawn.length)) node.remove();
    const settled = rest.includes("\r") ? 0 : settledLines(blocks, lines);
    if (settled > 0) {
      this.#settled += lines.slice(0, settled).reduce((length, line) => length + line.length + 1, 0);
      this.#settledNodes += blocks.length - 1;
    }
  }
}

/** @param {Block} block @returns {Node} */
function drawBlock(block) {
  switch (block.type) {
    case "paragraph":
      return h("p", {}, ...drawInline(block.children));
    case "heading":
      // The page has its own h1 and h2.
      return h(`h${Math.min(block.level + 2, 6)}`, { class: `heading-${block.level}` }, ...drawInline(block.children));
    case "rule":
      return h("hr");
    case "code":
      return codeBlock(block.text, block.language);
    case "quote":
      return h("blockquote", {}, ...block.children.map(drawBlock));
    case "list":
      return drawList(block);
    case "table":
      return drawTable(block);
  }
}

/** @param {string} text @param {string} language */
export function codeBlock(text, language) {
  const code = h("code", {}, text);
  return h(
    "figure",
    { class: "code" },
    h("figcaption", {}, h("span", {}, language || "text"), copyButton(() => text, "Copy code")),
    h("pre", { tabindex: "0", "aria-label": language ? `Code, ${language}` : "Code" }, code),
  );
}

/** @param {Extract<Block, {type: "list"}>} list */
function drawList(list) {
  const items = list.items.map(({ task, children }) => {
    const box = task === null ? [] : [h("input", { type: "checkbox", disabled: true, checked: task, "aria-label": task ? "done" : "to do" })];
    const drawn = children.flatMap((child) => (list.tight && child.type === "paragraph" ? drawInline(child.children) : [drawBlock(child)]));
    return h("li", { class: task === null ? null : "task" }, ...box, ...drawn);
  });
  return h(list.ordered ? "ol" : "ul", { start: list.ordered && list.start !== 1 ? list.start : null }, ...items);
}

/** @param {Extract<Block, {type: "table"}>} table */
function drawTable(table) {
  const row = (/** @type {string} */ tag, /** @type {Inline[][]} */ cells) =>
    h("tr", {}, ...cells.map((cell, index) => h(tag, { class: table.align[index], scope: tag === "th" ? "col" : null }, ...drawInline(cell))));
  return h(
    "div",
    { class: "table", tabindex: "0", role: "group", "aria-label": "Table" },
    h("table", {}, h("thead", {}, row("th", table.head)), h("tbody", {}, ...table.rows.map((cells) => row("td", cells)))),
  );
}

/** @param {Inline[]} nodes @returns {Node[]} */
function drawInline(nodes) {
  return nodes.map((node) => {
    switch (node.type) {
      case "text":
        return document.createTextNode(node.value);
      case "code":
        return h("code", {}, node.value);
      case "break":
        return h("br");
      case "strong":
        return h("strong", {}, ...drawInline(node.children));
      case "emphasis":
        return h("em", {}, ...drawInline(node.children));
      case "deleted":
        return h("del", {}, ...drawInline(node.children));
      case "link":
        if (!node.href) return h("span", {}, ...drawInline(node.children));
        return h("a", { href: node.href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...drawInline(node.children));
    }
  });
}
