// React and React Native: one thread as a component sees it.

import { useEffect, useMemo, useSyncExternalStore } from "react";

import type { Line } from "./line.js";
import type { Outgoing, Turn } from "./state.js";

export interface ThreadView {
  turns: Turn[];
  /** Sent, but not yet in the thread: show them below the turns. */
  waiting: Outgoing[];
  typing: boolean;
  online: boolean;
}

const NO_TURNS: Turn[] = [];

/** Pass `visible` only while the thread is on screen: it ends the wait for a push. */
export function useThread(line: Line, threadId: string, visible: boolean): ThreadView {
  const state = useSyncExternalStore(line.subscribe, () => line.state);
  const online = useSyncExternalStore(line.subscribe, () => line.online);
  const thread = state.threads[threadId];
  const turns = thread?.turns ?? NO_TURNS;
  const newest = turns.findLast((turn) => turn.message_id !== null)?.message_id ?? null;
  useEffect(() => {
    if (visible && newest !== null) line.seen(threadId, newest);
  }, [line, threadId, newest, visible]);
  return useMemo(() => {
    const waiting = state.outbox.filter((message) => message.thread_id === threadId);
    return { turns, waiting, typing: thread?.typing ?? false, online };
  }, [state.outbox, threadId, thread, turns, online]);
}
