/** The open thread: its messages in order, those on their way, and a scroll position that follows the answer. */

import { byId, h, icon } from "./dom.js";
import { AnswerView, UserView } from "./message.js";

/** @typedef {import("./model.js").Model} Model @typedef {import("../agentline.js").Entry} Entry */

const NEAR_PX = 80;

export class Conversation {
  #model;
  #scroller = byId("transcript");
  #messages = byId("messages");
  #pending = byId("pending");
  #earlier = byId("earlier");
  #toEnd = byId("to-end");
  /** @type {Map<string, UserView | AnswerView>} */ #views = new Map();
  /** @type {string | null | undefined} */ #threadId = undefined;
  #pendingDrawn = "";
  #following = true;
  #actions;

  /** @param {Model} model */
  constructor(model) {
    this.#model = model;
    this.#actions = {
      decide: (/** @type {string} */ id, /** @type {string} */ decision, /** @type {string | undefined} */ text) => model.decide(id, decision, text),
      retry: (/** @type {string} */ turnId) => void model.retry(turnId),
      whole: (/** @type {Entry} */ entry) => void model.whole(entry),
    };
    this.#scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    // Pictures of text grow too: when the keyboard of a phone opens, or a fold.
    new ResizeObserver(() => this.#following && this.#jump()).observe(this.#messages);
    new ResizeObserver(() => this.#following && this.#jump()).observe(this.#scroller);
    this.#toEnd.onclick = () => {
      this.#following = true;
      this.#scroller.scrollTo({ top: this.#scroller.scrollHeight, behavior: "smooth" });
    };
    this.#earlier.onclick = () => void this.#loadEarlier();
  }

  /** The next change is shown from its end. */
  follow() {
    this.#following = true;
  }

  render() {
    const { open, moreHistory, threads } = this.#model;
    if (this.#threadId !== (open?.threadId ?? null)) {
      this.#threadId = open?.threadId ?? null;
      this.#views.clear();
      this.#messages.replaceChildren();
      this.#following = true;
    }
    const entries = withoutRepeats(open?.messages ?? []);
    const agent = this.#model.speaker;
    let place = this.#messages.firstElementChild;
    const keys = new Set();
    entries.forEach((entry, index) => {
      const key = entry.role === "user" ? `u ${entry.message_id}` : `a ${entry.turn_id}`;
      keys.add(key);
      let view = this.#views.get(key);
      if (!view) {
        view = entry.role === "user" ? new UserView(this.#actions) : new AnswerView(this.#actions, agent);
        this.#views.set(key, view);
      }
      view.update(entry, index === entries.length - 1);
      if (place === view.element) place = place.nextElementSibling;
      else this.#messages.insertBefore(view.element, place);
    });
    for (const [key, view] of this.#views) {
      if (keys.has(key)) continue;
      view.element.remove();
      this.#views.delete(key);
    }
    this.#earlier.hidden = !moreHistory || entries.length < 30 || !threads.has(open?.threadId ?? "");
    this.#drawPending();
    if (this.#following) this.#jump();
  }

  #drawPending() {
    const mine = this.#model.pending.filter((one) => one.threadId === this.#model.open?.threadId);
    const drawn = JSON.stringify(mine);
    if (drawn === this.#pendingDrawn) return;
    this.#pendingDrawn = drawn;
    this.#pending.replaceChildren(
      ...mine.map((one) => {
        const withdraw = h("button", { type: "button", class: "quiet", onclick: () => void this.#model.withdraw(one) }, one.state === "queued" ? "Cancel" : "Discard");
        const resend = h("button", { type: "button", class: "quiet", onclick: () => this.#model.resend(one) }, icon("retry"), "Send again");
        const status = { sending: "Sending…", queued: "Waits for the answer before it", failed: one.problem || "Not sent" }[one.state];
        return h(
          "article",
          { class: `message user pending ${one.state}`, "aria-label": "You, not answered yet" },
          h("div", { class: "bubble" }, one.content),
          h("p", { class: "status" }, status, one.state === "failed" && resend, one.state !== "sending" && withdraw),
        );
      }),
    );
  }

  async #loadEarlier() {
    const fromEnd = this.#scroller.scrollHeight - this.#scroller.scrollTop;
    this.#following = false;
    await this.#model.loadHistory();
    requestAnimationFrame(() => (this.#scroller.scrollTop = this.#scroller.scrollHeight - fromEnd));
  }

  #scrolled() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    this.#following = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.#toEnd.hidden = this.#following;
  }

  #jump() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}

/** A retry asks the same again: the question is shown once. @param {Entry[]} entries */
function withoutRepeats(entries) {
  return entries.filter((entry, index) => {
    if (entry.role !== "user" || index < 2) return true;
    const [question, answer] = [entries[index - 2], entries[index - 1]];
    const unfinished = answer.role === "assistant" && ["failed", "interrupted", "cancelled"].includes(answer.status ?? "");
    return !(unfinished && !entry.id && question.role === "user" && question.content === entry.content);
  });
}
