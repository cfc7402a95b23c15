/** The picture with which a phone is paired: drawn, counted down, and made anew when it was used or ran out. */

import { byId, copyButton, h } from "./dom.js";

/** @typedef {import("../agentline.js").Agentline} Agentline */

const SVG = "http://www.w3.org/2000/svg";
/** How long a code is good; also the guess where this device's clock disagrees with the gateway's. */
const LIFE_MS = 120_000;

export class PairingCode {
  #line;
  #place = byId("pair-code");
  #left = byId("pair-left");
  #until = 0;
  #asking = false;

  /** @param {Agentline} line */
  constructor(line) {
    this.#line = line;
  }

  /** Ask for a new code and show it. Rejects as `line.request` does. */
  async renew() {
    if (this.#asking) return;
    this.#asking = true;
    try {
      const { url, qr, warning, expires_at: expiresAt } = await this.#line.request("POST", "/api/pair/codes");
      const life = Date.parse(expiresAt) - Date.now();
      this.#until = Date.now() + (life > 0 && life <= LIFE_MS ? life : LIFE_MS);
      const link = h("div", { class: "pair-link" }, h("code", {}, url), copyButton(() => url, "Copy the link"));
      this.#place.replaceChildren(picture(qr), link, ...(warning ? [h("p", { class: "hint warning" }, warning)] : []));
      this.count();
    } finally {
      this.#asking = false;
    }
  }

  /** Show the time that is left. @returns {boolean} whether there is any */
  count() {
    const seconds = Math.max(0, Math.ceil((this.#until - Date.now()) / 1000));
    this.#left.textContent = seconds ? `Good for ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` : "This code has run out.";
    return seconds > 0;
  }

  clear() {
    this.#until = 0;
    this.#place.replaceChildren();
    this.#left.textContent = "";
  }
}

/** Dark modules on a light square. @param {{size: number, path: string}} qr */
function picture({ size, path }) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${size} ${size}`);
  svg.setAttribute("class", "qr");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "The pairing link as a QR code");
  svg.setAttribute("shape-rendering", "crispEdges");
  const modules = document.createElementNS(SVG, "path");
  modules.setAttribute("d", path);
  svg.append(modules);
  return svg;
}
