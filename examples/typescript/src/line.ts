// One socket to the gateway that comes back by itself. For browsers, React Native and Node.

import { Client } from "./client.js";
import type { ClientFrame, ServerFrame, WholeTurn } from "./frames.js";
import type { State } from "./state.js";

export interface Options {
  /** `https://chat.example.org` */
  url: string;
  agent: string;
  /** A token that is valid now; a fresh one if `renew`. Asked before every connect. */
  token: (renew: boolean) => Promise<string>;
  /** The id under which this device is registered for push. */
  deviceId?: string;
  /** What was kept of an earlier life of the app. */
  state?: State;
  /** The line is closed for good until `start`: 4501 sign in again, 4503 and 4504 ask the operator, 4505 too many. */
  onStop?: (code: number) => void;
}

const RENEW_BEFORE_MS = 60_000;
/** The longest that `setTimeout` waits. */
const LONGEST_MS = 2 ** 31 - 1;

export class Line {
  private readonly client: Client;
  private readonly listeners = new Set<() => void>();
  private socket: WebSocket | null = null;
  /** Whether it is to be connected; a token that comes after `stop` finds another number. */
  private life = 0;
  private running = false;
  private waiting: ReturnType<typeof setTimeout> | undefined;
  private heartbeat: ReturnType<typeof setInterval> | undefined;
  private renewal: ReturnType<typeof setTimeout> | undefined;
  private lastFrameAt = 0;
  private readonly fetching = new Set<string>();

  constructor(private readonly options: Options) {
    this.client = new Client(options.state);
  }

  get state(): State {
    return this.client.state;
  }

  get online(): boolean {
    return this.client.online;
  }

  /** Be told of each change. Returns what ends it. */
  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  /** Connect, and stay connected. */
  start(): void {
    if (this.running) return;
    this.running = true;
    void this.connect(false);
  }

  stop(): void {
    this.running = false;
    this.drop();
    this.client.closed(1000, 0);
    this.changed();
  }

  /** The app is in the foreground or the network is back: do not sit out the wait. */
  wake(): void {
    if (this.running && this.waiting !== undefined) void this.connect(false);
  }

  /** Returns the message's id. Works offline: it is sent, once, when the line is back. */
  send(threadId: string, content: string): string {
    const id = newId();
    this.transmit(this.client.send(threadId, content, id));
    return id;
  }

  resend(id: string): void {
    this.transmit(this.client.resend(id));
  }

  open(threadId: string): void {
    this.transmit(this.client.open(threadId));
  }

  leave(threadId: string): void {
    this.transmit(this.client.leave(threadId));
  }

  decide(approvalId: string, decision: string, text?: string): void {
    this.transmit(this.client.decide(approvalId, decision, text));
  }

  seen(threadId: string, messageId: string): void {
    this.transmit(this.client.seen(threadId, messageId));
  }

  cancel(threadId: string): void {
    this.transmit(this.client.cancel(threadId));
  }

  private async connect(renew: boolean): Promise<void> {
    this.drop();
    const life = this.life;
    let token: string;
    try {
      token = await this.options.token(renew);
    } catch {
      if (life === this.life) this.ended(1006);
      return;
    }
    if (life !== this.life) return;
    const { url, agent, deviceId } = this.options;
    const query = deviceId === undefined ? "" : `?device_id=${encodeURIComponent(deviceId)}`;
    const address = `${url.replace(/^http/, "ws")}/api/${encodeURIComponent(agent)}/ws${query}`;
    const socket = new WebSocket(address, ["agentline.v1", `bearer.${base64url(token)}`]);
    this.socket = socket;
    this.lastFrameAt = Date.now();
    // Also ends a connect that hangs; `ready` sets the gateway's own interval.
    this.beat(socket, 10_000);
    socket.onmessage = (event) => {
      if (this.socket === socket) this.received(JSON.parse(String(event.data)) as ServerFrame);
    };
    socket.onclose = (event) => {
      if (this.socket === socket) this.ended(event.code);
    };
    // Not every platform says `close` behind it.
    socket.onerror = () => {
      if (this.socket === socket) this.ended(1006);
    };
  }

  private received(frame: ServerFrame): void {
    this.lastFrameAt = Date.now();
    if (frame.type === "ready" && this.socket) {
      this.beat(this.socket, frame.heartbeat_seconds * 1000);
      this.renewBefore(frame.expires_at);
    }
    this.transmit(this.client.receive(frame));
    for (const turnId of this.client.missing()) void this.fetchWhole(turnId);
  }

  /** A connection has ended. */
  private ended(code: number): void {
    this.drop();
    const next = this.client.closed(code, Math.random());
    if ("stop" in next) {
      this.running = false;
      this.options.onStop?.(next.stop);
    } else {
      this.waiting = setTimeout(() => void this.connect(next.renew), next.reconnect_ms);
    }
    this.changed();
  }

  /** Let go of the socket and of all timers. */
  private drop(): void {
    this.life++;
    clearTimeout(this.waiting);
    clearInterval(this.heartbeat);
    clearTimeout(this.renewal);
    this.waiting = undefined;
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  /** WebSocket pings are invisible here: a `ping` of our own each interval, and silence of two means that it is dead. */
  private beat(socket: WebSocket, interval: number): void {
    clearInterval(this.heartbeat);
    this.heartbeat = setInterval(() => {
      if (Date.now() - this.lastFrameAt >= 2 * interval) this.ended(1006);
      else if (this.online) this.put(socket, { type: "ping" });
    }, interval);
  }

  private renewBefore(expiresAt: string | null): void {
    clearTimeout(this.renewal);
    if (expiresAt === null) return;
    const wait = Math.max(Date.parse(expiresAt) - Date.now() - RENEW_BEFORE_MS, 1000);
    const life = this.life;
    this.renewal = setTimeout(async () => {
      try {
        const token = await this.options.token(true);
        if (life === this.life && this.socket) this.put(this.socket, { type: "auth", token });
      } catch {
        // The connection lives until the token expires; then the next connect asks again.
      }
    }, Math.min(wait, LONGEST_MS));
  }

  private async fetchWhole(turnId: string): Promise<void> {
    if (this.fetching.has(turnId)) return;
    this.fetching.add(turnId);
    try {
      const token = await this.options.token(false);
      const headers = { Authorization: `Bearer ${token}` };
      const answer = await fetch(`${this.options.url}/api/turns/${encodeURIComponent(turnId)}`, { headers });
      if (answer.ok) {
        this.client.whole((await answer.json()) as WholeTurn);
        this.changed();
      }
    } catch {
      // It stays `missing`: the next frame tries again.
    } finally {
      this.fetching.delete(turnId);
    }
  }

  private transmit(frames: ClientFrame[]): void {
    for (const frame of frames) if (this.socket) this.put(this.socket, frame);
    this.changed();
  }

  private put(socket: WebSocket, frame: ClientFrame): void {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(frame));
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

/** Unique per user is enough; React Native has no `crypto.randomUUID`. */
export function newId(): string {
  const part = () => Math.random().toString(36).slice(2, 12).padEnd(10, "0");
  return `${Date.now().toString(36)}-${part()}${part()}`;
}

function base64url(text: string): string {
  const bytes = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join("");
  return btoa(bytes).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
