/** Building DOM nodes. Text only ever becomes text nodes: there is no way from a string to markup here. */

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties] `class`, `on…` listeners, attributes; `true` is an empty attribute, null none.
 * @param {...(Node | string | null | undefined | false)} children
 * @returns {any}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** @param {string} id @returns {any} */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

const PATHS = {
  alert: "M12 8v5m0 3.5v.01M10.3 3.9 2.4 17.6A2 2 0 0 0 4.1 20.6h15.8a2 2 0 0 0 1.7-3L13.7 3.9a2 2 0 0 0-3.4 0Z",
  check: "m5 12.5 4.5 4.5L19 7.5",
  chevron: "m9 6 6 6-6 6",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h10v11H9zM15 9V4H5v11h4",
  down: "M12 5v14m-6-6 6 6 6-6",
  menu: "M4 7h16M4 12h16M4 17h10",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  plus: "M12 5v14M5 12h14",
  retry: "M4 12a8 8 0 1 1 2.4 5.7M4 12V6.5M4 12h5.5",
  send: "M12 19V5m-6 6 6-6 6 6",
  stop: "M7 7h10v10H7z",
  thought: "M9.5 18.5h5M10.5 21h3M12 3a6.5 6.5 0 0 0-3.6 11.9c.7.5 1.1 1.2 1.1 2v.6h5v-.6c0-.8.4-1.5 1.1-2A6.5 6.5 0 0 0 12 3Z",
  tool: "m5 8 4 4-4 4M12 17h7",
};

/** A drawing beside a text that says the same, so hidden from screen readers. @param {keyof typeof PATHS} name */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button that copies; it says so for a moment. @param {() => string} text @param {string} label */
export function copyButton(text, label) {
  const caption = h("span", {}, "Copy");
  const button = h("button", { type: "button", class: "quiet copy", "aria-label": label, onclick: copy }, icon("copy"), caption);
  async function copy() {
    await copyText(text());
    button.replaceChild(icon("check"), button.firstChild);
    caption.textContent = "Copied";
    setTimeout(() => {
      button.replaceChild(icon("copy"), button.firstChild);
      caption.textContent = "Copy";
    }, 1500);
  }
  return button;
}

/** `navigator.clipboard` exists on https pages and localhost only. @param {string} text */
async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = h("textarea", { class: "visually-hidden", readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
