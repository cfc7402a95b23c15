/** The Markdown parser, without a browser. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { parseInline, safeAddress } from "../../../gateway/static/console/markdown-inline.js";
import { parseBlocks, settledLines } from "../../../gateway/static/console/markdown.js";

/** A short form of the tree, to compare with. */
const inline = (nodes) =>
  nodes
    .map((node) => {
      if (node.type === "text") return node.value;
      if (node.type === "code") return `<code ${node.value}>`;
      if (node.type === "break") return "<br>";
      if (node.type === "link") return `<a ${node.href} ${inline(node.children)}>`;
      return `<${node.type} ${inline(node.children)}>`;
    })
    .join("");
const blocks = (list) =>
  list
    .map((block) => {
      if (block.type === "paragraph") return `p(${inline(block.children)})`;
      if (block.type === "heading") return `h${block.level}(${inline(block.children)})`;
      if (block.type === "rule") return "hr";
      if (block.type === "code") return `code[${block.language}](${block.text})`;
      if (block.type === "quote") return `quote(${blocks(block.children)})`;
      if (block.type === "table") return `table(${[block.head, ...block.rows].map((row) => row.map(inline).join("|")).join("/")})`;
      const items = block.items.map(({ task, children }) => `${task === null ? "" : task ? "[x]" : "[ ]"}${blocks(children)}`);
      return `${block.ordered ? `ol${block.start}` : "ul"}${block.tight ? "" : "~"}(${items.join(";")})`;
    })
    .join(" ");
const parsed = (text) => blocks(parseBlocks(text.split("\n")));

const CASES = [
  ["# One\n## Two ##\nThree\n===\nFour\n---", "h1(One) h2(Two) h1(Three) h2(Four)"],
  ["#no heading\n####### nor this", "p(#no heading\n####### nor this)"],
  ["a\n\nb\nc", "p(a) p(b\nc)"],
  ["a  \nb\\\nc", "p(a<br>b<br>c)"],
  ["---\n***\n_ _ _", "hr hr hr"],
  ["```py\nx = 1\n\n# no heading\n```\nafter", "code[py](x = 1\n\n# no heading) p(after)"],
  ["~~~\n```\n~~~", "code[](```)"],
  ["````md\n```\ninner\n```\n````", "code[md](```\ninner\n```)"],
  ["```js\nunfinished", "code[js](unfinished)"],
  ["    indented\n      more", "code[](indented\n  more)"],
  ["> a\n> b\nlazy\n\nafter", "quote(p(a\nb\nlazy)) p(after)"],
  ["> - a\n> - b", "quote(ul(p(a);p(b)))"],
  ["- a\n- b\n  - c\n    - d\n- e", "ul(p(a);p(b) ul(p(c) ul(p(d)));p(e))"],
  ["1. one\n2. two\n   - nested\n3. three", "ol1(p(one);p(two) ul(p(nested));p(three))"],
  ["1. one\n  - by two only\n2. two", "ol1(p(one) ul(p(by two only));p(two))"],
  ["3) c\n4) d", "ol3(p(c);p(d))"],
  ["- a\n\n- b", "ul~(p(a);p(b))"],
  ["- a\n\n  more of a\n- b", "ul~(p(a) p(more of a);p(b))"],
  ["- a\n  ```sh\n  ls\n  ```\n- b", "ul(p(a) code[sh](ls);p(b))"],
  ["- [ ] open\n- [x] done", "ul([ ]p(open);[x]p(done))"],
  ["- a\n* b", "ul(p(a)) ul(p(b))"],
  ["text\n- list", "p(text) ul(p(list))"],
  ["in\n2024. was a year", "p(in\n2024. was a year)"],
  ["| a | b |\n|---|:-:|\n| 1 | 2 \\| 3 |\n| 4 |\n\nx", "table(a|b/1|2 | 3/4|) p(x)"],
  ["a | b\n--- | ---\n1 | 2", "table(a|b/1|2)"],
  ["not | a table\n- - -", "p(not | a table) hr"],
];

