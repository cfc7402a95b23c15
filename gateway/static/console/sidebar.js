/** The list of threads, by day, and the drawer that it is on a phone. */

import { byId, h } from "./dom.js";

/** @typedef {import("./model.js").Model} Model @typedef {import("./model.js").Summary} Summary */

const DAY_MS = 86_400_000;

export class Sidebar {
  #model;
  #list = byId("threads");
  #more = byId("more-threads");
  #drawer = byId("sidebar");
  #opener = byId("open-sidebar");
  #narrow = matchMedia("(max-width: 48rem)");
  #drawn = "";

  /** @param {Model} model @param {() => void} startNew */
  constructor(model, startNew) {
    this.#model = model;
    byId("new-thread").onclick = () => {
      this.close();
      startNew();
    };
    this.#opener.onclick = () => this.#openDrawer();
    byId("close-sidebar").onclick = () => this.close();
    byId("open-devices").addEventListener("click", () => this.close());
    byId("scrim").onclick = () => this.close();
    this.#drawer.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => event.key === "Escape" && this.close());
    this.#list.addEventListener("click", (/** @type {Event} */ event) => /** @type {Element} */ (event.target).closest("a") && this.close());
    this.#more.onclick = () => void model.loadThreads();
    this.#narrow.onchange = () => this.close();
    this.close();
  }

  render() {
    const { threads, open, moreThreads } = this.#model;
    const sorted = [...threads.values()].sort((one, other) => (one.updated_at < other.updated_at ? 1 : -1));
    const drawn = JSON.stringify([sorted.map(({ preview, ...rest }) => rest), open?.threadId, new Date().getDate()]);
    this.#more.hidden = moreThreads === null;
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    const focused = this.#list.contains(document.activeElement) ? document.activeElement?.getAttribute("href") : null;
    const groups = Map.groupBy ? Map.groupBy(sorted, dayOf) : grouped(sorted);
    this.#list.replaceChildren(
      ...[...groups].map(([day, members]) =>
        h("section", {}, h("h2", {}, day), h("ul", {}, ...members.map((/** @type {Summary} */ one) => this.#item(one, one.thread_id === open?.threadId)))),
      ),
      sorted.length ? "" : h("p", { class: "hint" }, "Your conversations will be here."),
    );
    if (focused) this.#list.querySelector(`a[href="${CSS.escape(focused)}"]`)?.focus();
  }

  /** @param {Summary} summary @param {boolean} current */
  #item(summary, current) {
    const running = summary.status === "running";
    const unread = !current && summary.unread > 0;
    const states = [running && "answering", unread && `${summary.unread} unread`].filter(Boolean).join(", ");
    return h(
      "li",
      {},
      h(
        "a",
        { href: `#/t/${summary.thread_id}`, "aria-current": current ? "page" : null, class: unread ? "unread" : null },
        h("span", { class: "title" }, summary.title || "Untitled"),
        running ? h("span", { class: "pulse" }) : unread ? h("span", { class: "badge", "aria-hidden": "true" }, String(summary.unread)) : null,
        states && h("span", { class: "visually-hidden" }, `, ${states}`),
      ),
    );
  }

  #openDrawer() {
    document.body.classList.add("drawer-open");
    this.#setInert(false);
    this.#opener.setAttribute("aria-expanded", "true");
    byId("main").inert = true;
    byId("new-thread").focus();
  }

  close() {
    const wasOpen = document.body.classList.contains("drawer-open");
    document.body.classList.remove("drawer-open");
    this.#setInert(this.#narrow.matches);
    this.#opener.setAttribute("aria-expanded", "false");
    byId("main").inert = false;
    if (wasOpen) this.#opener.focus();
  }

  /** @param {boolean} inert */
  #setInert(inert) {
    this.#drawer.inert = inert;
  }
}

/** @param {Summary} summary */
function dayOf({ updated_at: at }) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const time = Date.parse(at);
  if (!(time < midnight)) return "Today";
  if (time >= midnight - DAY_MS) return "Yesterday";
  if (time >= midnight - 7 * DAY_MS) return "Previous 7 days";
  return new Date(time).toLocaleDateString(undefined, { month: "long", year: "numeric" });
}

/** `Map.groupBy`, for browsers of before 2024. @param {Summary[]} summaries @returns {Map<string, Summary[]>} */
function grouped(summaries) {
  const groups = new Map();
  for (const summary of summaries) groups.set(dayOf(summary), [...(groups.get(dayOf(summary)) ?? []), summary]);
  return groups;
}
