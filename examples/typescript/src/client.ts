// The protocol without a socket: frames in, state and frames to send out. No I/O, no clock, no randomness.

import type { ClientFrame, LoggedFrame, ServerFrame, WholeTurn } from "./frames.js";
import { afterClose, type Next } from "./reconnect.js";
import { newTurn, NOTHING, type Outgoing, type State, type Thread, type Turn } from "./state.js";

type Snapshot = Extract<ServerFrame, { type: "snapshot" }>;

export class Client {
  /** Replaced, never changed: compare by identity. */
  state: State;
  /** `ready` came on this connection. */
  online = false;
  /** The threads of which frames are taken, on this connection. */
  private following = new Set<string>();
  /** Turns that wait, by thread, between `attached` and its `snapshot`. */
  private queued = new Map<string, Set<string>>();
  private frameBytes = Infinity;
  private attempt = 0;
  private retryAfterMs = 0;
  private reconnectAfterMs = 0;

  constructor(state: State = NOTHING) {
    const threads = Object.values(state.threads).map((thread) => [thread.thread_id, { ...thread, typing: false }]);
    this.state = { ...state, threads: Object.fromEntries(threads) };
  }

  // --- what a person does; each returns the frames to send now ---

  /** Queue a message. `id` and the thread's id are the app's own; a UUID serves for both. */
  send(threadId: string, content: string, id: string): ClientFrame[] {
    const message: Outgoing = { id, thread_id: threadId, content, status: "sending", turn_id: null, error: null };
    this.state = { ...this.state, outbox: [...this.state.outbox, message] };
    return this.online ? this.transmit([message]) : [];
  }

  /** Try a failed message once more, under the same id: it is never answered twice. */
  resend(id: string): ClientFrame[] {
    const failed = this.state.outbox.filter((message) => message.id === id && message.status === "failed");
    return this.online ? this.transmit(failed) : [];
  }

  /** Follow a thread, from a list screen say. */
  open(threadId: string): ClientFrame[] {
    if (!this.state.threads[threadId]) this.putThread(emptyThread(threadId));
    return this.online && !this.following.has(threadId) ? [this.attach(threadId)] : [];
  }

  /** Follow it no more, and forget what was shown. */
  leave(threadId: string): ClientFrame[] {
    const known = this.state.threads[threadId] !== undefined;
    this.dropThread(threadId);
    this.following.delete(threadId);
    return this.online && known ? [{ type: "detach", thread_id: threadId }] : [];
  }

  decide(approvalId: string, decision: string, text: string | null = null): ClientFrame[] {
    const others = this.state.decisions.filter((other) => other.approval_id !== approvalId);
    this.state = { ...this.state, decisions: [...others, { approval_id: approvalId, decision, text }] };
    return this.online ? this.decisionFrames().slice(-1) : [];
  }

  /** A person has this message on screen. */
  seen(threadId: string, messageId: string): ClientFrame[] {
    const thread = this.state.threads[threadId];
    if (!thread || thread.seen === messageId) return [];
    this.putThread({ ...thread, seen: messageId });
    return this.online ? [{ type: "seen", thread_id: threadId, message_id: messageId }] : [];
  }

  /** Stop what runs and what waits in a thread. */
  cancel(threadId: string): ClientFrame[] {
    return this.online ? [{ type: "cancel", thread_id: threadId }] : [];
  }

  // --- what the connection does ---

  /** Turns whose whole text is to be fetched from `GET /api/turns/{id}`, for `whole`. */
  missing(): string[] {
    const turns = Object.values(this.state.threads).flatMap((thread) => thread.turns);
    return turns.filter((turn) => turn.cut && turn.status !== "running").map((turn) => turn.turn_id);
  }

  whole(turn: WholeTurn): void {
    for (const thread of Object.values(this.state.threads)) {
      if (thread.turns.some((shown) => shown.turn_id === turn.turn_id))
        this.changeTurn(thread.thread_id, turn.turn_id, () => ({
          text: turn.content,
          user: turn.user_message.content,
          cut: false,
        }));
    }
  }

