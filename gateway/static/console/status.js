/** What is going on, for eyes and for ears: the connection's banner, and short announcements for screen readers. */

import { byId } from "./dom.js";

/** @typedef {import("./model.js").Model} Model */

const PATIENCE_MS = 700;
const SPOKEN_CHARS = 400;

export class Status {
  #model;
  #banner = byId("banner");
  #text = byId("banner-text");
  #button = byId("reconnect");
  #dot = byId("connection");
  #polite = byId("announcer");
  #urgent = byId("alarm");
  /** @type {any} */ #timer = null;
  /** @type {string | null} */ #running = null;
  #asked = new Set();
  #lost = false;

  /** @param {Model} model */
  constructor(model) {
    this.#model = model;
    this.#button.onclick = () => model.line.connect();
    addEventListener("online", () => this.render());
    addEventListener("offline", () => this.render());
  }

  render() {
    this.#drawConnection();
    this.#announce();
  }

  #drawConnection() {
    const { state } = this.#model.line;
    const online = state === "online";
    this.#dot.dataset.state = online ? "online" : state === "refused" ? "refused" : "away";
    this.#dot.setAttribute("aria-label", online ? "Connected" : "Not connected");
    this.#dot.title = online ? "Connected" : "Not connected";
    if (online || state === "closed") {
      clearTimeout(this.#timer);
      this.#timer = null;
      this.#banner.hidden = true;
      if (this.#lost && online) this.#say("Connected again.");
      this.#lost = false;
      return;
    }
    this.#text.textContent = this.#words(state);
    // A connection that is back in a blink is not worth a word.
    this.#timer ??= setTimeout(() => {
      this.#banner.hidden = false;
      this.#lost = true;
      this.#say(this.#text.textContent ?? "");
    }, PATIENCE_MS);
  }

  /** @param {string} state */
  #words(state) {
    if (state === "refused") return "The server closed this connection. The console may be open in too many places.";
    if (!navigator.onLine) return "You are offline. What you write is sent when you are back.";
    return "Connecting again. Answers go on meanwhile, and nothing is lost.";
  }

  #announce() {
    const { running, speaker, open } = this.#model;
    const turnId = running?.turn_id ?? null;
    if (turnId !== this.#running) {
      const ended = open?.messages.find((entry) => entry.turn_id === this.#running && entry.role === "assistant");
      if (turnId) this.#say(`${speaker} is answering.`);
      else if (ended) this.#say(`${ended.status === "completed" ? "Answer" : `Answer ${ended.status}`}: ${ended.content.slice(0, SPOKEN_CHARS)}`);
      this.#running = turnId;
    }
    for (const part of running?.parts ?? []) {
      if (part.kind !== "approval" || part.decision !== undefined || this.#asked.has(part.approval_id)) continue;
      this.#asked.add(part.approval_id);
      this.#urgent.textContent = `${speaker} needs your decision: ${part.title}`;
    }
  }

  /** @param {string} text */
  #say(text) {
    this.#polite.textContent = text;
  }
}
