/** The client alone, against a running gateway behind a proxy that cuts. Started by test_client.py. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Agentline, AgentlineError, applyFrame, emptyThread, newId, withHistory } from "../../../gateway/static/agentline.js";
import { CuttingProxy } from "./proxy.mjs";

const URL_OF_GATEWAY = process.env.GATEWAY_URL;
const TOKEN = process.env.GATEWAY_TOKEN;
const DEADLINE = { timeout: 20_000 };

/** A test with a proxy of its own, and lines that are closed behind it. */
function online(name, body) {
  test(name, DEADLINE, async () => {
    const proxy = await CuttingProxy.listen(URL_OF_GATEWAY);
    const lines = [];
    const newLine = (options = {}) => {
      lines.push(new Agentline({ url: proxy.url, token: TOKEN, agent: "demo", ...options }));
      return lines.at(-1);
    };
    try {
      await body({ proxy, newLine });
    } finally {
      for (const line of lines) line.close();
      await proxy.close();
    }
  });
}

/** The next value of this type that `matches`. */
function next(line, type, matches = () => true) {
  return new Promise((resolve) => {
    const off = line.on(type, (value) => {
      if (!matches(value)) return;
      off();
      resolve(value);
    });
  });
}

const numbers = (count) => Array.from({ length: count }, (_, index) => `${index + 1} `).join("");

/** The text that a person would see, by the rules of the protocol alone. */
async function read(frames, each = () => {}) {
  let text = "";
  let pieces = 0;
  for await (const frame of frames) {
    if (frame.type === "message") text += frame.content;
    if (frame.type === "reset") text = frame.content;
    if (frame.type === "message") await each(++pieces, frame);
    if (frame.type === "done") return { text, pieces, done: frame };
  }
  throw new Error("the turn had no end");
}

