// Plays the scenarios that the clients of all languages share: `node out/test/scenarios.js ../scenarios`.

import { strict as assert } from "node:assert";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { Client } from "../src/client.js";
import type { ClientFrame } from "../src/frames.js";
import type { Next } from "../src/reconnect.js";

/* eslint-disable-next-line -- what a step holds depends on its first key; `play` knows. */
type Step = Record<string, any>;

function play(client: Client, step: Step): ClientFrame[] | Next | null {
  if (step["receive"]) return client.receive(step["receive"]);
  if (step["send"]) return client.send(step["send"].thread_id, step["send"].content, step["send"].id);
  if (step["resend"]) return client.resend(step["resend"]);
  if (step["open"]) return client.open(step["open"]);
  if (step["leave"]) return client.leave(step["leave"]);
  if (step["cancel"]) return client.cancel(step["cancel"]);
  if (step["seen"]) return client.seen(step["seen"].thread_id, step["seen"].message_id);
  if (step["decide"]) return client.decide(step["decide"].approval_id, step["decide"].decision, step["decide"].text);
  if (step["closed"]) return client.closed(step["closed"].code, step["closed"].random);
  if (step["whole"]) client.whole(step["whole"]);
  else if (!step["restart"]) throw new Error(`unknown step ${JSON.stringify(step)}`);
  return null;
}

/** Every key of `wanted` is in `found`, as it is there; null stands for absent too. */
function holds(found: unknown, wanted: unknown, where: string): void {
  if (Array.isArray(wanted)) {
    assert.ok(Array.isArray(found) && found.length === wanted.length, `${where}: ${JSON.stringify(found)}`);
    wanted.forEach((value, index) => holds((found as unknown[])[index], value, `${where}[${index}]`));
  } else if (typeof wanted === "object" && wanted !== null) {
    for (const [key, value] of Object.entries(wanted))
      holds((found as Record<string, unknown> | undefined)?.[key], value, `${where}.${key}`);
  } else {
    assert.deepEqual(found ?? null, wanted, where);
  }
}

let steps = 0;
const folder = process.argv[2] ?? "../scenarios";
const files = readdirSync(folder).filter((name) => name.endsWith(".json"));
for (const file of files) {
  let client = new Client();
  const scenario = JSON.parse(readFileSync(join(folder, file), "utf8")) as { steps: Step[] };
  for (const [index, step] of scenario.steps.entries()) {
    const where = `${file} step ${index + 1}`;
    const result = play(client, step);
    if (step["restart"]) client = new Client(JSON.parse(JSON.stringify(client.state)));
    if (step["closed"]) assert.deepEqual(result, step["next"], where);
    else assert.deepEqual(result ?? [], step["out"] ?? [], where);
    if (step["expect"]) holds(client.state, step["expect"], where);
    assert.deepEqual(client.missing(), step["missing"] ?? [], where);
    steps++;
  }
}
console.log(`${files.length} scenarios, ${steps} steps`);
