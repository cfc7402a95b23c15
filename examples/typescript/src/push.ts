// Web Push in a service worker, and FCM data in React Native's background handler: the fields have the same names.

export interface Push {
  kind: "turn" | "approval" | "seen" | "test";
  thread_id: string;
  turn_id: string;
  title?: string;
  body?: string;
  /** FCM makes every value a string. */
  truncated?: boolean | "true" | "false";
  fetch_token?: string;
  approval_id?: string;
}

const PATIENCE_MS = 10_000;

/** The text to show: what came, or the whole of it where that was cut and can be had in time. */
export async function textOf(push: Push, url: string): Promise<string> {
  const inline = push.body ?? "";
  if (String(push.truncated) !== "true" || push.fetch_token === undefined || push.kind !== "turn") return inline;
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), PATIENCE_MS);
  try {
    const answer = await fetch(`${url}/api/turns/${encodeURIComponent(push.turn_id)}`, {
      headers: { Authorization: `Bearer ${push.fetch_token}` },
      signal: abort.signal,
    });
    if (!answer.ok) return inline;
    const turn = (await answer.json()) as { content: string; error: { message: string } | null };
    return turn.content || turn.error?.message || inline;
  } catch {
    return inline;
  } finally {
    clearTimeout(timer);
  }
}

/** Decide from a notification's button, with the app closed. */
export async function decide(url: string, token: string, approvalId: string, decision: string): Promise<boolean> {
  const answer = await fetch(`${url}/api/approvals/${encodeURIComponent(approvalId)}`, {
    method: "POST",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify({ decision }),
  });
  return answer.ok;
}

/** Tell the gateway where to push. Again whenever the platform hands out another token, and at each start of the app. */
export async function register(
  url: string,
  token: string,
  deviceId: string,
  device: { platform: "ios" | "android" | "web"; token: string | object; environment?: "production" | "sandbox" },
): Promise<boolean> {
  const answer = await fetch(`${url}/api/devices/${encodeURIComponent(deviceId)}`, {
    method: "PUT",
    headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" },
    body: JSON.stringify(device),
  });
  return answer.ok;
}