describe("a turn", { concurrency: 6 }, () => {
  online("is a loop over its frames, from accepted to done", async ({ newLine }) => {
    const types = [];
    for await (const frame of newLine().stream("/reasoning Hm.\n/tool\n/echo Hello there.")) types.push(frame.type);
    assert.equal(types[0], "accepted");
    assert.equal(types.at(-1), "done");
    for (const type of ["user_message", "reasoning", "tool_call", "tool_result", "message"]) assert.ok(types.includes(type), type);
  });

  online("survives any number of cuts with exactly its text", async ({ proxy, newLine }) => {
    const line = newLine();
    const { text, done } = await read(line.stream("/pieces 150 0.02"), (piece) => piece % 12 === 0 && proxy.cut());
    assert.equal(text, numbers(150));
    assert.equal(done.content, text);
    assert.ok(proxy.accepted >= 4, `reconnected ${proxy.accepted} times`);
  });

  online("goes on while the server cannot be reached, and is caught up with", async ({ proxy, newLine }) => {
    const line = newLine();
    const { text } = await read(line.stream("/pieces 40 0.02"), (piece) => {
      if (piece !== 5) return;
      proxy.refusing = true;
      proxy.cut();
      setTimeout(() => proxy.mend(), 1200);
    });
    assert.equal(text, numbers(40));
  });

  online("is caught up with after a silence in which nobody said goodbye", async ({ proxy, newLine }) => {
    const line = newLine();
    const { text } = await read(line.stream("/pieces 40 0.02"), (piece) => {
      if (piece !== 5) return;
      proxy.silent = true;
      line.wake(); // as when the app comes to the front: it asks, hears nothing, and reconnects
      next(line, "state", ({ state }) => state === "waiting").then(() => proxy.mend());
    });
    assert.equal(text, numbers(40));
  });

  online("starts once, though its message had to be sent again", async ({ proxy, newLine }) => {
    const line = newLine();
    line.connect();
    await next(line, "ready");
    proxy.deaf = true; // the gateway hears the message; its answer is lost
    const threadId = newId();
    const done = next(line, "done", (frame) => frame.thread_id === threadId);
    const sent = line.send("/echo once", { threadId });
    const direct = newLine({ url: URL_OF_GATEWAY });
    await until(async () => (await direct.threads()).threads.some((thread) => thread.thread_id === threadId));
    proxy.mend();
    proxy.cut();
    const accepted = await sent;
    assert.equal(accepted.duplicate, true);
    await done;
    const said = (await direct.messages(threadId)).filter((message) => message.role === "user");
    assert.equal(said.length, 1);
  });

  online("is brought up to date by a reset where the server cannot resume", async ({ newLine }) => {
    const line = newLine();
    const threadId = newId();
    let resets = 0;
    line.on("snapshot", () => (resets += 1));
    const { text } = await read(line.stream("/pieces 40 0.02", { threadId }), (piece) => piece === 5 && line.follow(threadId, "1:999999"));
    assert.ok(resets >= 1);
    assert.equal(text, numbers(40));
  });

  online("ends the loop also where a snapshot shows that it has ended", async ({ newLine }) => {
    const line = newLine();
    const threadId = newId();
    const { done } = await read(line.stream("/echo short", { threadId, id: "said-twice" }));
    const again = [];
    for await (const frame of newLine().stream("/echo short", { threadId, id: "said-twice" })) again.push(frame);
    assert.equal(again[0].duplicate, true);
    assert.equal(again.at(-1).type, "done");
    assert.equal(again.at(-1).message_id, done.message_id);
  });

  online("goes on when its reader leaves the loop, and is stopped by cancel", async ({ newLine }) => {
    const line = newLine();
    const threadId = newId();
    let turnId;
    for await (const frame of line.stream("/pieces 500 0.02", { threadId })) {
      if (frame.type !== "message") continue;
      turnId = frame.turn_id;
      break;
    }
    assert.equal((await line.turn(turnId)).status, "running");
    await line.cancel(turnId);
    await until(async () => (await line.turn(turnId)).status === "cancelled");
    const retried = await line.retry(turnId);
    assert.notEqual(retried.turn_id, turnId);
    await line.cancel(retried.turn_id);
  });

  online("is cancelled even if the request for it is lost at first", async ({ proxy, newLine }) => {
    const line = newLine();
    const { done } = await read(line.stream("/pieces 500 0.02"), async (piece, frame) => {
      if (piece !== 3) return;
      proxy.refusing = true;
      void line.cancel(frame.turn_id);
      setTimeout(() => proxy.mend(), 300);
    });
    assert.equal(done.status, "cancelled");
  });

  online("waits for an approval, given with words", async ({ newLine }) => {
    const line = newLine();
    line.on("approval_request", async ({ approval_id: id, free_text: free }) => {
      assert.equal(free, true);
      const standing = await line.decide(id, "blue", "like the sky");
      assert.equal(standing.decision, "blue");
    });
    const { text } = await read(line.stream("/approval question"));
    assert.equal(text, "You chose blue and said: like the sky.");
  });

  online("of another agent goes by HTTP, over the same socket back", async ({ newLine }) => {
    const line = newLine();
    const { text, done } = await read(line.stream("/echo I am the second.", { agent: "second" }));
    assert.equal(text, "I am the second.");
    assert.equal((await line.thread(done.thread_id)).agent, "second");
  });

  online("can be left with a signal", async ({ newLine }) => {
    const aborter = new AbortController();
    const line = newLine();
    const threadId = newId();
    const begun = next(line, "user_message");
    const reading = read(line.stream("/hang", { signal: aborter.signal, threadId }));
    const { turn_id: turnId } = await begun;
    aborter.abort();
    await assert.rejects(reading, (error) => error instanceof AgentlineError && error.code === "aborted");
    assert.equal((await line.turn(turnId)).status, "running");
    await line.cancel(turnId);
  });
});

describe("a refusal", { concurrency: 6 }, () => {
  online("of a message rejects its send, in words, with the field", async ({ newLine }) => {
    await assert.rejects(newLine().send("   "), (error) => error.code === "bad_frame" && error.field === "content");
    await assert.rejects(newLine().send("x".repeat(300_000)), (error) => error.code === "too_large");
    await assert.rejects(newLine().send("   ", { agent: "second" }), (error) => error.status === 400);
  });

  online("of the token ends the attempts", async ({ proxy, newLine }) => {
    const line = newLine({ token: "wrong" });
    const refused = next(line, "state", ({ state }) => state === "refused");
    await assert.rejects(read(line.stream("Hi")), AgentlineError);
    assert.equal((await refused).code, 4501);
    await assert.rejects(line.agents(), (error) => error.status === 401);
    assert.equal(proxy.accepted, 2);
  });

  online("of a thread to follow is told, and the others are followed all the same", async ({ newLine }) => {
    const line = newLine();
    const threadId = newId();
    await read(line.stream("/echo here", { threadId }));
    const lost = next(line, "lost");
    const shown = next(line, "snapshot");
    line.follow("nowhere");
    line.follow(threadId);
    assert.deepEqual([(await lost).thread_id, (await lost).error.code, (await shown).thread_id], ["nowhere", "not_found", threadId]);
  });

  online("close rejects what was not accepted", async ({ proxy, newLine }) => {
    proxy.refusing = true;
    const line = newLine();
    const sent = line.send("never");
    line.close();
    await assert.rejects(sent, (error) => error.code === "closed");
    assert.equal(line.state, "closed");
  });

  online("of a token of letters beyond ASCII is a refusal and no crash", async ({ newLine }) => {
    const line = newLine({ token: "schlüssel-🔑" });
    line.connect();
    assert.equal((await next(line, "state", ({ state }) => state === "refused")).code, 4501);
  });
});