  /** The connection has ended with this code (1006 when there was none); `random` is in [0, 1). */
  closed(code: number, random: number): Next {
    this.online = false;
    this.following.clear();
    this.queued.clear();
    for (const thread of Object.values(this.state.threads)) {
      if (thread.typing) this.putThread({ ...thread, typing: false });
    }
    if (code === 1009) this.failLongest();
    const floor = Math.max(this.reconnectAfterMs, code === 4429 ? this.retryAfterMs : 0);
    this.reconnectAfterMs = this.retryAfterMs = 0;
    return afterClose(code, this.attempt++, floor, random);
  }

  /** Take one frame of the server. Returns the frames to send now. */
  receive(frame: ServerFrame): ClientFrame[] {
    switch (frame.type) {
      case "ready":
        this.frameBytes = frame.limits.client_frame_bytes;
        this.attempt = 0;
        return this.online ? [] : this.catchUp();
      case "accepted":
        return this.accepted(frame);
      case "attached":
        return this.attached(frame);
      case "snapshot":
        if (this.following.has(frame.thread_id)) this.startOver(frame);
        return [];
      case "typing":
        if (this.following.has(frame.thread_id)) this.changeThread(frame.thread_id, { typing: frame.active });
        return [];
      case "read":
        if (this.state.threads[frame.thread_id]) this.changeThread(frame.thread_id, { seen: frame.message_id });
        return [];
      case "thread_updated": {
        const { [frame.thread_id]: _, ...others } = this.state.list;
        const { type: _type, ...summary } = frame;
        const deleted = frame.status === "deleted";
        this.state = { ...this.state, list: deleted ? others : { ...others, [frame.thread_id]: summary } };
        if (deleted) this.leave(frame.thread_id);
        return [];
      }
      case "error":
        if (frame.retry_after !== undefined) this.retryAfterMs = frame.retry_after * 1000;
        if (frame.id !== undefined) {
          const { code, message, retryable } = frame;
          this.changeOutgoing(frame.id, { status: "failed", error: { code, message, retryable } });
        }
        return [];
      case "goodbye":
        this.reconnectAfterMs = frame.reconnect_after_ms;
        return [];
      case "approval_resolved":
        if (frame.cursor === undefined || this.following.has(frame.thread_id)) {
          this.resolved(frame.thread_id, frame.turn_id, frame.approval_id);
          if (frame.cursor !== undefined) this.changeThread(frame.thread_id, { cursor: frame.cursor });
        }
        return [];
      case "user_message":
      case "message":
      case "reset":
      case "reasoning":
      case "tool_call":
      case "tool_result":
      case "approval_request":
      case "done":
        // Not followed: it was on its way when the person left the thread, or an `attach` will bring it again.
        if (this.following.has(frame.thread_id)) {
          this.apply(frame);
          this.changeThread(frame.thread_id, { cursor: frame.cursor });
        }
        return [];
      default: // `detached`, `pong`, and what later servers may add
        return [];
    }
  }

  /** First the threads, so that nothing is skipped; then what was not confirmed, under the same ids. */
  private catchUp(): ClientFrame[] {
    this.online = true;
    const threads = Object.values(this.state.threads);
    const again = this.state.outbox.filter(
      (message) => message.status === "sending" || (message.status === "failed" && message.error?.retryable),
    );
    return [
      ...threads.map((thread) => this.attach(thread.thread_id)),
      ...this.transmit(again),
      ...this.decisionFrames(),
      // The mark only moves forward: saying it again does no harm.
      ...threads.flatMap((thread): ClientFrame[] =>
        thread.seen === null ? [] : [{ type: "seen", thread_id: thread.thread_id, message_id: thread.seen }],
      ),
    ];
  }

  private attach(threadId: string): ClientFrame {
    const cursor = this.state.threads[threadId]?.cursor;
    return { type: "attach", thread_id: threadId, ...(cursor ? { cursor } : {}) };
  }

