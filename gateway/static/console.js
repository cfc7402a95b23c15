/** The web console: signs in, wires model and views, and draws once per frame of the screen. */

import { Composer } from "./console/composer.js";
import { Conversation } from "./console/conversation.js";
import { Devices } from "./console/devices.js";
import { byId } from "./console/dom.js";
import { Model } from "./console/model.js";
import { currentToken, pairedToken, showSignIn } from "./console/session.js";
import { Sidebar } from "./console/sidebar.js";
import { Status } from "./console/status.js";
import { clearAll } from "./console/storage.js";
import { Welcome } from "./console/welcome.js";

const BAD_TOKEN = "This token is not valid. Ask the gateway's owner for a new link.";

const THREAD_ADDRESS = /^#\/t\/([A-Za-z0-9_-]{1,64})$/;

/** @param {string} token */
async function run(token) {
  let drawing = false;
  let ended = false;

  function changed() {
    if (drawing || ended) return;
    drawing = true;
    // A hidden page gets no animation frames, and need not draw; timers keep it nearly up to date.
    if (document.visibilityState === "visible") requestAnimationFrame(draw);
    else setTimeout(draw, 500);
  }

  const model = new Model(token, changed);
  try {
    await model.start();
  } catch (error) {
    model.stop();
    const { status, message } = /** @type {any} */ (error);
    showSignIn(status === 401 ? BAD_TOKEN : message, run);
    return;
  }

  const views = [
    new Sidebar(model, startNew),
    new Conversation(model),
    new Composer(model, submit),
    new Welcome(model, (text) => composer.fill(text)),
    new Status(model),
  ];
  const devices = new Devices(model.line);
  const [, conversation, composer] = /** @type {[Sidebar, Conversation, Composer]} */ (/** @type {unknown} */ (views));

  function draw() {
    drawing = false;
    if (ended) return;
    const { open, threads, speaker, problem } = model;
    const summary = open ? threads.get(open.threadId) : undefined;
    const waiting = model.pending.find((one) => one.threadId === open?.threadId);
    const title = summary?.title || waiting?.content.split("\n")[0].slice(0, 80) || (open ? "Conversation" : "New conversation");
    const unread = [...threads.values()].reduce((sum, one) => sum + (one.thread_id === open?.threadId ? 0 : one.unread), 0);
    document.title = `${unread ? `(${unread}) ` : ""}${open ? `${title} · ` : ""}Agentline`;
    byId("title").textContent = title;
    byId("agent").textContent = open ? speaker : "";
    byId("thread-menu").hidden = !summary;
    byId("problem").textContent = problem;
    byId("problem").hidden = !problem;
    // A deleted or lost thread leaves the address of a new one.
    if (!open && threadInAddress()) history.replaceState(null, "", location.pathname);
    for (const view of views) view.render();
  }

  function startNew() {
    if (location.hash) history.pushState(null, "", location.pathname);
    model.show(null);
    composer.focus(true);
  }

  /** @param {string} content */
  function submit(content) {
    conversation.follow();
    const threadId = model.send(content);
    if (threadInAddress() !== threadId) history.pushState(null, "", `#/t/${threadId}`);
  }

  function route() {
    if (currentToken() !== token) {
      location.reload(); // a link with another token was opened in this tab
      return;
    }
    model.show(threadInAddress());
    composer.focus();
  }

  function end() {
    ended = true;
    devices.close();
    model.stop();
    closing.abort();
  }

  const closing = new AbortController();
  const options = { signal: closing.signal };
  addEventListener("hashchange", route, options);
  addEventListener("popstate", () => model.show(threadInAddress()), options);
  addEventListener("pagehide", () => model.saveOpen(), options);
  addEventListener("focus", () => model.seen(), options);
  document.addEventListener(
    "visibilitychange",
    () => {
      if (document.visibilityState === "hidden") model.saveOpen();
      else model.seen();
      changed();
    },
    options,
  );
  model.line.on("state", ({ state, code }) => {
    if (state !== "refused" || (code !== 4501 && code !== 4401 && code !== 4503)) return;
    end();
    showSignIn(BAD_TOKEN, run);
  });
  byId("sign-out").onclick = async () => {
    await devices.forget();
    end();
    clearAll();
    history.replaceState(null, "", location.pathname);
    location.reload();
  };
  // A notification of a thread was tapped.
  navigator.serviceWorker?.addEventListener(
    "message",
    ({ data }) => {
      if (data?.type === "open" && THREAD_ADDRESS.test(`#/t/${data.thread}`)) location.hash = `#/t/${data.thread}`;
    },
    options,
  );
  threadMenu(model);

  byId("app").hidden = false;
  model.show(threadInAddress());
  draw();
  composer.focus();
}

/** Rename and delete. @param {Model} model */
function threadMenu(model) {
  const dialog = byId("thread-dialog");
  const field = byId("thread-title");
  byId("thread-menu").onclick = () => {
    field.value = byId("title").textContent;
    dialog.showModal();
    field.select();
  };
  dialog.onclose = () => {
    const title = field.value.trim();
    if (dialog.returnValue === "rename" && title) void model.rename(title);
    if (dialog.returnValue === "delete") void model.remove();
    dialog.returnValue = "";
  };
  // `form-action 'none'` of the policy forbids submits that leave the page, `method="dialog"` too in some browsers.
  byId("thread-form").onsubmit = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    dialog.close(/** @type {HTMLButtonElement | null} */ (event.submitter)?.value ?? "rename");
  };
}

function threadInAddress() {
  return THREAD_ADDRESS.exec(location.hash)?.[1] ?? null;
}

/** The shell works offline, where the page came by https or from this machine. */
function registerServiceWorker() {
  if (!navigator.serviceWorker) return;
  const address = "/service-worker.js";
  const policy = /** @type {any} */ (globalThis).trustedTypes?.createPolicy("agentline", {
    createScriptURL: (/** @type {string} */ url) => (url === address ? url : null),
  });
  navigator.serviceWorker.register(policy ? policy.createScriptURL(address) : address).catch(() => {
    // A private window, or storage is full: the console works without.
  });
}

async function start() {
  try {
    const token = (await pairedToken()) ?? currentToken();
    if (token) void run(token);
    else showSignIn("", run);
  } catch (error) {
    showSignIn(/** @type {Error} */ (error).message, run);
  }
}

void start();
registerServiceWorker();