describe("a connection", () => {
  online("asks a token function anew each time", async ({ proxy, newLine }) => {
    let asked = 0;
    const line = newLine({ token: async () => ((asked += 1), TOKEN) });
    line.connect();
    await next(line, "ready");
    proxy.cut();
    await next(line, "ready");
    assert.equal(asked, 2);
  });

  online("waits longer from attempt to attempt, never twice the same, and wakes with the network", async ({ proxy, newLine }) => {
    const listeners = new Map();
    Object.assign(globalThis, {
      addEventListener: (name, listener) => listeners.set(name, listener),
      removeEventListener: (name) => listeners.delete(name),
    });
    try {
      proxy.refusing = true;
      const line = newLine();
      const waits = [];
      line.connect();
      while (waits.length < 4) {
        await next(line, "state", ({ state }) => state === "waiting");
        waits.push(line.retryAt - Date.now());
      }
      assert.ok(waits[3] > 1500 && waits[3] <= 4100, String(waits));
      assert.equal(new Set(waits).size, 4);
      proxy.mend();
      const before = Date.now();
      listeners.get("online")();
      await next(line, "ready");
      assert.ok(Date.now() - before < 1000);
      line.close();
      assert.equal(listeners.size, 0);
    } finally {
      delete globalThis.addEventListener;
      delete globalThis.removeEventListener;
    }
  });

  online("needs neither document nor crypto nor TextEncoder nor btoa", async ({ newLine }) => {
    const kept = {};
    for (const name of ["crypto", "TextEncoder", "btoa", "Buffer", "navigator"]) {
      kept[name] = Object.getOwnPropertyDescriptor(globalThis, name);
      Object.defineProperty(globalThis, name, { value: undefined, configurable: true, writable: true });
    }
    try {
      assert.match(newId(), /^[0-9A-Za-z]{22}$/);
      assert.notEqual(newId(), newId());
      const line = newLine();
      line.connect();
      const ready = await next(line, "ready");
      assert.equal(ready.user_id, "alice");
    } finally {
      for (const [name, descriptor] of Object.entries(kept)) if (descriptor) Object.defineProperty(globalThis, name, descriptor);
    }
  });

  online("reports seen messages, also those of a time without network", async ({ proxy, newLine }) => {
    const line = newLine();
    const threadId = newId();
    const { done } = await read(line.stream("/echo look", { threadId }));
    assert.equal((await line.thread(threadId)).unread, 1);
    proxy.cut();
    await next(line, "state", ({ state }) => state === "waiting");
    line.seen(threadId, done.message_id);
    await until(async () => (await line.thread(threadId)).unread === 0);
  });
});