  private transmit(messages: Outgoing[]): ClientFrame[] {
    return messages.flatMap((message): ClientFrame[] => {
      const { id, thread_id, content } = message;
      const frame: ClientFrame = { type: "message", id, thread_id, content };
      const tooLong = new TextEncoder().encode(JSON.stringify(frame)).length > this.frameBytes;
      this.changeOutgoing(id, tooLong ? { status: "failed", error: TOO_LARGE } : { status: "sending", error: null });
      return tooLong ? [] : [frame];
    });
  }

  private decisionFrames(): ClientFrame[] {
    return this.state.decisions.map(({ approval_id, decision, text }) => ({
      type: "approval",
      approval_id,
      decision,
      ...(text === null ? {} : { text }),
    }));
  }

  private attached(frame: Extract<ServerFrame, { type: "attached" }>): ClientFrame[] {
    const thread = this.state.threads[frame.thread_id];
    if (!thread) return [];
    if (frame.recovered && frame.cursor !== thread.cursor) {
      // More was shown since this was asked for, and would be shown twice.
      this.following.delete(frame.thread_id);
      return [this.attach(frame.thread_id)];
    }
    this.following.add(frame.thread_id);
    if (!frame.recovered) {
      const waiting = frame.turns.filter((turn) => turn.status === "queued").map((turn) => turn.turn_id);
      this.queued.set(frame.thread_id, new Set(waiting));
    }
    return [];
  }

  private accepted(frame: Extract<ServerFrame, { type: "accepted" }>): ClientFrame[] {
    const { thread_id, turn_id } = frame;
    const thread = this.state.threads[thread_id] ?? emptyThread(thread_id);
    if (thread.turns.some((turn) => turn.turn_id === turn_id)) this.dropOutgoing((other) => other.id === frame.id);
    else if (frame.id !== null) this.changeOutgoing(frame.id, { status: "accepted", turn_id });
    if (thread.cursor !== null && !this.following.has(thread_id)) {
      // The server follows from this turn on; what came before it is missing here.
      return [this.attach(thread_id)];
    }
    this.following.add(thread_id);
    this.putThread({ ...thread, cursor: thread.cursor ?? frame.cursor });
    return [];
  }

  private apply(frame: LoggedFrame): void {
    const change = (what: (turn: Turn) => Partial<Turn>) => this.changeTurn(frame.thread_id, frame.turn_id, what);
    switch (frame.type) {
      case "user_message":
        this.dropOutgoing((message) => message.id === frame.id || message.turn_id === frame.turn_id);
        return change(() => ({ user: frame.content, cut: frame.truncated ?? false }));
      case "message":
        return change((turn) => ({ text: turn.text + frame.content }));
      case "reset":
        return change(() => ({ text: frame.content, cut: frame.truncated ?? false }));
      case "reasoning":
        return change((turn) => ({ reasoning: turn.reasoning + frame.content }));
      case "tool_call": {
        const { call_id, name, title } = frame;
        return change((turn) => ({ tools: [...turn.tools, { call_id, name, title, status: "running" }] }));
      }
      case "tool_result": {
        const { call_id, status } = frame;
        return change((turn) => ({
          tools: turn.tools.map((tool) => (tool.call_id === call_id ? { ...tool, status } : tool)),
        }));
      }
      case "approval_request": {
        const { approval_id, turn_id, kind, title, detail, options, free_text, expires_at } = frame;
        const approval = { approval_id, turn_id, kind, title, detail, options, free_text, expires_at };
        return change((turn) => ({ approvals: [...turn.approvals, approval] }));
      }
      case "done": {
        const { status, message_id, content, error = null, truncated = false, length } = frame;
        return change((turn) => ({
          status,
          message_id,
          error,
          // Authoritative where it is whole; where it is cut, what was joined is whole unless its beginning was cut too.
          text: truncated ? turn.text : content,
          cut: truncated && (turn.cut || codePoints(turn.text) !== length),
        }));
      }
    }
  }

  private resolved(threadId: string, turnId: string, approvalId: string): void {
    const decisions = this.state.decisions.filter((decision) => decision.approval_id !== approvalId);
    this.state = { ...this.state, decisions };
    if (this.state.threads[threadId]?.turns.some((turn) => turn.turn_id === turnId))
      this.changeTurn(threadId, turnId, (turn) => ({
        approvals: turn.approvals.filter((approval) => approval.approval_id !== approvalId),
      }));
  }

