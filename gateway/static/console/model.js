/**
 * What the console knows: agents, threads, the open thread, and messages on their way. It follows one thread, the open one, and
 * keeps the others with their cursors. Views read it, and are told by `onChange`.
 */

import { Agentline, applyFrame, emptyThread, newId, withHistory } from "../agentline.js";
import { deviceId, forgetThread, load, loadThread, save, saveThread } from "./storage.js";

/**
 * @typedef {import("../agentline.js").Thread} Thread
 * @typedef {{thread_id: string, agent: string, title: string, status: string, unread: number, updated_at: string, preview: string}} Summary
 * @typedef {{name: string, configured: boolean, reason: string | null, capabilities: string[]}} Agent
 * @typedef {{id: string, threadId: string, agent: string, content: string, state: "sending" | "queued" | "failed", turnId?: string, problem?: string}} Pending
 */

const SAVE_MS = 500;
const PAGE = 40;
/** As long as a notice's preview; a page of threads brings more of the message. */
const PREVIEW_CHARS = 200;

export class Model {
  /** @type {Agent[]} */ agents = [];
  /** @type {Map<string, Summary>} */ threads = new Map();
  /** @type {number | null} */ moreThreads = null;
  /** @type {Thread | null} */ open = null;
  /** @type {Pending[]} */ pending = load("pending") ?? [];
  /** Whether there may be history before the first message shown. */
  moreHistory = false;
  /** What could not be done, for a person; cleared by the next action. */
  problem = "";

  /** @type {Agentline} */ line;
  #token;
  #onChange;
  /** @type {any} */ #saving = null;
  #agent = load("agent") ?? "";

  /** @param {string} token @param {() => void} onChange */
  constructor(token, onChange) {
    this.#token = token;
    this.#onChange = onChange;
    this.line = this.#newLine();
  }

