/** Web Push in this browser: whether it can be had, and switching it on and off. Permission is asked for by `on` alone. */

import { deviceId, load, save } from "./storage.js";

/** @typedef {import("../agentline.js").Agentline} Agentline */

const WORKER_MS = 5000;

/**
 * @param {Agentline} line
 * @returns {Promise<{key: string | null, on: boolean, reason: string}>} `reason`, for a person, is why there is no switch.
 */
export async function pushState(line) {
  const { devices, webpush_key: key } = await line.request("GET", "/api/devices");
  if (!key) return { key, on: false, reason: "This gateway is not set up for notifications in browsers (Web Push)." };
  const reason = obstacle();
  if (reason) return { key, on: false, reason };
  const worker = await serviceWorker();
  if (!worker) return { key, on: false, reason: "This window keeps no service worker, which shows notifications." };
  const subscription = await worker.pushManager.getSubscription();
  const registered = devices.some((/** @type {any} */ one) => one.device_id === deviceId() && one.platform === "web");
  const on = registered && Notification.permission === "granted" && Boolean(subscription) && sameKey(subscription, key);
  return { key, on, reason: "" };
}

/**
 * Ask for permission, subscribe, and tell the gateway. Call it from a click.
 * @param {Agentline} line @param {string} key
 * @throws {Error} Refused, by a person, the browser or the gateway; its message is for a person.
 */
export async function switchOn(line, key) {
  if ((await Notification.requestPermission()) !== "granted") throw new Error("The browser does not allow notifications of this page.");
  const worker = await serviceWorker();
  if (!worker) throw new Error("The service worker does not start.");
  const former = await worker.pushManager.getSubscription();
  // A subscription is bound to the key that it was made with.
  if (former && !sameKey(former, key)) await former.unsubscribe();
  const subscription = await worker.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: bytes(key) });
  await line.request("PUT", `/api/devices/${encodeURIComponent(deviceId())}`, { platform: "web", token: subscription.toJSON() });
  save("push", true);
}

/** Unsubscribe, and have the gateway forget it. @param {Agentline} line */
export async function switchOff(line) {
  const worker = await serviceWorker();
  await (await worker?.pushManager.getSubscription())?.unsubscribe();
  save("push", null);
  try {
    await line.request("DELETE", `/api/devices/${encodeURIComponent(deviceId())}`);
  } catch (error) {
    if (/** @type {any} */ (error).status !== 404) throw error; // removed already, by the push service's word for instance
  }
}

/** Whether it was switched on here. */
export function wasOn() {
  return load("push") === true;
}

function obstacle() {
  if (!isSecureContext) return "Notifications need an https address.";
  if (!("serviceWorker" in navigator && "PushManager" in globalThis && "Notification" in globalThis)) {
    return "This browser offers none to this page. On an iPhone or iPad, add the console to the home screen first.";
  }
  if (Notification.permission === "denied") return "Notifications of this page are blocked in the browser's settings.";
  return "";
}

/** @returns {Promise<ServiceWorkerRegistration | null>} null where none becomes ready */
function serviceWorker() {
  if (!navigator.serviceWorker) return Promise.resolve(null);
  return Promise.race([navigator.serviceWorker.ready, new Promise((resolve) => setTimeout(() => resolve(null), WORKER_MS))]);
}

/** @param {PushSubscription | null} subscription @param {string} key */
function sameKey(subscription, key) {
  const used = subscription?.options?.applicationServerKey;
  if (!used) return true; // a browser that does not tell
  const [one, other] = [new Uint8Array(used), bytes(key)];
  return one.length === other.length && one.every((byte, index) => byte === other[index]);
}

/** @param {string} base64url */
function bytes(base64url) {
  return Uint8Array.from(atob(base64url.replace(/-/g, "+").replace(/_/g, "/")), (letter) => letter.charCodeAt(0));
}
