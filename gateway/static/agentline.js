/**
 * The Agentline client: one socket that heals itself, for web pages, React Native and Node. No dependencies.
 *
 *     import { Agentline } from "./agentline.js";
 *
 *     const line = new Agentline({ url: "https://agents.example.org", token, agent: "claude" });
 *     for await (const frame of line.stream("Hi")) {
 *       if (frame.type === "message") show(frame.content);
 *     }
 *
 * What it adds to the wire contract: it keeps each thread's cursor and goes on from there after every reconnect; it
 * sends a message again under the same id until the server has it; it notices a dead connection; and `applyFrame` turns
 * frames into the thread as a screen shows it. Every frame is described in docs/protocol.md, the rest in
 * docs/javascript-client.md.
 *
 * @module agentline
 */

const PROTOCOL = "agentline.v1";
const READY_MS = 10_000;
const PROBE_MS = 4_000;
const TICK_MS = 5_000;
const BACKOFF_MS = 500;
const BACKOFF_MOST_MS = 30_000;
const REST_MS = 20_000;

/**
 * Every server frame has `type` and `timestamp`; the other fields are those of its type.
 * @typedef {{type: string, timestamp: string, [field: string]: any}} Frame
 *
 * @typedef {object} Accepted The server has the message: from here on it is never lost.
 * @property {string | null} id
 * @property {string} thread_id
 * @property {string} turn_id
 * @property {string} message_id
 * @property {boolean} duplicate
 * @property {number} queued Turns ahead of it.
 *
 * @typedef {"idle" | "connecting" | "online" | "waiting" | "refused" | "closed"} State
 *   `waiting`: between two attempts, see `retryAt`. `refused`: the server will not have us until something changes, a
 *   token for instance; `connect()` tries again.
 *
 * @typedef {object} Options
 * @property {string} url The gateway's address, `https://…`.
 * @property {string | (() => string | Promise<string>)} token A function is asked before each connection.
 * @property {string} agent The agent this line talks to. Its socket follows threads of all agents.
 * @property {string} [deviceId] Ties the socket to a device registered for push.
 * @property {typeof WebSocket} [WebSocket] Where there is no global one.
 * @property {typeof fetch} [fetch]
 *
 * @typedef {object} SendOptions
 * @property {string} [threadId] A thread to go on with; left out, the message begins a new one.
 * @property {string} [id] Makes the send idempotent, also over restarts of the app. Left out, it is made.
 * @property {string} [agent] Another agent than the line's: goes by HTTP.
 * @property {"queue" | "steer" | "reject"} [whenBusy]
 */

/** What the server refused, in words a person can act on; `code` is one of docs/protocol.md, or `closed`, `aborted`. */
export class AgentlineError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{retryable?: boolean, retryAfter?: number, field?: string, status?: number}} [more]
   */
  constructor(code, message, { retryable = false, retryAfter, field, status } = {}) {
    super(message);
    this.name = "AgentlineError";
    this.code = code;
    this.retryable = retryable;
    this.retryAfter = retryAfter;
    this.field = field;
    this.status = status;
  }
}

/** A random id of 22 letters and digits: for messages, threads, devices. Unique, not secret. */
export function newId() {
  const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  const bytes = new Uint8Array(22);
  // `crypto.randomUUID` exists on https pages only, and React Native may have no `crypto` at all.
  if (globalThis.crypto?.getRandomValues) globalThis.crypto.getRandomValues(bytes);
  else for (let index = 0; index < bytes.length; index += 1) bytes[index] = Math.random() * 256;
  return Array.from(bytes, (byte) => alphabet[byte % alphabet.length]).join("");
}

/** A connection to a gateway. It opens by itself with the first call that needs it, and stays open until `close()`. */
export class Agentline {
  /** @type {Options} */ #options;
  /** @type {string} */ #base;
  /** @type {State} */ #state = "idle";
  /** @type {Map<string, Set<(value: any) => void>>} */ #listeners = new Map();

  /** @type {WebSocket | null} */ #socket = null;
  /** @type {Frame | null} */ #ready = null;
  #attempt = 0;
  #opening = 0; // counts connection attempts: what a former one still brings is ignored
  /** @type {any} */ #retryTimer = null;
  /** @type {any} */ #readyTimer = null;
  /** @type {any} */ #probeTimer = null;
  /** @type {any} */ #ticker = null;
  #heard = 0;
  #ticked = 0;
  #comeBackMs = -1;

  /** @type {Map<string, string | null>} followed thread → last cursor */ #follows = new Map();
  /** @type {string[]} attaches that this socket has not answered */ #attaching = [];
  /** @type {Map<string, Outgoing>} by message id, oldest first */ #outbox = new Map();
  /** @type {Map<string, string>} thread → message to be reported as seen */ #seen = new Map();
  /** @type {(() => void) | null} */ #unhook = null;
  /** @type {Set<() => void>} */ #wakers = new Set();

