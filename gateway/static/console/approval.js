/** A question of the agent to a person: what it is about, a button for each offered answer, free text where asked for. */

import { h, icon } from "./dom.js";

/** @typedef {Extract<import("../agentline.js").Part, {kind: "approval"}>} Approval */

const TITLES = { command: "Wants to run a command", file_change: "Wants to change files", tool: "Wants to use a tool", question: "Asks you" };
const ENDINGS = { approved: "Allowed", declined: "Declined", expired: "Nobody answered in time", cancelled: "Withdrawn" };

export class ApprovalView {
  element = h("section", { class: "approval" });
  #decide;
  #drawn = "";
  #answering = false;

  /** @param {(id: string, decision: string, text?: string) => Promise<boolean>} decide */
  constructor(decide) {
    this.#decide = decide;
  }

  /** @param {Approval} part */
  update(part) {
    const drawn = `${part.approval_id} ${part.decision}`;
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    // The button that was pressed goes away: the focus goes on to where one writes.
    const hadFocus = this.#answering || this.element.contains(document.activeElement);
    this.#answering = false;
    this.element.replaceChildren(...(part.decision === undefined ? this.#question(part) : decided(part)));
    this.element.classList.toggle("decided", part.decision !== undefined);
    this.element.setAttribute("aria-label", part.decision === undefined ? "Approval needed" : "Approval");
    if (hadFocus && !matchMedia("(pointer: coarse)").matches) document.getElementById("message")?.focus();
  }

  /** @param {Approval} part */
  #question(part) {
    const { kind, detail, options, free_text: freeText, expires_at: expiresAt } = part.request;
    const field = freeText ? h("input", { type: "text", class: "answer", placeholder: "Add an answer in words", "aria-label": "Your answer", autocomplete: "off" }) : null;
    const buttons = options.map((/** @type {{id: string, label: string}} */ option, /** @type {number} */ index) =>
      h("button", { type: "button", class: index === 0 && option.id === "approved" ? "primary" : option.id === "declined" ? "plain decline" : "plain", onclick: () => answer(option.id) }, option.label),
    );
    const answer = async (/** @type {string} */ decision) => {
      for (const button of buttons) button.disabled = true;
      this.#answering = true;
      const told = await this.#decide(part.approval_id, decision, field?.value.trim() || undefined);
      if (told) return;
      this.#answering = false;
      for (const button of buttons) button.disabled = false;
    };
    field?.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.isComposing) return;
      event.preventDefault();
      if (options[0]?.id === "approved") void answer("approved");
      else buttons[0]?.focus();
    });
    return [
      h("p", { class: "kind" }, icon("alert"), h("span", {}, TITLES[/** @type {keyof typeof TITLES} */ (kind)] ?? "Needs your decision")),
      h("p", { class: "question" }, part.title),
      ...drawDetail(detail ?? {}),
      field,
      h("div", { class: "options" }, ...buttons, h("span", { class: "until" }, untilText(expiresAt))),
    ].filter(Boolean);
  }
}

/** @param {Approval} part */
function decided(part) {
  const { options } = part.request;
  const label = options.find((/** @type {{id: string}} */ option) => option.id === part.decision)?.label;
  const ending = ENDINGS[/** @type {keyof typeof ENDINGS} */ (part.decision ?? "")] ?? label ?? part.decision;
  const positive = !["declined", "expired", "cancelled"].includes(part.decision ?? "");
  return [h("p", { class: "outcome" }, icon(positive ? "check" : "close"), h("span", { class: "what" }, part.title), h("span", { class: "ending" }, ending))];
}

/** @param {Record<string, any>} detail */
function drawDetail({ command, cwd, diff, ...rest }) {
  const drawn = [];
  if (command !== undefined) {
    const text = Array.isArray(command) ? command.join(" ") : String(command);
    drawn.push(h("pre", { class: "command", tabindex: "0", "aria-label": "Command" }, h("code", {}, text)));
    if (cwd) drawn.push(h("p", { class: "where" }, "in ", h("code", {}, String(cwd))));
  }
  if (typeof diff === "string") drawn.push(drawDiff(diff));
  const pairs = Object.entries(rest).filter(([, value]) => value !== null && value !== undefined);
  if (pairs.length) {
    const shown = pairs.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value))]);
    drawn.push(h("dl", {}, ...shown));
  }
  return drawn;
}

/** @param {string} diff */
function drawDiff(diff) {
  const lines = diff.replace(/\n$/, "").split("\n");
  const kind = (/** @type {string} */ line) => (/^(\+\+\+|---|@@)/.test(line) ? "meta" : line[0] === "+" ? "added" : line[0] === "-" ? "removed" : null);
  return h("pre", { class: "diff", tabindex: "0", "aria-label": "Changes" }, ...lines.map((line) => h("span", { class: kind(line) }, `${line}\n`)));
}

/** @param {string} expiresAt */
function untilText(expiresAt) {
  const time = new Date(expiresAt);
  if (Number.isNaN(time.getTime())) return "";
  const sameDay = time.toDateString() === new Date().toDateString();
  const clock = time.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
  return `waits until ${sameDay ? clock : `${time.toLocaleDateString()} ${clock}`}`;
}
