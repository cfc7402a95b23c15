/** One message of a conversation: a person's, or an answer with its text, reasoning, tools, approvals and end. */

import { ApprovalView } from "./approval.js";
import { copyButton, h, icon } from "./dom.js";
import { MarkdownView } from "./markdown-view.js";

/**
 * @typedef {import("../agentline.js").Entry & {unstarted?: boolean}} Entry  `unstarted`: cancelled while it waited.
 * @typedef {import("../agentline.js").Part} Part
 * @typedef {{decide: (id: string, decision: string, text?: string) => Promise<boolean>, retry: (turnId: string) => void, whole: (entry: Entry) => void}} Actions
 */

const ENDINGS = { cancelled: "You stopped this answer.", interrupted: "The server stopped in the middle of this answer. What was said is kept." };
const STOPS = { max_tokens: "The answer reached its length limit.", refusal: "The agent declined to answer." };

export class UserView {
  element = h("article", { class: "message user", "aria-label": "You" });
  /** @type {Entry | null} */ #entry = null;
  #actions;

  /** @param {Actions} actions */
  constructor(actions) {
    this.#actions = actions;
  }

  /** @param {Entry} entry */
  update(entry) {
    if (entry === this.#entry) return;
    this.#entry = entry;
    this.element.replaceChildren(h("div", { class: "bubble" }, entry.content), ...(entry.truncated ? [wholeButton(() => this.#actions.whole(entry))] : []));
  }
}

export class AnswerView {
  element;
  /** @type {Entry | null} */ #entry = null;
  /** @type {{key: string, view: {element: HTMLElement, update: (part: any, live: boolean) => void}}[]} */ #parts = [];
  #body = h("div", { class: "parts" });
  #waiting = h("p", { class: "waiting", role: "presentation" }, h("span"), h("span"), h("span"));
  #foot = h("footer");
  #actions;

  /** @param {Actions} actions @param {string} agent */
  constructor(actions, agent) {
    this.#actions = actions;
    this.element = h("article", { class: "message assistant", "aria-label": `Answer of ${agent}` }, this.#body, this.#waiting, this.#foot);
  }

  /** @param {Entry} entry @param {boolean} last Whether it is the thread's last message. */
  update(entry, last) {
    this.element.classList.toggle("last", last);
    if (entry === this.#entry) return;
    const before = this.#entry;
    this.#entry = entry;
    const live = entry.status === "running";
    const parts = entry.parts ?? [];
    parts.forEach((part, index) => {
      const key = keyOf(part);
      const known = this.#parts[index];
      if (known?.key === key) {
        if (before?.parts?.[index] !== part || before?.status !== entry.status) known.view.update(part, live && index === parts.length - 1);
        return;
      }
      const view = this.#newView(part);
      view.update(part, live && index === parts.length - 1);
      if (known) known.view.element.replaceWith(view.element);
      else this.#body.append(view.element);
      this.#parts[index] = { key, view };
    });
    for (const { view } of this.#parts.splice(parts.length)) view.element.remove();
    const tail = parts.at(-1);
    const asking = parts.some((part) => part.kind === "approval" && part.decision === undefined);
    this.#waiting.hidden = !live || asking || (tail?.kind === "text" && tail.content !== "");
    this.element.classList.toggle("running", live);
    this.element.setAttribute("aria-busy", String(live));
    if (before?.status !== entry.status || before?.truncated !== entry.truncated || before?.message_id !== entry.message_id || before?.unstarted !== entry.unstarted) this.#drawFoot(entry);
  }

  /** @param {Part} part @returns {{element: HTMLElement, update: (part: any, live: boolean) => void}} */
  #newView(part) {
    if (part.kind === "text") return new TextView();
    if (part.kind === "reasoning") return new ReasoningView();
    if (part.kind === "tool") return new ToolView();
    return new ApprovalView(this.#actions.decide);
  }

  /** @param {Entry} entry */
  #drawFoot(entry) {
    const { status = "completed", error, stop_reason: stop } = entry;
    const drawn = [];
    if (status === "running") {
      this.#foot.replaceChildren();
      return;
    }
    const note = error?.message ?? ENDINGS[/** @type {keyof typeof ENDINGS} */ (status)] ?? STOPS[/** @type {keyof typeof STOPS} */ (stop ?? "")];
    const taken = entry.unstarted ? "You took this message back." : null;
    const ended = taken ?? note ?? (status === "failed" ? "This answer failed." : "");
    if (ended) drawn.push(h("p", { class: status === "failed" ? "note failed" : "note" }, status === "failed" && icon("alert"), h("span", {}, ended)));
    const actions = h("div", { class: "actions" });
    if (entry.truncated) actions.append(wholeButton(() => this.#actions.whole(entry)));
    if (entry.content) actions.append(copyButton(() => this.#entry?.content.trim() ?? "", "Copy answer"));
    if (status !== "completed") {
      actions.append(h("button", { type: "button", class: "quiet retry", onclick: () => this.#actions.retry(entry.turn_id) }, icon("retry"), "Retry"));
    }
    if (entry.duration_ms !== undefined) actions.append(h("span", { class: "cost" }, costText(entry)));
    this.#foot.replaceChildren(...drawn, actions);
  }
}

class TextView {
  #markdown = new MarkdownView();
  element = this.#markdown.element;

  /** @param {Extract<Part, {kind: "text"}>} part @param {boolean} live */
  update(part, live) {
    this.#markdown.update(part.content);
    this.element.classList.toggle("live", live);
  }
}

class ReasoningView {
  #summary = h("span", {}, "Thought about it");
  #text = h("div", { class: "inner" });
  element = h("details", { class: "fold reasoning" }, h("summary", {}, icon("thought"), this.#summary, icon("chevron")), this.#text);

  /** @param {Extract<Part, {kind: "reasoning"}>} part @param {boolean} live */
  update(part, live) {
    this.#summary.textContent = live ? "Thinking" : "Thought about it";
    this.element.classList.toggle("live", live);
    this.#text.textContent = part.content.trim();
  }
}

class ToolView {
  #name = h("span", { class: "name" });
  #title = h("span", { class: "title" });
  #state = h("span", { class: "state" });
  #inner = h("div", { class: "inner" });
  element = h("details", { class: "fold tool" }, h("summary", {}, icon("tool"), this.#name, this.#title, this.#state, icon("chevron")), this.#inner);

  /** @param {Extract<Part, {kind: "tool"}>} part */
  update(part) {
    const { status } = part;
    this.#name.textContent = part.name;
    this.#title.textContent = part.title;
    this.element.dataset.status = status;
    this.#state.textContent = status === "running" ? "running" : status === "failed" ? "failed" : "done";
    const given = part.arguments && Object.keys(part.arguments).length ? JSON.stringify(part.arguments, null, 2) : "";
    this.#inner.replaceChildren(
      ...(given ? [h("p", { class: "caption" }, "Input"), h("pre", { tabindex: "0", "aria-label": "Input" }, given)] : []),
      ...(part.summary ? [h("p", { class: "caption" }, "Result"), h("pre", { tabindex: "0", "aria-label": "Result" }, part.summary)] : []),
      ...(given || part.summary ? [] : [h("p", { class: "caption" }, "Nothing more is known about this call.")]),
    );
  }
}

/** @param {Part} part */
function keyOf(part) {
  if (part.kind === "tool") return `tool ${part.call_id}`;
  return part.kind === "approval" ? `approval ${part.approval_id}` : part.kind;
}

/** @param {() => void} onclick */
function wholeButton(onclick) {
  return h("button", { type: "button", class: "quiet", onclick }, icon("down"), "Show all of it");
}

/** @param {Entry} entry */
function costText({ duration_ms: duration = 0, usage }) {
  const seconds = duration < 10_000 ? (duration / 1000).toFixed(1) : String(Math.round(duration / 1000));
  const tokens = usage?.output_tokens ? ` · ${usage.output_tokens.toLocaleString()} tokens` : "";
  return `${seconds} s${tokens}`;
}