  /** Agents and threads, then the connection. Rejects as `line.request` does; without a network, shows what is kept. */
  async start() {
    try {
      this.agents = await this.line.agents();
      save("agents", this.agents);
    } catch (error) {
      if (/** @type {any} */ (error).code !== "unreachable") throw error;
      this.agents = load("agents") ?? [];
      for (const summary of load("threads") ?? []) this.threads.set(summary.thread_id, summary);
    }
    const configured = this.agents.filter((agent) => agent.configured);
    if (!configured.some((agent) => agent.name === this.#agent)) this.#agent = configured[0]?.name ?? this.agents[0]?.name ?? "demo";
    this.line = this.#newLine(); // for the agent that is there; messages to others go by HTTP
    this.#listen();
    this.line.connect();
    for (const pending of this.pending) if (pending.state === "sending") void this.#transmit(pending);
    this.#changed();
  }

  stop() {
    this.line.close();
  }

  /** The agent that a new thread begins with. */
  get agent() {
    return this.#agent;
  }

  set agent(name) {
    this.#agent = name;
    save("agent", name);
    this.#changed();
  }

  /** The agent of the open thread, or of the one to be begun. */
  get speaker() {
    return (this.open && this.threads.get(this.open.threadId)?.agent) || this.pending.find((one) => one.threadId === this.open?.threadId)?.agent || this.#agent;
  }

  /** The answer that is being written, if there is one. */
  get running() {
    return this.open?.messages.find((entry) => entry.status === "running") ?? null;
  }

  // --- what a person does --------------------------------------------------------------------------------------

  /** @param {string | null} threadId null begins a new one */
  show(threadId) {
    if (this.open?.threadId === threadId) return;
    this.saveOpen();
    if (this.open) this.line.unfollow(this.open.threadId);
    this.problem = "";
    this.moreHistory = threadId !== null;
    this.open = threadId === null ? null : (loadThread(threadId) ?? emptyThread(threadId));
    // A thread whose first message is still on its way is not there yet: its acceptance will follow it.
    const unborn = !this.open?.cursor && this.pending.some((one) => one.threadId === threadId && !one.turnId);
    if (this.open && !(unborn && !this.threads.has(this.open.threadId))) this.line.follow(this.open.threadId, this.open.cursor);
    this.#changed();
    this.#seen();
  }

  /** @param {string} content @returns {string} the thread's id */
  send(content) {
    const threadId = this.open?.threadId ?? newId();
    const pending = /** @type {Pending} */ ({ id: newId(), threadId, agent: this.speaker, content, state: "sending" });
    this.open ??= emptyThread(threadId);
    this.#setPending([...this.pending, pending]);
    void this.#transmit(pending);
    return threadId;
  }

  /** @param {Pending} pending */
  resend(pending) {
    const again = { ...pending, state: /** @type {const} */ ("sending"), problem: undefined };
    this.#replacePending(pending, again);
    void this.#transmit(again);
  }

  /** Take a waiting message back. @param {Pending} pending */
  async withdraw(pending) {
    if (pending.turnId) await this.#attempt(() => this.line.cancel(/** @type {string} */ (pending.turnId)));
    this.#setPending(this.pending.filter((one) => one.id !== pending.id));
  }

  /** Stop the answer that is being written. */
  async cancel() {
    const turnId = this.running?.turn_id;
    if (turnId) await this.#attempt(() => this.line.cancel(turnId));
  }

  /** @param {string} turnId */
  async retry(turnId) {
    await this.#attempt(() => this.line.retry(turnId));
  }

  /** @param {string} approvalId @param {string} decision @param {string} [text] @returns {Promise<boolean>} whether it was told */
  async decide(approvalId, decision, text) {
    return this.#attempt(() => this.line.decide(approvalId, decision, text));
  }

  /** @param {string} title */
  async rename(title) {
    const threadId = this.open?.threadId;
    if (threadId) await this.#attempt(() => this.line.rename(threadId, title));
  }

  async remove() {
    const threadId = this.open?.threadId;
    if (threadId) await this.#attempt(() => this.line.remove(threadId));
  }

  /** The whole of an answer or a message that frames showed cut. @param {import("../agentline.js").Entry} entry */
  async whole(entry) {
    const turn = await this.line.turn(entry.turn_id);
    const content = entry.role === "user" ? turn.user_message.content : turn.content;
    if (!this.open) return;
    const full = { ...entry, content, truncated: false, ...(entry.role === "assistant" && { parts: [{ kind: /** @type {const} */ ("text"), content }] }) };
    this.#setOpen({ ...this.open, messages: this.open.messages.map((one) => (one === entry ? full : one)) });
  }

  async loadHistory() {
    const thread = this.open;
    const first = thread?.messages.find((entry) => entry.message_id);
    if (!thread || !first?.message_id) return;
    this.moreHistory = false;
    const page = await this.line.messages(thread.threadId, { before: first.message_id, limit: PAGE });
    if (this.open?.threadId !== thread.threadId) return;
    this.moreHistory = page.length === PAGE;
    this.#setOpen(withHistory(this.open, page));
  }

  async loadThreads() {
    const before = this.moreThreads;
    const page = await this.line.threads({ before: before ?? undefined, limit: PAGE });
    this.moreThreads = page.before;
    if (before === null) this.#dropDeleted(page.threads, page.before === null);
    for (const { last_message, ...summary } of page.threads) this.threads.set(summary.thread_id, { ...summary, preview: last_message?.content ?? "" });
    save("threads", [...this.threads.values()].slice(0, 2 * PAGE));
    this.#changed();
  }

  /** What the newest page should hold and does not was deleted while we were away. @param {Summary[]} page @param {boolean} all */
  #dropDeleted(page, all) {
    const there = new Set(page.map((one) => one.thread_id));
    const oldest = page.at(-1)?.updated_at ?? "";
    for (const { thread_id: threadId, updated_at: at } of [...this.threads.values()]) {
      if (!there.has(threadId) && (all || at > oldest)) this.threads.delete(threadId);
    }
  }

  /** Keep the open thread with its cursor. */
  saveOpen() {
    clearTimeout(this.#saving);
    this.#saving = null;
    if (this.open?.cursor) saveThread(this.open);
  }

  /** What was seen on screen is read. Called when the page comes to the front, too. */
  seen() {
    this.#seen();
  }

  // --- what the gateway says -----------------------------------------------------------------------------------

  #newLine() {
    return new Agentline({ url: location.origin, token: this.#token, agent: this.#agent, deviceId: deviceId() });
  }

  #listen() {
    this.line.on("frame", (frame) => this.#receive(frame));
    this.line.on("state", ({ state }) => {
      if (state === "online") {
        this.moreThreads = null;
        this.loadThreads().catch(() => {}); // the next connection loads them again
      }
      this.#changed();
    });
    this.line.on("lost", ({ thread_id: threadId, error }) => {
      if (this.open?.threadId !== threadId) return;
      forgetThread(threadId);
      this.open = null;
      this.problem = error.code === "not_found" ? "This conversation does not exist any more." : error.message;
      this.#changed();
    });
  }

  /** @param {import("../agentline.js").Frame} frame */
  #receive(frame) {
    if (frame.type === "thread_updated") this.#updateSummary(frame);
    else if (frame.type === "accepted") this.#accepted(frame);
    if (!this.open || frame.thread_id !== this.open.threadId) return;
    const next = applyFrame(this.open, frame);
    if (next !== this.open) this.#setOpen(next);
    if (frame.type === "attached") void this.#nameQueued();
    if (frame.type === "user_message" || frame.type === "snapshot" || frame.type === "done") this.#settlePending();
    if (frame.type === "done" || frame.type === "snapshot") this.#seen();
  }

  /** @param {import("../agentline.js").Frame} frame */
  #updateSummary(frame) {
    const { thread_id: threadId, agent, title, status, unread, preview, timestamp } = frame;
    if (status === "deleted") {
      this.threads.delete(threadId);
      forgetThread(threadId);
      if (this.open?.threadId === threadId) this.open = null;
    } else {
      // Reading or renaming a thread does not move it to the top.
      const known = this.threads.get(threadId);
      const still = known && known.status === status && known.preview.slice(0, PREVIEW_CHARS) === preview;
      this.threads.set(threadId, { thread_id: threadId, agent, title, status, unread, preview, updated_at: still ? known.updated_at : timestamp });
    }
    this.#changed();
  }

  /** @param {import("../agentline.js").Frame} frame */
  #accepted(frame) {
    const pending = this.pending.find((one) => one.id === frame.id);
    if (!pending) return;
    const elsewhere = this.open?.threadId !== pending.threadId;
    if (elsewhere) this.line.unfollow(pending.threadId);
    // A duplicate whose turn is already shown, or one of a thread that is not: nothing more will come for it here.
    const shown = this.open?.messages.some((entry) => entry.message_id === frame.message_id);
    if (elsewhere || shown) this.#setPending(this.pending.filter((one) => one !== pending));
    else this.#replacePending(pending, { ...pending, turnId: frame.turn_id, state: frame.queued ? "queued" : "sending" });
  }

