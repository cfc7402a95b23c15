/** The dialog about devices: notifications here, pairing a phone, and the phones that are paired. */

import { byId, h } from "./dom.js";
import { pushState, switchOff, switchOn, wasOn } from "./notify.js";
import { PairingCode } from "./pairing.js";

/**
 * @typedef {import("../agentline.js").Agentline} Agentline
 * @typedef {{id: string, device_name: string, created_at: string, current: boolean}} Paired
 */

const TICK_MS = 1000;
const TICKS_PER_LOOK = 3;
/** Signing out does not wait longer than this for a network. */
const FORGET_MS = 2000;

export class Devices {
  #line;
  #code;
  #dialog = byId("devices-dialog");
  #problem = byId("devices-problem");
  #list = byId("paired");
  #row = byId("notify-row");
  #switch = byId("notify");
  #reason = byId("notify-reason");
  /** @type {any} */ #timer = null;
  #ticks = 0;
  /** @type {Paired[]} */ #paired = [];
  #drawn = "";
  /** The device whose button was pressed once. */
  #armed = "";
  /** @type {string | null} */ #key = null;

  /** @param {Agentline} line */
  constructor(line) {
    this.#line = line;
    this.#code = new PairingCode(line);
    byId("open-devices").onclick = () => this.#open();
    byId("close-devices").onclick = () => this.close();
    this.#dialog.onclose = () => this.#closed();
    this.#switch.onchange = () => void this.#toggle(this.#switch.checked);
  }

  close() {
    if (this.#dialog.open) this.#dialog.close();
  }

  /** The user leaves: no more notifications of theirs are shown here. Takes two seconds at most, and never rejects. */
  async forget() {
    if (!wasOn()) return;
    await Promise.race([switchOff(this.#line).catch(() => {}), new Promise((resolve) => setTimeout(resolve, FORGET_MS))]);
  }

  #open() {
    this.#say("");
    this.#row.hidden = true;
    this.#reason.hidden = true;
    this.#dialog.showModal();
    this.#ticks = 0;
    this.#drawn = "";
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#tick(), TICK_MS);
    void this.#attempt(() => this.#code.renew());
    void this.#attempt(() => this.#look(true));
    void this.#attempt(() => this.#showSwitch());
  }

  #closed() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#armed = "";
    this.#code.clear();
  }

  #tick() {
    const good = this.#code.count();
    if (document.visibilityState !== "visible") return;
    this.#ticks += 1;
    if (!good && this.#ticks % TICKS_PER_LOOK === 0) void this.#attempt(() => this.#code.renew());
    if (this.#ticks % TICKS_PER_LOOK === 0) this.#look(false).catch(() => {}); // the next look may do
  }

  /** @param {boolean} first Whether the dialog has just opened: what is there then was not paired with this picture. */
  async #look(first) {
    const { devices } = await this.#line.request("GET", "/api/pair/devices");
    const known = new Set(this.#paired.map((one) => one.id));
    const more = !first && devices.some((/** @type {Paired} */ one) => !known.has(one.id));
    this.#paired = devices;
    this.#draw();
    // The code works once.
    if (more && this.#timer !== null) await this.#code.renew();
  }

  #draw() {
    const drawn = JSON.stringify([this.#paired, this.#armed]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const focused = this.#list.contains(document.activeElement) ? /** @type {any} */ (document.activeElement)?.dataset.id : null;
    this.#list.replaceChildren(...this.#paired.map((one) => this.#item(one)), ...(this.#paired.length ? [] : [h("li", { class: "hint" }, "None yet.")]));
    if (focused) this.#list.querySelector(`button[data-id="${CSS.escape(focused)}"]`)?.focus();
  }

  /** @param {Paired} device */
  #item({ id, device_name: name, created_at: at, current }) {
    const armed = id === this.#armed;
    const label = name || "A device without a name";
    const when = `Paired ${new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" })}`;
    const press = () => {
      this.#say("");
      if (armed) void this.#attempt(() => this.#revoke(id));
      else this.#arm(id);
    };
    return h(
      "li",
      { "aria-current": current ? "true" : null },
      h("span", { class: "device" }, label, current && h("strong", {}, " · this device"), h("small", {}, when)),
      h(
        "button",
        { type: "button", class: armed ? "plain decline" : "plain", "data-id": id, "aria-label": `${armed ? "Really revoke" : "Revoke"} ${label}`, onclick: press },
        armed ? "Really revoke?" : "Revoke",
      ),
    );
  }

  /** @param {string} id */
  #arm(id) {
    this.#armed = id;
    this.#draw();
  }

  /** @param {string} id */
  async #revoke(id) {
    await this.#line.request("DELETE", `/api/pair/devices/${encodeURIComponent(id)}`);
    this.#armed = "";
    await this.#look(false);
  }

  async #showSwitch() {
    const { key, on, reason } = await pushState(this.#line);
    this.#key = key;
    this.#switch.checked = on;
    this.#row.hidden = Boolean(reason);
    this.#reason.textContent = reason;
    this.#reason.hidden = !reason;
  }

  /** @param {boolean} on */
  async #toggle(on) {
    this.#say("");
    this.#switch.disabled = true;
    await this.#attempt(() => (on && this.#key ? switchOn(this.#line, this.#key) : switchOff(this.#line)));
    this.#switch.disabled = false;
    await this.#showSwitch().catch(() => {});
  }

  /** @param {() => Promise<void>} action */
  async #attempt(action) {
    try {
      await action();
    } catch (error) {
      this.#say(/** @type {Error} */ (error).message);
    }
  }

  /** @param {string} problem */
  #say(problem) {
    this.#problem.textContent = problem;
    this.#problem.hidden = !problem;
  }
}