  /** The log could not go on from where this client stood: what the snapshot shows replaces all that was shown. */
  private startOver(frame: Snapshot): void {
    const turns = new Map<string, Turn>();
    const turnOf = (turnId: string) => {
      const turn = turns.get(turnId) ?? newTurn(turnId);
      turns.set(turnId, turn);
      return turn;
    };
    for (const message of frame.messages) {
      const turn = turnOf(message.turn_id);
      if (message.role === "user") turn.user = message.content;
      else {
        turn.text = message.content;
        turn.message_id = message.message_id;
        turn.status = message.status ?? "completed";
      }
      turn.cut ||= message.truncated ?? false;
    }
    if (frame.turn !== null) {
      const { turn_id, content, reasoning, tools, truncated = false } = frame.turn;
      const turn = turnOf(turn_id);
      Object.assign(turn, { text: content, reasoning, tools, cut: turn.cut || truncated });
    }
    const gone = new Set(this.state.threads[frame.thread_id]?.turns.flatMap((turn) => turn.approvals.map(idOf)));
    for (const approval of frame.approvals) {
      turnOf(approval.turn_id).approvals.push(approval);
      gone.delete(approval.approval_id);
    }
    const decisions = this.state.decisions.filter((decision) => !gone.has(decision.approval_id));
    this.state = { ...this.state, decisions };
    const waiting = this.queued.get(frame.thread_id);
    this.dropOutgoing(
      (message) =>
        message.thread_id === frame.thread_id &&
        message.turn_id !== null &&
        (turns.has(message.turn_id) || !waiting?.has(message.turn_id)),
    );
    this.changeThread(frame.thread_id, { cursor: frame.cursor, turns: [...turns.values()] });
  }

  private failLongest(): void {
    const sending = this.state.outbox.filter((message) => message.status === "sending");
    const longest = sending.sort((a, b) => b.content.length - a.content.length)[0];
    if (longest) this.changeOutgoing(longest.id, { status: "failed", error: TOO_LARGE });
  }

  // --- changes of the state, each a new value ---

  private putThread(thread: Thread): void {
    this.state = { ...this.state, threads: { ...this.state.threads, [thread.thread_id]: thread } };
  }

  private dropThread(threadId: string): void {
    const { [threadId]: _, ...threads } = this.state.threads;
    this.state = { ...this.state, threads };
  }

  private changeThread(threadId: string, change: Partial<Thread>): void {
    this.putThread({ ...(this.state.threads[threadId] ?? emptyThread(threadId)), ...change });
  }

  private changeTurn(threadId: string, turnId: string, change: (turn: Turn) => Partial<Turn>): void {
    const turns = [...(this.state.threads[threadId]?.turns ?? [])];
    let at = turns.findLastIndex((turn) => turn.turn_id === turnId);
    if (at < 0) at = turns.length;
    const turn = turns[at] ?? newTurn(turnId);
    turns[at] = { ...turn, ...change(turn) };
    this.changeThread(threadId, { turns });
  }

  private changeOutgoing(id: string, change: Partial<Outgoing>): void {
    const outbox = this.state.outbox.map((message) => (message.id === id ? { ...message, ...change } : message));
    this.state = { ...this.state, outbox };
  }

  private dropOutgoing(which: (message: Outgoing) => boolean): void {
    this.state = { ...this.state, outbox: this.state.outbox.filter((message) => !which(message)) };
  }
}

const TOO_LARGE = { code: "too_large", message: "This message is too long for the server.", retryable: false };

function emptyThread(thread_id: string): Thread {
  return { thread_id, cursor: null, turns: [], typing: false, seen: null };
}

function idOf(approval: { approval_id: string }): string {
  return approval.approval_id;
}

/** Lengths on the wire count Unicode code points, JavaScript's count UTF-16 units. */
function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count++;
  return count;
}
