/**
 * What the console keeps in this browser: the token, and each thread as last seen together with its cursor, so that a
 * reload shows it at once and goes on exactly there. Storage may be full or forbidden: then nothing is kept, and the
 * gateway shows the thread anew.
 */

import { newId } from "../agentline.js";

const PREFIX = "agentline.";
const THREADS_KEPT = 20;
const MESSAGES_KEPT = 60;
const THREAD_CHARS = 300_000;

/** @param {string} name @returns {any} */
export function load(name) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name) ?? "null");
  } catch {
    return null;
  }
}

/** @param {string} name @param {unknown} value null removes it */
export function save(name, value) {
  try {
    if (value === null || value === undefined) localStorage.removeItem(PREFIX + name);
    else localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // See above.
  }
}

/** This browser's name as a device, the same for the socket and for push. Made on first use, gone with the user. */
export function deviceId() {
  const kept = load("device_id") ?? unkept ?? newId();
  unkept = kept;
  if (load("device_id") !== kept) save("device_id", kept);
  return kept;
}
/** @type {string | null} */ let unkept = null;

/** Everything of the former user goes with the token. */
export function clearAll() {
  unkept = null;
  try {
    for (const key of Object.keys(localStorage)) if (key.startsWith(PREFIX)) localStorage.removeItem(key);
  } catch {
    // See above.
  }
}

/** @param {string} threadId @returns {import("../agentline.js").Thread | null} */
export function loadThread(threadId) {
  const thread = load(`thread.${threadId}`);
  return thread?.threadId === threadId && thread.cursor && Array.isArray(thread.messages) ? thread : null;
}

/** @param {import("../agentline.js").Thread} thread */
export function saveThread(thread) {
  const recent = [thread.threadId, ...(load("recent") ?? []).filter((/** @type {string} */ id) => id !== thread.threadId)];
  for (const old of recent.splice(THREADS_KEPT)) save(`thread.${old}`, null);
  save("recent", recent);
  const kept = { ...thread, messages: thread.messages.slice(-MESSAGES_KEPT) };
  // An older state with an older cursor resumes as exactly, so a thread that has grown too large is simply forgotten.
  save(`thread.${thread.threadId}`, JSON.stringify(kept).length <= THREAD_CHARS ? kept : null);
}

/** @param {string} threadId */
export function forgetThread(threadId) {
  save(`thread.${threadId}`, null);
  save(`draft.${threadId}`, null);
}
