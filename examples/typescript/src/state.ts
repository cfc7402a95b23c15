// What an app keeps and shows. Plain JSON under the wire's own names: store it whole, in one write, so that a cursor
// never goes apart from the text it belongs to.

import type { Approval, Failure, Summary, Tool } from "./frames.js";

export interface Turn {
  turn_id: string;
  /** What the person wrote. */
  user: string;
  /** The answer so far. */
  text: string;
  reasoning: string;
  /** `running` until it is `completed`, `cancelled`, `failed` or `interrupted`. */
  status: string;
  /** The answer's id, for `seen`; known when the turn has ended. */
  message_id: string | null;
  tools: Tool[];
  /** What waits for a decision. */
  approvals: Approval[];
  error: Failure | null;
  /** The text is not all of it: `GET /api/turns/{id}` has the whole once the turn has ended. */
  cut: boolean;
}

export interface Thread {
  thread_id: string;
  /** Where to go on; null until something of the thread was shown. */
  cursor: string | null;
  turns: Turn[];
  /** The agent is at work. */
  typing: boolean;
  /** The last message that a person has seen, on whichever device. */
  seen: string | null;
}

/** A message that is not in its thread's log yet: show it below the turns. */
export interface Outgoing {
  id: string;
  thread_id: string;
  content: string;
  /** `accepted`: durable, and waits for its turn. `failed`: see `error`; sent again at the next connect if retryable. */
  status: "sending" | "accepted" | "failed";
  turn_id: string | null;
  error: Failure | null;
}

export interface Decision {
  approval_id: string;
  decision: string;
  text: string | null;
}

export interface State {
  threads: { [thread_id: string]: Thread };
  outbox: Outgoing[];
  /** Answers to approval requests that are not confirmed yet. */
  decisions: Decision[];
  /** For a list screen. */
  list: { [thread_id: string]: Summary };
}

export const NOTHING: State = { threads: {}, outbox: [], decisions: [], list: {} };

export function newTurn(turn_id: string): Turn {
  return {
    turn_id,
    user: "",
    text: "",
    reasoning: "",
    status: "running",
    message_id: null,
    tools: [],
    approvals: [],
    error: null,
    cut: false,
  };
}
