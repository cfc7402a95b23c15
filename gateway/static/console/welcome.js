/** An empty thread: which agent to speak to, and for the demo agent what to try. */

import { byId, h, icon } from "./dom.js";

/** @typedef {import("./model.js").Model} Model */

const TRIES = [
  ["Show me Markdown", "/markdown"],
  ["Use a tool, ask me first", "/reasoning I should look before I change anything.\n/tool\n/approval command\n/echo All done."],
  ["Ask me a question", "/approval question"],
  ["Count slowly, so that I can leave and come back", "/pieces 120 0.25"],
];

export class Welcome {
  #model;
  #fill;
  #welcome = byId("welcome");
  #agents = byId("agents");
  #tries = byId("tries");
  #reason = byId("reason");
  #drawn = "";

  /** @param {Model} model @param {(text: string) => void} fill */
  constructor(model, fill) {
    this.#model = model;
    this.#fill = fill;
  }

  render() {
    const { open, agents, agent } = this.#model;
    this.#welcome.hidden = open !== null;
    document.body.classList.toggle("welcoming", open === null);
    const drawn = JSON.stringify([agents, agent]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const hadFocus = this.#agents.contains(document.activeElement);
    this.#agents.replaceChildren(
      ...agents.map(({ name, configured }) => {
        const button = h("input", { type: "radio", name: "agent", value: name, disabled: !configured, checked: name === agent, onchange: () => (this.#model.agent = name) });
        return h("label", { class: configured ? null : "unavailable" }, button, h("span", {}, name));
      }),
    );
    if (hadFocus) this.#agents.querySelector("input:checked")?.focus();
    const missing = agents.filter(({ configured }) => !configured);
    const reasons = missing.map(({ name, reason }) => h("p", {}, h("strong", {}, name), ` is not set up: ${reason ?? "its settings are missing"}`));
    const names = missing.map(({ name }) => name).join(", ");
    const summary = h("summary", {}, h("span", { class: "title" }, `Not set up: ${names}`), icon("chevron"));
    this.#reason.replaceChildren(...(missing.length ? [h("details", { class: "fold" }, summary, h("div", { class: "inner" }, ...reasons))] : []));
    const demo = agents.find(({ name }) => name === agent)?.name === "demo";
    this.#tries.replaceChildren(...(demo ? TRIES.map(([label, text]) => h("button", { type: "button", onclick: () => this.#fill(text) }, h("span", {}, label), icon("chevron"))) : []));
  }
}
