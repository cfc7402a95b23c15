/**
 * Keeps the console's own files for when there is no network. The network comes first, so that an updated gateway is an
 * updated console. Answers of `/api/…` are never touched and never kept. Shows what is pushed (docs/push.md).
 */

const CACHE = "agentline-shell";
const PATIENCE_MS = 3000;
const FETCH_MS = 5000;
const PHRASES = { turn: "New answer", approval: "A decision is needed", test: "This is a test notification" };
const THREAD_ID = /^[A-Za-z0-9_-]{1,64}$/;
const SHELL = [
  "/",
  "/agentline.js",
  "/console.css",
  "/console.js",
  "/console/approval.js",
  "/console/composer.js",
  "/console/conversation.js",
  "/console/devices.js",
  "/console/dom.js",
  "/console/markdown-inline.js",
  "/console/markdown-view.js",
  "/console/markdown.js",
  "/console/message.js",
  "/console/model.js",
  "/console/notify.js",
  "/console/pairing.js",
  "/console/session.js",
  "/console/sidebar.js",
  "/console/status.js",
  "/console/storage.js",
  "/console/welcome.js",
  "/icon-180.png",
  "/icon-192.png",
  "/icon-512.png",
  "/icon-maskable-512.png",
  "/icon.svg",
  "/manifest.webmanifest",
];

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(SHELL))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { origin, pathname } = new URL(event.request.url);
  if (event.request.method === "GET" && origin === self.location.origin && SHELL.includes(pathname)) {
    event.respondWith(shell(event, pathname));
  }
});

async function shell(event, pathname) {
  const cache = await caches.open(CACHE);
  const fresh = fetch(event.request).then(async (answer) => {
    if (answer.ok) await cache.put(pathname, answer.clone());
    return answer;
  });
  event.waitUntil(fresh.catch(() => {}));
  const patience = new Promise((resolve) => setTimeout(resolve, PATIENCE_MS));
  // A slow or absent network: what is kept, if anything is.
  const answer = await Promise.race([fresh, patience]).catch(() => undefined);
  return answer ?? (await cache.match(pathname)) ?? fresh;
}

self.addEventListener("push", (event) => event.waitUntil(show(event.data)));

self.addEventListener("notificationclick", (event) => {
  event.notification.close();
  event.waitUntil(open(event.notification.data?.thread));
});

/** Always shows something: a push that shows nothing costs the page its permission. */
async function show(data) {
  let push = {};
  try {
    push = data?.json() ?? {};
  } catch {
    // Not from this gateway.
  }
  const { kind = "turn", title, agent, thread_id: thread, turn_id: turn, approval_id: approval } = push;
  const options = {
    body: push.body || (kind === "turn" && (await fetched(push))) || PHRASES[kind] || "",
    // A repeat of one push takes the place of the first.
    tag: approval ? `approval-${approval}` : `turn-${turn}`,
    icon: "/icon-192.png",
    requireInteraction: kind === "approval",
    data: { thread: kind !== "test" && THREAD_ID.test(thread) ? thread : null },
  };
  await self.registration.showNotification(title || agent || "Agentline", options);
}

/** The answer, where no text may pass through the push service; empty if it cannot be had in time. */
async function fetched({ turn_id: turn, fetch_token: token }) {
  if (!token) return "";
  try {
    const answer = await fetch(`/api/turns/${encodeURIComponent(turn)}`, {
      headers: { Authorization: `Bearer ${token}` },
      cache: "no-store",
      signal: AbortSignal.timeout(FETCH_MS),
    });
    return answer.ok ? (await answer.json()).content : "";
  } catch {
    return "";
  }
}

/** Bring an open console to the front and the thread into it; without one, open one. */
async function open(thread) {
  const consoles = await self.clients.matchAll({ type: "window", includeUncontrolled: true });
  const shown = consoles.find((one) => one.focused) ?? consoles.find((one) => one.visibilityState === "visible") ?? consoles[0];
  if (!shown) {
    await self.clients.openWindow(thread ? `/#/t/${thread}` : "/");
    return;
  }
  if (thread) shown.postMessage({ type: "open", thread });
  await shown.focus().catch(() => {}); // refused where the click is too long ago
}
