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
    form.hidden = true;
    keepToken(token);
    signedIn(token);
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
