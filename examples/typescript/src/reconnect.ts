// What to do when a connection has ended.

/** Connect again after so many milliseconds, with a new token if `renew`; or stop until something has changed. */
export type Next = { reconnect_ms: number; renew: boolean } | { stop: number };

const FIRST_MS = 500;
const MOST_MS = 30_000;

/**
 * `attempt` counts the connections since the last `ready`, `floorMs` is what the server asked to wait, `random` is in
 * [0, 1): spreading over the whole interval keeps a thousand phones from coming back at the same moment.
 */
export function afterClose(code: number, attempt: number, floorMs: number, random: number): Next {
  if (code >= 4500 && code <= 4999) return { stop: code };
  const most = Math.min(MOST_MS, FIRST_MS * 2 ** Math.min(attempt, 10));
  const renew = code === 4401;
  if (renew && attempt === 0) return { reconnect_ms: 0, renew };
  return { reconnect_ms: Math.floor(floorMs + random * most), renew };
}

/** The close code that says the same as a refused upgrade. */
export function codeOfRefusal(status: number): number {
  return status === 401 ? 4501 : status === 403 ? 4503 : 1006;
}
