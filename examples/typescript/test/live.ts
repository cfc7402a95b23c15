// One conversation with a running gateway, for the tests: `node live.js URL TOKEN SCRIPT`. Says what becomes of the
// message as JSON lines on standard output, decides approvals, and ends when the message is answered. Anything on
// standard input is a network that came back.

import { Line } from "../src/line.js";

const [url = "", token = "", script = ""] = process.argv.slice(2);
const THREAD = "live";
const say = (event: string, fields: object = {}) => console.log(JSON.stringify({ event, ...fields }));

const line = new Line({ url, agent: "demo", token: async () => token, onStop: (code) => say("stop", { code }) });
let online = false;
let shown = -1;
let ended = false;
const decided = new Set<string>();

line.subscribe(() => {
  if (line.online !== online) say((online = line.online) ? "online" : "offline");
  const turns = line.state.threads[THREAD]?.turns ?? [];
  const turn = turns.at(-1);
  if (!turn) return;
  if (turn.text.length !== shown) say("text", { length: (shown = turn.text.length) });
  for (const { approval_id, options, free_text } of turn.approvals) {
    if (decided.has(approval_id)) continue;
    decided.add(approval_id);
    line.decide(approval_id, options[0]!.id, free_text ? "as you like" : undefined);
  }
  if (turn.status !== "running" && !turn.cut && !ended) {
    ended = true;
    line.seen(THREAD, turn.message_id!);
    const { threads, outbox, decisions } = line.state;
    say("end", { turns, cursor: threads[THREAD]!.cursor, outbox, decisions });
    setTimeout(() => line.stop(), 50);
  }
});
process.stdin.on("data", () => line.wake());
process.stdin.unref();
line.start();
line.send(THREAD, script);