describe("a thread as it is shown", { concurrency: 6 }, () => {
  const SCRIPT = "/reasoning Let me see.\n/echo First.\n/tool\n/approval command\n/reset item\n/echo Last.\n/usage 12 34";

  online("is the same whether watched live, resumed anywhere from its stored form, or loaded", async ({ newLine }) => {
    const line = newLine();
    const threadId = newId();
    let live = emptyThread(threadId);
    const stored = [];
    line.on("frame", (frame) => {
      live = applyFrame(live, frame);
      if (frame.cursor && frame.type !== "accepted") stored.push(JSON.stringify(live));
    });
    line.on("approval_request", ({ approval_id: id }) => line.decide(id, "approved"));
    const { done } = await read(line.stream(SCRIPT, { threadId }));
    const answer = live.messages[1];
    assert.equal(answer.content, done.content);
    assert.equal(answer.status, "completed");
    assert.deepEqual(answer.usage, done.usage);
    const kinds = answer.parts.map((part) => part.kind);
    assert.deepEqual([...new Set(kinds)].sort(), ["approval", "reasoning", "text", "tool"]);
    assert.ok(answer.parts.every((part) => part.kind !== "tool" || part.status === "completed"));

    const step = Math.ceil(stored.length / 6);
    for (const [index, state] of stored.entries()) {
      if (index % step) continue;
      const other = newLine();
      let thread = JSON.parse(state);
      other.on("frame", (frame) => (thread = applyFrame(thread, frame)));
      other.follow(threadId, thread.cursor);
      await until(() => thread.cursor === live.cursor);
      assert.deepEqual(thread, live, `from ${index} of ${stored.length}`);
      other.close();
    }

    let loaded = emptyThread(threadId);
    const fresh = newLine();
    fresh.on("frame", (frame) => (loaded = applyFrame(loaded, frame)));
    fresh.follow(threadId);
    await until(() => loaded.messages.length === 2);
    assert.equal(loaded.messages[1].content, done.content);
    assert.equal(loaded.cursor, live.cursor);
  });

  online("is shown in the middle of a turn by a snapshot, and goes on from there", async ({ newLine }) => {
    const line = newLine();
    const threadId = newId();
    let thread = emptyThread(threadId);
    const other = newLine();
    other.on("frame", (frame) => (thread = applyFrame(thread, frame)));
    const { done } = await read(line.stream("/reasoning Hm.\n/tool\n/pieces 40 0.02", { threadId }), (piece) => piece === 10 && other.follow(threadId));
    await until(() => thread.messages.at(-1)?.status === "completed");
    assert.equal(thread.messages.at(-1).content, done.content);
    assert.deepEqual(thread.messages.at(-1).parts.map((part) => part.kind), ["reasoning", "tool", "text"]);
  });

  online("keeps what a snapshot does not tell, and what is older than it", async ({ newLine }) => {
    const line = newLine();
    const threadId = newId();
    let thread = emptyThread(threadId);
    line.on("frame", (frame) => (thread = applyFrame(thread, frame)));
    await read(line.stream("/reasoning Hm.\n/echo One.", { threadId }));
    const before = thread.messages;
    line.follow(threadId, "no cursor at all");
    await next(line, "snapshot");
    assert.equal(thread.messages[1], before[1]);
    thread = withHistory(thread, [{ message_id: "m0", turn_id: "u0", role: "assistant", content: "older", status: "completed" }, before[0]]);
    assert.deepEqual(thread.messages.map((message) => message.message_id), ["m0", before[0].message_id, before[1].message_id]);
    line.follow(threadId, null);
    await next(line, "snapshot");
    assert.equal(thread.messages[0].message_id, "m0");
  });

  test("changes only where something changed", () => {
    const frame = (type, more) => ({ type, timestamp: "t", thread_id: "a", turn_id: "u", cursor: `1:${more.at}`, ...more });
    let thread = applyFrame(emptyThread("a"), frame("user_message", { at: 1, message_id: "m1", id: null, content: "Hi" }));
    thread = applyFrame(thread, frame("message", { at: 2, content: "Hel", item_id: "i" }));
    const [user, answer] = thread.messages;
    const later = applyFrame(thread, frame("message", { at: 3, content: "lo", item_id: "i" }));
    assert.equal(later.messages[0], user);
    assert.equal(answer.content, "Hel");
    assert.equal(later.messages[1].content, "Hello");
    assert.equal(applyFrame(later, frame("message", { at: 4, thread_id: "b", content: "x", item_id: "i" })), later);
    const late = applyFrame(later, { type: "approval_resolved", timestamp: "t", thread_id: "a", turn_id: "u", approval_id: "p", decision: "approved" });
    assert.equal(late.cursor, "1:3");
    const cut = applyFrame(later, frame("done", { at: 5, status: "completed", message_id: "m2", content: "He", truncated: true, length: 5 }));
    assert.equal(cut.messages[1].content, "Hello");
    assert.equal(cut.messages[1].truncated, undefined);
  });
});

/** Look again until it holds; the test's own deadline ends it. */
async function until(holds) {
  while (!(await holds())) await new Promise((resolve) => setTimeout(resolve, 20));
}
