// The frames of docs/protocol.md that this client uses. `agentline schema` prints all of them.

/** Frames that show an event. They carry the cursor with which to go on behind them. */
interface Logged {
  thread_id: string;
  turn_id: string;
  cursor: string;
}

export interface Failure {
  code: string;
  message: string;
  retryable: boolean;
}

export interface ShownMessage {
  message_id: string;
  turn_id: string;
  role: "user" | "assistant";
  content: string;
  status?: string | null;
  truncated?: boolean;
}

export interface Tool {
  call_id: string;
  name: string;
  title: string;
  status: string;
}

export interface Approval {
  approval_id: string;
  turn_id: string;
  kind: string;
  title: string;
  detail: unknown;
  options: { id: string; label: string }[];
  free_text: boolean;
  expires_at: string;
}

export interface ShownTurn {
  turn_id: string;
  content: string;
  reasoning: string;
  tools: Tool[];
  truncated?: boolean;
}

export interface OpenTurn {
  turn_id: string;
  status: string;
}

/** What `GET /api/turns/{id}` answers, as far as it is used here. */
export interface WholeTurn {
  turn_id: string;
  content: string;
  user_message: { content: string };
}

export type LoggedFrame = Logged &
  (
    | { type: "user_message"; message_id: string; id: string | null; content: string; truncated?: boolean }
    | { type: "message"; content: string }
    | { type: "reset"; content: string; truncated?: boolean }
    | { type: "reasoning"; content: string }
    | { type: "tool_call"; call_id: string; name: string; title: string }
    | { type: "tool_result"; call_id: string; status: string }
    | ({ type: "approval_request" } & Omit<Approval, "turn_id">)
    | {
        type: "done";
        status: string;
        message_id: string;
        content: string;
        error?: Failure;
        truncated?: boolean;
        length?: number;
      }
  );

export type ServerFrame =
  | LoggedFrame
  // Without a cursor where it answers a decision that came too late.
  | { type: "approval_resolved"; thread_id: string; turn_id: string; approval_id: string; cursor?: string }
  | { type: "ready"; heartbeat_seconds: number; expires_at: string | null; limits: { client_frame_bytes: number } }
  | { type: "accepted"; id: string | null; thread_id: string; turn_id: string; cursor: string }
  | { type: "typing"; thread_id: string; active: boolean }
  | { type: "attached"; thread_id: string; recovered: boolean; cursor: string; turns: OpenTurn[] }
  | {
      type: "snapshot";
      thread_id: string;
      cursor: string;
      messages: ShownMessage[];
      turn: ShownTurn | null;
      approvals: Approval[];
    }
  | { type: "detached"; thread_id: string }
  | { type: "read"; thread_id: string; message_id: string }
  | ({ type: "thread_updated" } & Summary)
  | ({ type: "error"; retry_after?: number; id?: string } & Failure)
  | { type: "pong" }
  | { type: "goodbye"; reconnect_after_ms: number };

export interface Summary {
  thread_id: string;
  agent: string;
  title: string;
  status: string;
  unread: number;
  preview: string;
}

export type ClientFrame =
  | { type: "auth"; token: string }
  | { type: "message"; id: string; thread_id: string; content: string }
  | { type: "attach"; thread_id: string; cursor?: string }
  | { type: "detach"; thread_id: string }
  | { type: "cancel"; thread_id: string }
  | { type: "approval"; approval_id: string; decision: string; text?: string }
  | { type: "seen"; thread_id: string; message_id: string }
  | { type: "ping" };
