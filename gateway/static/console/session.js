/** Who is signed in: a token from the address's fragment, from an earlier visit, or from the sign-in form. */

import { byId } from "./dom.js";
import { clearAll, load, save } from "./storage.js";

/**
 * The token to use, or null. One in the fragment (`#token=…`; fragments are not sent to servers) is kept, and taken out of
 * the address bar and the history at once.
 * @returns {string | null}
 */
export function currentToken() {
  const match = /^#(?:.*&)?token=([^&]+)/.exec(location.hash);
  if (match) {
    history.replaceState(null, "", location.pathname);
    keepToken(decoded(match[1]));
  }
  return load("token");
}

/**
 * The token that the one-time code of a pairing link (`#pair=…`) is exchanged for, or null if the address holds none.
 * @returns {Promise<string | null>}
 * @throws {Error} The code is not good any more; its message is for a person.
 */
export async function pairedToken() {
  const match = /^#(?:.*&)?pair=([^&]+)/.exec(location.hash);
  if (!match) return null;
  history.replaceState(null, "", location.pathname);
  const body = JSON.stringify({ code: decoded(match[1]), device_name: deviceName() });
  const answer = await fetch("/api/pair", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  if (!answer.ok) throw new Error("This pairing code is used up or too old. Ask for a new one.");
  const { token } = await answer.json();
  keepToken(token);
  return token;
}

function deviceName() {
  const system = /Android|iPhone|iPad|Mac|Windows|Linux/.exec(navigator.userAgent)?.[0];
  return system ? `Browser on ${system}` : "Browser";
}

/** @param {string} token */
export function keepToken(token) {
  if (load("token") !== token) clearAll();
  save("token", token);
}

/**
 * Show the form until somebody signs in.
 * @param {string} reason Empty, or why the last token did not do.
 * @param {(token: string) => void} signedIn
 */
export function showSignIn(reason, signedIn) {
  const form = byId("sign-in");
  const field = byId("token");
  const problem = byId("sign-in-problem");
  problem.textContent = reason;
  field.setAttribute("aria-invalid", String(Boolean(reason)));
  byId("app").hidden = true;
  form.hidden = false;
  const leaving = new AbortController();
  const enter = (/** @type {string} */ token) => {
    leaving.abort();
    form.hidden = true;
    signedIn(token);
  };
  // A link pasted into the address bar of this very page.
  const opened = () => {
    const token = currentToken();
    if (token) enter(token);
  };
  addEventListener("hashchange", opened, { signal: leaving.signal });
  form.onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    // A whole link does as well as the token in it.
    const token = decoded(/[#&]token=([^&\s]+)/.exec(field.value)?.[1] ?? field.value).trim();
    if (!token) {
      problem.textContent = "Paste a token, or the whole link.";
      field.focus();
      return;
    }
    field.value = "";
    keepToken(token);
    enter(token);
  };
  field.focus();
}

/** @param {string} text */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