const INLINE = [
  ["**bold** *it* __b__ _i_ ~~no~~", "<strong bold> <emphasis it> <strong b> <emphasis i> <deleted no>"],
  ["***both*** **a *b* c**", "<emphasis <strong both>> <strong a <emphasis b> c>"],
  ["snake_case_name 2*3*4 a * b", "snake_case_name 2<emphasis 3>4 a * b"],
  ["**unfinished and *this", "**unfinished and *this"],
  ["*a **b*", "*a *<emphasis b>"],
  ["`a*b*` ``c`d`` `e", "<code a*b*> <code c`d> `e"],
  ["\\*no\\* \\q", "*no* \\q"],
  ["[t](https://x.org/a_(b) \"title\") [e](<https://x.org/a b>)", "<a https://x.org/a_(b) t> <a https://x.org/a%20b e>"],
  ["[**b** `c`](https://x.org)", "<a https://x.org/ <strong b> <code c>>"],
  ["[a [b](https://x.org) c](https://y.org)", "[a <a https://x.org/ b> c](<a https://y.org/ https://y.org>)"],
  ["![alt](https://x.org/p.png)", "<a https://x.org/p.png alt>"],
  ["see https://x.org/a?b=c. (https://x.org/d) <https://x.org>", "see <a https://x.org/a?b=c https://x.org/a?b=c>. (<a https://x.org/d https://x.org/d>) <a https://x.org/ https://x.org>"],
  ["[m](mailto:a@x.org)", "<a mailto:a@x.org m>"],
  ["&lt;b&gt; &amp;amp; &#65; &#x1f600; &nope;", "<b> &amp; A 😀 &nope;"],
  ["<b onclick=x>no</b>", "<b onclick=x>no</b>"],
  ["[x] [y](z", "[x] [y](z"],
];

describe("Markdown", () => {
  for (const [text, expected] of CASES) test(`blocks: ${JSON.stringify(text)}`, () => assert.equal(parsed(text), expected));
  for (const [text, expected] of INLINE) test(`inline: ${JSON.stringify(text)}`, () => assert.equal(inline(parseInline(text)), expected));

  test("links lead to http, https and mailto, and nowhere else", () => {
    const refused = [
      "javascript:alert(1)", "JaVaScRiPt:alert(1)", " javascript:alert(1)", "java\nscript:alert(1)", "\u0001javascript:alert(1)",
      "data:text/html,<script>alert(1)</script>", "vbscript:x", "file:///etc/passwd", "blob:https://x.org/1", "//x.org", "/api/threads", "#token=x",
      "https://", "http://[", "view-source:https://x.org", "intent://x",
    ];
    for (const address of refused) {
      assert.equal(safeAddress(address), null, address);
      assert.ok(!JSON.stringify(parseInline(`[x](<${address}>) [y](${address}) <${address}>`)).match(/"href":"(?!https:\/\/x\.org)[^"]/), address);
    }
    assert.equal(safeAddress("HTTPS://Example.org/a"), "https://example.org/a");
  });

  test("a growing text parsed from its last block on is the whole text parsed", () => {
    const text = CASES.map(([one]) => one).join("\n\n") + "\n\n" + INLINE.map(([one]) => one).join("\n\n");
    let settled = 0;
    let before = [];
    for (let end = 1; end <= text.length; end += 1) {
      const lines = text.slice(settled, end).split("\n");
      const found = parseBlocks(lines);
      const strip = ({ line, ...block }) => block;
      if (end % 7 === 0 || end === text.length) {
        assert.deepEqual([...before, ...found].map(strip), parseBlocks(text.slice(0, end).split("\n")).map(strip), `at ${end}`);
      }
      const line = settledLines(found, lines);
      if (line > 0) {
        settled += lines.slice(0, line).reduce((length, line) => length + line.length + 1, 0);
        before = [...before, ...found.slice(0, -1)];
      }
    }
  });

  const HOSTILE = {
    brackets: "[".repeat(50_000), closing: "[a](".repeat(20_000), images: "![".repeat(30_000), stars: "*a ".repeat(30_000), mixed: "*_".repeat(30_000),
    backticks: Array.from({ length: 400 }, (_, index) => "`".repeat(index + 1)).join(" "), quotes: "> ".repeat(20_000), lists: "- ".repeat(20_000), tildes: "~~a~".repeat(20_000),
    entities: "&#".repeat(40_000), addresses: "https://x.org/((((".repeat(5_000), angles: "<https://".repeat(20_000), pipes: "|".repeat(50_000) + "\n" + "|-".repeat(25_000),
    spaces: `a${" ".repeat(50_000)}b`, hashes: `# ${"# ".repeat(25_000)}x`, nested: Array.from({ length: 500 }, (_, depth) => `${"  ".repeat(depth)}- a`).join("\n"),
  };
  for (const [name, text] of Object.entries(HOSTILE)) {
    test(`hostile input takes no time: ${name}`, () => {
      const begun = performance.now();
      parseBlocks(text.split("\n"));
      assert.ok(performance.now() - begun < 1500, `${Math.round(performance.now() - begun)} ms`);
    });
  }
});
