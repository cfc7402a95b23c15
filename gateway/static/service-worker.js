/**
 * Keeps the console's own files for when there is no network. The network comes first, so that an updated gateway is an
 * updated console. Answers of `/api/…` are never touched and never kept.
 */

const CACHE = "agentline-shell";
const PATIENCE_MS = 3000;
const SHELL = [
  "/",
  "/agentline.js",
  "/console.css",
  "/console.js",
  "/console/approval.js",
  "/console/composer.js",
  "/console/conversation.js",
  "/console/dom.js",
  "/console/markdown-inline.js",
  "/console/markdown-view.js",
  "/console/markdown.js",
  "/console/message.js",
  "/console/model.js",
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