  /** Messages that wait in the open thread and were sent from elsewhere, or before a reload. */
  async #nameQueued() {
    const thread = this.open;
    const missing = thread?.queued.filter((turnId) => !this.pending.some((one) => one.turnId === turnId)) ?? [];
    for (const turnId of missing) {
      const turn = await this.line.turn(turnId).catch(() => null);
      if (turn?.status !== "queued" || this.pending.some((one) => one.turnId === turnId)) continue;
      const { id, content } = turn.user_message;
      const known = this.pending.find((one) => id && one.id === id);
      if (known) this.#replacePending(known, { ...known, turnId, state: "queued" });
      else this.#setPending([...this.pending, { id: id ?? turnId, threadId: turn.thread_id, agent: turn.agent, content, state: "queued", turnId }]);
    }
  }

  /** Of turns that were cancelled and say nothing: whether they had begun. Asked once each. */
  async #nameUnstarted() {
    const { threadId, messages = [] } = this.open ?? {};
    for (const { role, status, content, parts, turn_id: turnId, unstarted } of /** @type {any[]} */ (messages)) {
      if (role !== "assistant" || status !== "cancelled" || content || parts?.length || unstarted !== undefined || this.#asked.has(turnId)) continue;
      this.#asked.add(turnId);
      const turn = await this.line.turn(turnId).catch(() => null);
      if (!turn) this.#asked.delete(turnId);
      if (!turn || this.open?.threadId !== threadId) return;
      const named = this.open.messages.map((one) => (one.turn_id === turnId && one.role === "assistant" ? { ...one, unstarted: turn.started_at === null } : one));
      this.#setOpen({ ...this.open, messages: named });
    }
  }
  #asked = new Set();

  /** A pending message is shown no more as such once its turn is in the thread. */
  #settlePending() {
    const thread = this.open;
    if (!thread) return;
    const turns = new Set(thread.messages.map((entry) => entry.turn_id));
    const ids = new Set(thread.messages.map((entry) => entry.id));
    const left = this.pending.filter((one) => one.threadId !== thread.threadId || (!ids.has(one.id) && !(one.turnId && turns.has(one.turnId))));
    if (left.length !== this.pending.length) this.#setPending(left);
  }

  /** @param {Pending} pending */
  async #transmit(pending) {
    const { id, threadId, agent, content } = pending;
    try {
      await this.line.send(content, { id, threadId, agent });
    } catch (error) {
      const { code, message } = /** @type {any} */ (error);
      const known = this.pending.find((one) => one.id === id);
      if (known && code !== "closed") this.#replacePending(known, { ...known, state: "failed", problem: message });
    }
  }

  /** @param {() => Promise<unknown>} action */
  async #attempt(action) {
    this.problem = "";
    try {
      await action();
      return true;
    } catch (error) {
      this.problem = /** @type {Error} */ (error).message;
      return false;
    } finally {
      this.#changed();
    }
  }

  #seen() {
    const last = this.open?.messages.findLast((entry) => entry.role === "assistant" && entry.message_id);
    if (!this.open || !last?.message_id || document.visibilityState !== "visible") return;
    if (this.threads.get(this.open.threadId)?.unread === 0 && this.#lastSeen === last.message_id) return;
    this.#lastSeen = last.message_id;
    this.line.seen(this.open.threadId, last.message_id);
  }
  /** @type {string | null} */ #lastSeen = null;

  /** @param {Pending} before @param {Pending} after */
  #replacePending(before, after) {
    this.#setPending(this.pending.map((one) => (one.id === before.id ? after : one)));
  }

  /** @param {Pending[]} pending */
  #setPending(pending) {
    this.pending = pending;
    save("pending", pending.length ? pending : null);
    this.#changed();
  }

  /** @param {Thread} thread */
  #setOpen(thread) {
    this.open = thread;
    void this.#nameUnstarted();
    this.#saving ??= setTimeout(() => this.saveOpen(), SAVE_MS);
    this.#changed();
  }

  #changed() {
    this.#onChange();
  }
}