  /** When the next attempt comes, in milliseconds since 1970, while `state` is `waiting`. */
  retryAt = 0;

  /** @param {Options} options */
  constructor(options) {
    this.#options = options;
    this.#base = options.url.replace(/\/+$/, "");
  }

  /** @returns {State} */
  get state() {
    return this.#state;
  }

  /** The `ready` frame of the open socket: the user, the agent's capabilities, limits. */
  get ready() {
    return this.#ready;
  }

  get agent() {
    return this.#options.agent;
  }

  /**
   * Call `listener` with every frame of a type; `"frame"` means all, `"state"` brings `{state, code, reason}` and
   * `"lost"` `{thread_id, error}` when a thread to be followed is not there (any more).
   * @param {string} type
   * @param {(value: any) => void} listener
   * @returns {() => void} ends it
   */
  on(type, listener) {
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
    return () => listeners.delete(listener);
  }

  /** Open the connection, if it is not; try at once where the next attempt would come later. */
  connect() {
    if (this.#state === "connecting" || this.#state === "online") return;
    this.#hook();
    this.#attempt = 0;
    void this.#open();
  }

  /** End it. Sends that the server has not confirmed are rejected with the code `closed`. */
  close() {
    this.#unhook?.();
    this.#unhook = null;
    this.#drop();
    this.#become("closed");
    for (const outgoing of [...this.#outbox.values()]) this.#reject(outgoing, new AgentlineError("closed", "The line was closed."));
    for (const wake of [...this.#wakers]) wake();
  }

  /**
   * The app is on screen again, or the network is back: connect now, or look whether the connection still lives. Web
   * pages need not call it; React Native calls it when `AppState` becomes `active`.
   */
  wake() {
    if (this.#state === "waiting") this.connect();
    else if (this.#state === "online") this.#probe(PROBE_MS);
    for (const wake of [...this.#wakers]) wake();
  }

  /**
   * Send a message. Resolves when the server has it for good; until then it is sent again after every reconnect, always
   * under the same id, so that it starts one turn only. The thread is followed from then on.
   * @param {string} content
   * @param {SendOptions} [options]
   * @returns {Promise<Accepted>} Rejects with an `AgentlineError` if the server refuses it.
   */
  send(content, options = {}) {
    const { threadId = newId(), id = newId(), agent = this.agent, whenBusy } = options;
    const known = this.#outbox.get(id);
    if (known) return known.promise;
    const body = { content, id, thread_id: threadId, ...(whenBusy && { when_busy: whenBusy }) };
    /** @type {Outgoing} */
    const outgoing = { body, agent, sent: false, promise: Promise.resolve(), resolve: () => {}, reject: () => {} };
    outgoing.promise = new Promise((resolve, reject) => Object.assign(outgoing, { resolve, reject }));
    this.#outbox.set(id, outgoing);
    if (this.#state === "idle" || this.#state === "closed") this.connect();
    if (agent === this.agent) this.#transmit(outgoing);
    else void this.#post(outgoing);
    return outgoing.promise;
  }

  /**
   * Send a message and iterate over its turn: `accepted`, then the turn's frames up to `done`. Connections may come and
   * go meanwhile. Leaving the loop early leaves the turn running; `cancel` stops it. Where the server could not
   * resume, a `reset` brings the text up to date.
   * @param {string} content
   * @param {SendOptions & {signal?: AbortSignal}} [options] `signal` ends the iteration with the code `aborted`.
   * @returns {AsyncGenerator<Frame, void, void>}
   */
  async *stream(content, options = {}) {
    const { signal, threadId = newId(), ...rest } = options;
    const followed = this.#follows.has(threadId);
    const inbox = new Inbox();
    const offs = [
      this.on("frame", (frame) => frame.thread_id === threadId && inbox.put(frame)),
      this.on("state", ({ state, code, reason }) => {
        if (state === "refused" || state === "closed") inbox.fail(new AgentlineError(code ?? "closed", reason ?? "The line was closed."));
      }),
      this.on("lost", ({ thread_id, error }) => thread_id === threadId && inbox.fail(error)),
    ];
    const abort = () => inbox.fail(new AgentlineError("aborted", "The iteration was aborted."));
    signal?.addEventListener("abort", abort);
    try {
      if (signal?.aborted) abort();
      const sent = this.send(content, { ...rest, threadId });
      const { turn_id: turnId } = await Promise.race([sent, inbox.failed]);
      for (;;) {
        const frame = await inbox.next();
        if (frame.type === "snapshot") {
          if (frame.turn?.turn_id === turnId) {
            yield { ...frame, type: "reset", turn_id: turnId, content: frame.turn.content };
            continue;
          }
          const turn = await this.turn(turnId);
          if (turn.status === "queued" || turn.status === "running") continue;
          yield { ...turn, type: "done", timestamp: turn.finished_at, cursor: frame.cursor };
          return;
        }
        if (frame.turn_id !== turnId) continue;
        yield frame;
        if (frame.type === "done") return;
      }
    } finally {
      signal?.removeEventListener("abort", abort);
      for (const off of offs) off();
      if (!followed) this.unfollow(threadId);
    }
  }

  /**
   * Follow a thread, now and after every reconnect. Its frames come to the listeners: those behind `cursor`, or a
   * `snapshot` without one.
   * @param {string} threadId
   * @param {string | null} [cursor] The last one that was kept with what the app shows.
   */
  follow(threadId, cursor = null) {
    this.#follows.set(threadId, cursor);
    this.connect();
    if (this.#ready) this.#attach(threadId);
  }

  /** @param {string} threadId */
  unfollow(threadId) {
    if (this.#follows.delete(threadId) && this.#ready) this.#put({ type: "detach", thread_id: threadId });
  }

  /** Where a followed thread stands; kept with what the app shows, it resumes exactly there. @param {string} threadId */
  cursor(threadId) {
    return this.#follows.get(threadId) ?? null;
  }

  /** A person has this message on screen. @param {string} threadId @param {string} messageId */
  seen(threadId, messageId) {
    if (this.#ready) this.#put({ type: "seen", thread_id: threadId, message_id: messageId });
    else this.#seen.set(threadId, messageId);
  }

  // --- by HTTP: what needs an answer ---------------------------------------------------------------------------

  /** Stop a turn, running or queued. Tries until the server has answered. @param {string} turnId */
  async cancel(turnId) {
    await this.#untilAnswered("POST", `/api/turns/${encodeURIComponent(turnId)}/cancel`);
  }

  /**
   * Answer an approval request. The first answer wins, from whichever device; what stands is returned.
   * @param {string} approvalId
   * @param {string} decision The id of an offered option.
   * @param {string} [text] Where the request has `free_text`.
   * @returns {Promise<{approval_id: string, decision: string, by: string | null}>}
   */
  decide(approvalId, decision, text) {
    return this.#untilAnswered("POST", `/api/approvals/${encodeURIComponent(approvalId)}`, { decision, ...(text && { text }) });
  }

  /** The message of a turn that did not complete, once more. @param {string} turnId @returns {Promise<Accepted>} */
  retry(turnId) {
    return this.request("POST", `/api/turns/${encodeURIComponent(turnId)}/retry`);
  }

  /** @returns {Promise<{name: string, configured: boolean, reason: string | null, capabilities: string[]}[]>} */
  async agents() {
    return (await this.request("GET", "/api/agents")).agents;
  }

  /** A page of threads, newest first; `before` of the answer asks for the next. @param {{agent?: string, before?: number, limit?: number}} [query] */
  threads(query = {}) {
    return this.request("GET", `/api/threads${queryString(query)}`);
  }

  /** @param {string} threadId */
  thread(threadId) {
    return this.request("GET", `/api/threads/${encodeURIComponent(threadId)}`);
  }

  /** @param {string} threadId @param {string} title */
  rename(threadId, title) {
    return this.request("PATCH", `/api/threads/${encodeURIComponent(threadId)}`, { title });
  }

  /** Delete a thread and all that belongs to it. @param {string} threadId */
  async remove(threadId) {
    await this.request("DELETE", `/api/threads/${encodeURIComponent(threadId)}`);
  }

  /** A page of history, oldest first. @param {string} threadId @param {{before?: string, after?: string, limit?: number}} [query] */
  async messages(threadId, query = {}) {
    return (await this.request("GET", `/api/threads/${encodeURIComponent(threadId)}/messages${queryString(query)}`)).messages;
  }

  /** A turn with its whole content, also where frames showed it cut. @param {string} turnId */
  turn(turnId) {
    return this.request("GET", `/api/turns/${encodeURIComponent(turnId)}`);
  }

  /**
   * One request of the HTTP interface.
   * @param {string} method
   * @param {string} path
   * @param {object} [body]
   * @returns {Promise<any>} The answer's JSON. Rejects with an `AgentlineError`; its code is `unreachable` when no answer came.
   */
  async request(method, path, body) {
    const doFetch = this.#options.fetch ?? globalThis.fetch;
    const aborter = new AbortController();
    const timer = setTimeout(() => aborter.abort(), REST_MS);
    try {
      const answer = await doFetch(this.#base + path, {
        method,
        headers: { Authorization: `Bearer ${await this.#token()}`, ...(body && { "Content-Type": "application/json" }) },
        ...(body && { body: JSON.stringify(body) }),
        cache: "no-store",
        signal: aborter.signal,
      });
      if (answer.status === 204) return null;
      const value = await answer.json();
      if (answer.ok) return value;
      const { code = "internal", message = "The server refused.", retryable, field, retry_after: retryAfter } = value.error ?? {};
      throw new AgentlineError(code, message, { retryable, field, retryAfter, status: answer.status });
    } catch (error) {
      if (error instanceof AgentlineError) throw error;
      throw new AgentlineError("unreachable", "The server could not be reached.", { retryable: true });
    } finally {
      clearTimeout(timer);
    }
  }

  /** An idempotent request, repeated until it is answered or the line is closed. @param {string} method @param {string} path @param {object} [body] */
  async #untilAnswered(method, path, body) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.request(method, path, body);
      } catch (error) {
        const lasting = !(error instanceof AgentlineError) || !["unreachable", "draining", "unavailable"].includes(error.code);
        if (lasting || this.#state === "closed" || this.#state === "refused") throw error;
        await this.#pause(backoff(attempt));
      }
    }
  }

  /** Return after so long, or when the network is back, or at `close()`. @param {number} milliseconds */
  #pause(milliseconds) {
    return /** @type {Promise<void>} */ (
      new Promise((resolve) => {
        const wake = () => {
          clearTimeout(timer);
          this.#wakers.delete(wake);
          resolve();
        };
        const timer = setTimeout(wake, milliseconds);
        this.#wakers.add(wake);
      })
    );
  }

  // --- the outbox ----------------------------------------------------------------------------------------------

  /** @param {Outgoing} outgoing */
  #transmit(outgoing) {
    if (!this.#ready) return;
    const frame = JSON.stringify({ type: "message", ...outgoing.body });
    if (utf8(frame).length > (this.#ready.limits?.client_frame_bytes ?? Infinity)) {
      this.#reject(outgoing, new AgentlineError("too_large", "The message is too long.", { field: "content" }));
      return;
    }
    outgoing.sent = true;
    this.#socket?.send(frame);
  }

  /** To an agent whose socket this is not. @param {Outgoing} outgoing */
  async #post(outgoing) {
    try {
      const accepted = await this.#untilAnswered("POST", `/api/${encodeURIComponent(outgoing.agent)}/messages`, outgoing.body);
      if (!this.#outbox.delete(outgoing.body.id)) return;
      this.#emit({ type: "accepted", timestamp: new Date().toISOString(), ...accepted });
      if (!this.#follows.has(accepted.thread_id)) this.follow(accepted.thread_id);
      outgoing.resolve(accepted);
    } catch (error) {
      this.#reject(outgoing, error);
    }
  }

  /** @param {Outgoing} outgoing @param {unknown} error */
  #reject(outgoing, error) {
    if (this.#outbox.delete(outgoing.body.id)) outgoing.reject(error);
  }

  // --- the socket ----------------------------------------------------------------------------------------------

  async #open() {
    this.#drop();
    this.#become("connecting");
    const opening = this.#opening;
    this.#readyTimer = setTimeout(() => this.#failed("no answer in time"), READY_MS);
    try {
      const token = await this.#token();
      if (opening !== this.#opening) return;
      const Socket = this.#options.WebSocket ?? globalThis.WebSocket;
      const device = this.#options.deviceId ? `?device_id=${encodeURIComponent(this.#options.deviceId)}` : "";
      const address = `${this.#base.replace(/^http/, "ws")}/api/${encodeURIComponent(this.agent)}/ws${device}`;
      const socket = new Socket(address, [PROTOCOL, `bearer.${base64url(token)}`]);
      this.#socket = socket;
      socket.onmessage = ({ data }) => opening === this.#opening && this.#receive(JSON.parse(data));
      socket.onclose = ({ code, reason }) => opening === this.#opening && this.#closed(code, reason);
      socket.onerror = () => {}; // a close follows
    } catch {
      if (opening === this.#opening) this.#failed("the connection could not be opened");
    }
  }

  async #token() {
    const { token } = this.#options;
    return typeof token === "function" ? token() : token;
  }

  /** Let go of the socket and of every timer about it. */
  #drop() {
    this.#opening += 1;
    for (const timer of [this.#retryTimer, this.#readyTimer, this.#probeTimer]) clearTimeout(timer);
    clearInterval(this.#ticker);
    this.#retryTimer = this.#readyTimer = this.#probeTimer = this.#ticker = null;
    const socket = this.#socket;
    this.#socket = null;
    this.#ready = null;
    this.#attaching = [];
    if (socket) {
      socket.onmessage = socket.onclose = null;
      try {
        socket.close(1000);
      } catch {
        // It was never open.
      }
    }
  }

  /** @param {number} code @param {string} reason */
  #closed(code, reason) {
    if (code === 1009) {
      for (const outgoing of [...this.#outbox.values()]) {
        if (outgoing.sent) this.#reject(outgoing, new AgentlineError("too_large", "The message is too long."));
      }
    }
    const stale = code === 4401 && typeof this.#options.token !== "function";
    if ((code >= 4500 && code <= 4999) || stale) {
      this.#drop();
      this.#become("refused", code, reason);
      return;
    }
    this.#failed(reason, code);
  }

  /** Come back later. @param {string} reason @param {number} [code] */
  #failed(reason, code) {
    const asked = this.#comeBackMs;
    this.#comeBackMs = -1;
    this.#drop();
    const wait = asked >= 0 ? asked : backoff(this.#attempt);
    this.#attempt += 1;
    this.retryAt = Date.now() + wait;
    this.#retryTimer = setTimeout(() => void this.#open(), wait);
    this.#become("waiting", code, reason);
  }

  /** @param {State} state @param {number} [code] @param {string} [reason] */
  #become(state, code, reason) {
    if (state === this.#state && state !== "waiting") return;
    this.#state = state;
    this.#call("state", { state, code, reason });
  }

  /** @param {object} frame */
  #put(frame) {
    this.#socket?.send(JSON.stringify(frame));
  }

  /** @param {string} threadId */
  #attach(threadId) {
    const cursor = this.#follows.get(threadId);
    this.#attaching.push(threadId);
    this.#put({ type: "attach", thread_id: threadId, ...(cursor && { cursor }) });
  }

  /** @param {Frame} frame */
  #receive(frame) {
    this.#heard = Date.now();
    clearTimeout(this.#probeTimer);
    this.#probeTimer = null;
    const { type, thread_id: threadId } = frame;
    if (type === "ready") this.#begin(frame);
    else if (type === "accepted") this.#confirm(frame);
    else if (type === "error") this.#refused(frame);
    else if (type === "attached") this.#attaching.splice(0, this.#attaching.indexOf(threadId) + 1);
    else if (type === "goodbye") this.#comeBackMs = frame.reconnect_after_ms;
    else if (type === "detached" || (type === "thread_updated" && frame.status === "deleted")) this.#follows.delete(threadId);
    else if (frame.cursor && this.#follows.has(threadId)) this.#follows.set(threadId, frame.cursor);
    this.#emit(frame);
  }

  /** @param {Frame} ready */
  #begin(ready) {
    const again = this.#ready !== null; // after `auth` on an open socket
    this.#ready = ready;
    clearTimeout(this.#readyTimer);
    if (again) return;
    this.#attempt = 0;
    this.#ticked = Date.now();
    this.#ticker = setInterval(() => this.#tick(), TICK_MS);
    for (const threadId of this.#follows.keys()) this.#attach(threadId);
    for (const outgoing of [...this.#outbox.values()]) {
      outgoing.sent = false;
      if (outgoing.agent === this.agent) this.#transmit(outgoing);
    }
    for (const [thread, message] of this.#seen) this.seen(thread, message);
    this.#seen.clear();
    this.#become("online");
  }

  /** @param {Frame} frame */
  #confirm(frame) {
    if (!this.#follows.has(frame.thread_id)) this.#follows.set(frame.thread_id, frame.cursor);
    const outgoing = this.#outbox.get(frame.id);
    this.#outbox.delete(frame.id);
    // After the listeners have seen the frame.
    queueMicrotask(() => outgoing?.resolve(/** @type {any} */ (frame)));
  }

  /** @param {Frame} frame */
  #refused(frame) {
    const error = new AgentlineError(frame.code, frame.message, {
      retryable: frame.retryable,
      retryAfter: frame.retry_after,
      field: frame.field,
    });
    const outgoing = this.#outbox.get(frame.id);
    if (outgoing) {
      if (frame.code !== "draining") this.#reject(outgoing, error); // else it goes again after the reconnect
    } else if (frame.id === undefined && this.#attaching.length && (frame.field === "thread_id" || frame.code === "limit_exceeded")) {
      const threadId = /** @type {string} */ (this.#attaching.shift());
      this.#follows.delete(threadId);
      this.#call("lost", { thread_id: threadId, error });
    }
  }

  // --- is anybody there? ---------------------------------------------------------------------------------------

  /** A page cannot see the server's pings: after a silence, ask. After a sleep of the machine, ask at once. */
  #tick() {
    const now = Date.now();
    const slept = now - this.#ticked > 3 * TICK_MS;
    this.#ticked = now;
    const patience = 1000 * (this.#ready?.heartbeat_seconds ?? 20);
    if (slept) this.#probe(PROBE_MS);
    else if (now - this.#heard > patience) this.#probe(2 * PROBE_MS);
  }

  /** Drop the connection unless something comes within so long. @param {number} milliseconds */
  #probe(milliseconds) {
    if (this.#probeTimer !== null || !this.#ready) return;
    this.#put({ type: "ping", nonce: newId() });
    this.#probeTimer = setTimeout(() => {
      this.#failed("the connection was lost");
      this.connect();
    }, milliseconds);
  }

  /** Where there is a browser around, listen to what it knows of network and screen. */
  #hook() {
    if (this.#unhook || typeof globalThis.addEventListener !== "function") return;
    const page = /** @type {any} */ (globalThis).document;
    const wake = () => this.wake();
    const visible = () => page.visibilityState === "visible" && this.wake();
    const names = ["online", "offline", "pageshow"];
    for (const name of names) globalThis.addEventListener(name, wake);
    page?.addEventListener?.("visibilitychange", visible);
    this.#unhook = () => {
      for (const name of names) globalThis.removeEventListener(name, wake);
      page?.removeEventListener?.("visibilitychange", visible);
    };
  }

  /** @param {Frame} frame */
  #emit(frame) {
    this.#call(frame.type, frame);
    this.#call("frame", frame);
  }

  /** @param {string} type @param {any} value */
  #call(type, value) {
    for (const listener of [...(this.#listeners.get(type) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        // An error of one listener is its owner's: it is reported as uncaught, and the others still hear.
        setTimeout(() => {
          throw error;
        });
      }
    }
  }
}

/**
 * @typedef {object} Outgoing
 * @property {{content: string, id: string, thread_id: string, when_busy?: string}} body
 * @property {string} agent
 * @property {boolean} sent On the present socket.
 * @property {Promise<any>} promise
 * @property {(accepted: Accepted) => void} resolve
 * @property {(error: unknown) => void} reject
 */

/** Frames on their way to one iterator. Adjacent text is joined, so that a slow reader holds text and not frames. */
class Inbox {
  /** @type {Frame[]} */ #frames = [];
  /** @type {unknown} */ #error = null;
  /** @type {(() => void) | null} */ #wake = null;
  /** @type {(error: unknown) => void} */ #fail = () => {};
  /** @type {Promise<never>} */ failed;

  constructor() {
    this.failed = new Promise((_, reject) => (this.#fail = reject));
    this.failed.catch(() => {});
  }

  /** @param {Frame} frame */
  put(frame) {
    const last = this.#frames.at(-1);
    const joins = last && (frame.type === "message" || frame.type === "reasoning") && last.type === frame.type;
    if (joins && last.turn_id === frame.turn_id && last.item_id === frame.item_id) {
      this.#frames[this.#frames.length - 1] = { ...frame, content: last.content + frame.content };
    } else {
      this.#frames.push(frame);
    }
    this.#wake?.();
  }

  /** @param {unknown} error */
  fail(error) {
    this.#error ??= error;
    this.#fail(error);
    this.#wake?.();
  }

  /** What was received comes before a failure. @returns {Promise<Frame>} */
  async next() {
    for (;;) {
      const frame = this.#frames.shift();
      if (frame) return frame;
      if (this.#error) throw this.#error;
      await /** @type {Promise<void>} */ (new Promise((resolve) => (this.#wake = resolve)));
    }
  }
}

// --- a thread as a screen shows it ---------------------------------------------------------------------------------

/**
 * @typedef {object} Thread Plain data: it can be stored as JSON, with its cursor, and gone on with.
 * @property {string} threadId
 * @property {string | null} cursor
 * @property {Entry[]} messages Oldest first. The answer that is being written is the last, with the status `running`.
 * @property {string[]} queued Turns that wait.
 *
 * @typedef {object} Entry
 * @property {"user" | "assistant"} role
 * @property {string | null} message_id
 * @property {string} turn_id
 * @property {string} content
 * @property {string} [created_at]
 * @property {string} [status] Of an answer: `running`, then that of `done`.
 * @property {Part[]} [parts] Of an answer, in order.
 * @property {string | null} [id] Of a user's message: the sender's own.
 * @property {{code: string, message: string, retryable: boolean}} [error]
 * @property {string | null} [stop_reason]
 * @property {Record<string, number>} [usage]
 * @property {number} [duration_ms]
 * @property {boolean} [truncated] The whole of it is at `line.turn(turn_id)`.
 *
 * @typedef {{kind: "text", content: string}
 *   | {kind: "reasoning", content: string, item?: string}
 *   | {kind: "tool", call_id: string, name: string, title: string, arguments?: any, status: string, summary?: string}
 *   | {kind: "approval", approval_id: string, call_id?: string | null, title: string, request: any, decision?: string, by?: string | null}} Part
 */

/** @param {string} threadId @returns {Thread} */
export function emptyThread(threadId) {
  return { threadId, cursor: null, messages: [], queued: [] };
}

/**
 * The thread after one more frame. The thread given is not changed, and what did not change in it is shared with the
 * result, so that `===` tells what must be drawn again. Frames of other threads change nothing.
 * @param {Thread} thread
 * @param {Frame} frame
 * @returns {Thread}
 */
export function applyFrame(thread, frame) {
  if (frame.thread_id !== thread.threadId) return thread;
  if (frame.type === "attached") {
    const queued = frame.turns.filter((/** @type {any} */ turn) => turn.status === "queued").map((/** @type {any} */ turn) => turn.turn_id);
    return { ...thread, queued };
  }
  if (frame.type === "accepted") {
    return frame.queued > 0 && !thread.queued.includes(frame.turn_id) ? { ...thread, queued: [...thread.queued, frame.turn_id] } : thread;
  }
  if (frame.type === "snapshot") return fromSnapshot(thread, frame);
  // A late decision is answered without a cursor: the place stays.
  const next = frame.cursor ? { ...thread, cursor: frame.cursor } : thread;
  switch (frame.type) {
    case "user_message": {
      const queued = next.queued.filter((turnId) => turnId !== frame.turn_id);
      if (next.messages.some((entry) => entry.message_id === frame.message_id)) return { ...next, queued };
      const { message_id, turn_id, id, content, truncated, timestamp } = frame;
      const user = /** @type {Entry} */ ({ role: "user", message_id, turn_id, id, content, created_at: timestamp, ...(truncated && { truncated }) });
      return { ...next, queued, messages: [...next.messages, user, newAnswer(turn_id, timestamp)] };
    }
    case "message":
      return withParts(next, frame, (parts) => withMoreText(parts, frame.content));
    case "reasoning":
      return withParts(next, frame, (parts) => withMoreReasoning(parts, frame));
    case "reset":
      return withParts(next, frame, (parts) => withText(parts, frame.content));
    case "tool_call":
      return withParts(next, frame, (parts) => [
        ...parts,
        { kind: "tool", call_id: frame.call_id, name: frame.name, title: frame.title, arguments: frame.arguments, status: "running" },
      ]);
    case "tool_result":
      return withParts(next, frame, (parts) =>
        parts.map((part) => (part.kind === "tool" && part.call_id === frame.call_id ? { ...part, status: frame.status, summary: frame.summary } : part)),
      );
    case "approval_request":
      return withParts(next, frame, (parts) => [...parts, approvalPart(frame)]);
    case "approval_resolved":
      return withParts(next, frame, (parts) =>
        parts.map((part) =>
          part.kind === "approval" && part.approval_id === frame.approval_id ? { ...part, decision: frame.decision, by: frame.by } : part,
        ),
      );
    case "done":
      return finished(next, frame);
    default:
      return next;
  }
}

/** Put an earlier page of history in front. @param {Thread} thread @param {any[]} page @returns {Thread} */
export function withHistory(thread, page) {
  const known = new Set(thread.messages.map((entry) => entry.message_id));
  const older = page.filter((message) => !known.has(message.message_id)).map(fromHistory);
  return older.length ? { ...thread, messages: [...older, ...thread.messages] } : thread;
}

/** @param {string} turnId @param {string} at @returns {Entry} */
function newAnswer(turnId, at) {
  return { role: "assistant", message_id: null, turn_id: turnId, content: "", created_at: at, status: "running", parts: [] };
}

/** @param {Thread} thread @param {Frame} frame @param {(parts: Part[]) => Part[]} change @returns {Thread} */
function withParts(thread, frame, change) {
  let index = thread.messages.length - 1;
  while (index >= 0 && (thread.messages[index].role !== "assistant" || thread.messages[index].turn_id !== frame.turn_id)) index -= 1;
  const answer = index < 0 ? newAnswer(frame.turn_id, frame.timestamp) : thread.messages[index];
  const parts = change(answer.parts ?? []);
  const changed = { ...answer, parts, content: textOf(parts) };
  return { ...thread, messages: index < 0 ? [...thread.messages, changed] : thread.messages.map((entry, place) => (place === index ? changed : entry)) };
}

/** @param {Part[]} parts @param {string} content @returns {Part[]} */
function withMoreText(parts, content) {
  const last = parts.at(-1);
  // A new text item brings the blank line before it along.
  if (last?.kind === "text") return [...parts.slice(0, -1), { ...last, content: last.content + content }];
  return [...parts, { kind: "text", content }];
}

/** @param {Part[]} parts @param {Frame} frame @returns {Part[]} */
function withMoreReasoning(parts, { content, item_id: item }) {
  const last = parts.at(-1);
  if (last?.kind !== "reasoning") return [...parts, { kind: "reasoning", content, item }];
  const gap = last.item !== undefined && last.item !== item ? "\n\n" : "";
  return [...parts.slice(0, -1), { ...last, item, content: last.content + gap + content }];
}

/** Exactly this text, in place of what stood there. @param {Part[]} parts @param {string} content @returns {Part[]} */
function withText(parts, content) {
  if (textOf(parts) === content) return parts;
  const rest = parts.filter((part) => part.kind !== "text");
  return content ? [...rest, { kind: "text", content }] : rest;
}

/** @param {Part[]} parts */
function textOf(parts) {
  return parts.map((part) => (part.kind === "text" ? part.content : "")).join("");
}

/** @param {any} request @returns {Part} */
function approvalPart(request) {
  const { kind, title, detail, options, free_text, expires_at } = request;
  return { kind: "approval", approval_id: request.approval_id, call_id: request.call_id, title, request: { kind, detail, options, free_text, expires_at } };
}

/** @param {Thread} thread @param {Frame} done @returns {Thread} */
function finished(thread, done) {
  const queued = thread.queued.filter((turnId) => turnId !== done.turn_id);
  const { message_id, status, stop_reason, usage, duration_ms, error } = done;
  const settled = withParts({ ...thread, queued }, done, (parts) => {
    const whole = done.truncated && codePoints(textOf(parts)) === done.length;
    return whole ? parts : withText(parts, done.content);
  });
  const messages = settled.messages.map((entry) => {
    if (entry.role !== "assistant" || entry.turn_id !== done.turn_id) return entry;
    const truncated = done.truncated && codePoints(entry.content) !== done.length;
    return { ...entry, message_id, status, stop_reason, usage, duration_ms, ...(error && { error }), ...(truncated && { truncated }) };
  });
  return { ...settled, messages };
}

/** @param {any} message @returns {Entry} */
function fromHistory(message) {
  if (message.role === "user") return message;
  return { ...message, parts: message.content ? [{ kind: "text", content: message.content }] : [] };
}

/** @param {Thread} thread @param {Frame} snapshot @returns {Thread} */
function fromSnapshot(thread, snapshot) {
  const known = new Map(thread.messages.map((entry) => [entry.message_id, entry]));
  /** @type {Entry[]} */
  const messages = snapshot.messages.map((/** @type {any} */ message) => {
    const before = known.get(message.message_id);
    // What was seen of reasoning and tools is more than a snapshot tells.
    return before && before.content === message.content && before.status === message.status ? before : fromHistory(message);
  });
  const oldest = messages[0]?.message_id;
  const place = thread.messages.findIndex((entry) => entry.message_id === oldest);
  if (place > 0) messages.unshift(...thread.messages.slice(0, place));
  const { turn } = snapshot;
  if (turn) {
    // A snapshot tells no order. What the turn is at now is its newest part.
    const tools = turn.tools.map((/** @type {any} */ tool) => ({ kind: "tool", ...tool }));
    /** @type {Part[]} */
    const parts = [
      ...(turn.reasoning ? [{ kind: /** @type {const} */ ("reasoning"), content: turn.reasoning }] : []),
      ...tools.filter((/** @type {any} */ tool) => tool.status !== "running"),
      ...(turn.content ? [{ kind: /** @type {const} */ ("text"), content: turn.content }] : []),
      ...tools.filter((/** @type {any} */ tool) => tool.status === "running"),
      ...snapshot.approvals.map(approvalPart),
    ];
    messages.push({ ...newAnswer(turn.turn_id, snapshot.timestamp), parts, content: turn.content, ...(turn.truncated && { truncated: true }) });
  }
  return { ...thread, cursor: snapshot.cursor, messages };
}

// --- small things ----------------------------------------------------------------------------------------------------

/** Doubles, with jitter, up to a bound. @param {number} attempt */
function backoff(attempt) {
  return Math.min(BACKOFF_MOST_MS, BACKOFF_MS * 2 ** Math.min(attempt, 10)) * (0.5 + Math.random() / 2);
}

/** @param {Record<string, any>} query */
function queryString(query) {
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== null);
  return pairs.length ? `?${pairs.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}` : "";
}

/** @param {string} text */
function codePoints(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** UTF-8 as a string of one character per byte. By hand: React Native has no `TextEncoder` everywhere. @param {string} text */
function utf8(text) {
  return encodeURIComponent(text.replace(/[\ud800-\udfff]/gu, "\ufffd")).replace(/%([0-9A-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16)));
}

/** RFC 4648, 5, without padding. @param {string} text */
function base64url(text) {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const bytes = utf8(text);
  let encoded = "";
  for (let index = 0; index < bytes.length; index += 3) {
    const three = (bytes.charCodeAt(index) << 16) | ((bytes.charCodeAt(index + 1) || 0) << 8) | (bytes.charCodeAt(index + 2) || 0);
    const letters = Math.min(4, bytes.length - index + 1);
    for (let place = 0; place < letters; place += 1) encoded += alphabet[(three >> (18 - 6 * place)) & 63];
  }
  return encoded;
}
