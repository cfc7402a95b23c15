/** Where a person writes: Enter sends, except on a touch keyboard; a draft survives a reload. */

import { byId } from "./dom.js";
import { load, save } from "./storage.js";

/** @typedef {import("./model.js").Model} Model */

export class Composer {
  #model;
  #form = byId("composer");
  #field = byId("message");
  #send = byId("send");
  #stop = byId("stop");
  #touch = matchMedia("(pointer: coarse)");
  #key = "";

  /** @param {Model} model @param {(content: string) => void} submit */
  constructor(model, submit) {
    this.#model = model;
    this.#form.onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      const content = this.#field.value;
      if (!content.trim()) return;
      this.#field.value = "";
      this.#changed();
      submit(content);
      this.#field.focus();
    };
    this.#field.oninput = () => this.#changed();
    this.#field.onkeydown = (/** @type {KeyboardEvent} */ event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || this.#touch.matches) return;
      event.preventDefault();
      this.#form.requestSubmit();
    };
    this.#stop.onclick = () => {
      void this.#model.cancel();
      this.#field.focus();
    };
    // A click beside the field is meant for it.
    this.#form.addEventListener("click", (/** @type {Event} */ event) => event.target === this.#form && this.#field.focus());
  }

  /** @param {string} text */
  fill(text) {
    this.#field.value = text;
    this.#changed();
    this.focus(true);
  }

  /** On a touch screen a focus opens the keyboard: only where a person asked for it. @param {boolean} [asked] */
  focus(asked = false) {
    if (asked || !this.#touch.matches) this.#field.focus({ preventScroll: true });
  }

  render() {
    const key = `draft.${this.#model.open?.threadId ?? "new"}`;
    if (key !== this.#key) {
      this.#key = key;
      this.#field.value = load(key) ?? "";
      this.#grow();
    }
    const { running } = this.#model;
    const writes = this.#field.value.trim() !== "";
    this.#stop.hidden = !running;
    this.#send.hidden = Boolean(running) && !writes;
    this.#send.disabled = !writes;
    this.#field.placeholder = running ? "Write what comes next" : `Message ${this.#model.speaker}`;
  }

  #changed() {
    save(this.#key, this.#field.value || null);
    this.#grow();
    this.render();
  }

  #grow() {
    this.#field.style.height = "auto";
    this.#field.style.height = `${Math.min(this.#field.scrollHeight, innerHeight * 0.4)}px`;
  }
}
