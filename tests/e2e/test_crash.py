"""`kill -9` in the middle of a turn, and what people find afterwards."""

from __future__ import annotations

import asyncio
import sys
import time

from tests.client import Client, place
from tests.e2e.conftest import NewClient, NewGateway
from tests.fakes.messages_api import Call, MessagesApi
from tests.fakes.messages_script import BlockDelta, BlockStart, BlockStop, Pause, Pieces, Script, Step, end, start
from tests.server import GatewayProcess

DURABLE_SECONDS = 0.5
"""The promise: what is durable is at most this old."""
SLACK_SECONDS = 0.3
WITHOUT_NEW_EPOCH = """
import sys
from gateway.runner.local import LocalRunner
finish = LocalRunner._finish
async def broken(self, running, status, error, epoch=None):
    if epoch is not None:
        running.log.epoch = (await self._store.thread_by_key(running.log.key)).epoch
    return await finish(self, running, status, error, None)
LocalRunner._finish = broken
from gateway.cli import main
sys.exit(main(["serve", "--port", "0"]))
"""


def counting(count: int, interval: float) -> Script:
    steps: list[Step] = [BlockStart({"type": "text", "text": ""})]
    for number in range(count):
        steps += [Pause(interval), BlockDelta({"type": "text_delta", "text": f"{number} "})]
    return [*start(), *steps, BlockStop(), *end()]


def answer_to(call: Call) -> Script:
    """A turn of 12 seconds; the one that waits behind it logs more events than the crash can have taken."""
    return counting(1000, 0.012) if call.question == "first" else [*start(), Pieces(300, 0.0, "more "), *end()]


async def killed_mid_turn(
    gateway: GatewayProcess, messages_api: MessagesApi, phone: Client
) -> tuple[str, str, str, float]:
    """Send two messages, and kill the gateway while it answers the first. Thread, both turns, and when."""
    messages_api.script = answer_to
    await phone.connect()
    first = await phone.message("first", id="message-1")
    thread_id = first["thread_id"]
    second = await phone.message("second", thread_id=thread_id)
    assert second["queued"] == 1
    await phone.receive(until=lambda f: "69 " in f.get("content", ""))
    at = time.monotonic()
    await gateway.kill()
    await phone.closed()
    return thread_id, first["turn_id"], second["turn_id"], at


async def answered(gateway: GatewayProcess, turn_id: str) -> dict[str, object]:
    """The turn, when it has ended; seen by a socket that follows its thread."""
    turn: dict[str, object] = await gateway.get(f"/api/turns/{turn_id}")
    if turn["status"] in ("queued", "running"):
        async with Client(gateway.url, token="token-of-alice") as client:
            await client.attach(str(turn["thread_id"]))
            await client.receive(until="snapshot")
            if turn_id not in client.texts or (await gateway.get(f"/api/turns/{turn_id}"))["status"] != "completed":
                await client.finish(turn_id)
        turn = await gateway.get(f"/api/turns/{turn_id}")
    return turn


async def test_after_a_crash_the_turn_is_interrupted_its_text_kept_and_a_stale_cursor_refused(
    new_gateway: NewGateway, messages_api: MessagesApi, new_client: NewClient
) -> None:
    gateway = new_gateway()
    await gateway.start_soon()
    phone = new_client(gateway, agent="claude")
    thread_id, turn_id, queued_id, killed_at = await killed_mid_turn(gateway, messages_api, phone)
    shown = phone.texts[turn_id]
    arrivals = [a for f, a in zip(phone.frames, phone.arrivals, strict=True) if f["type"] == "message"]
    await gateway.restart()

    turn = await gateway.get(f"/api/turns/{turn_id}")
    assert turn["status"] == "interrupted"
    assert turn["error"]["retryable"] is True
    kept = turn["content"]
    assert kept
    assert shown.startswith(kept)
    pieces = len(kept.split())
    age = killed_at - arrivals[pieces] if pieces < len(arrivals) else 0.0
    print(f"{len(arrivals)} pieces were shown, {pieces} were durable: {age * 1000:.0f} ms were lost")
    assert age < DURABLE_SECONDS + SLACK_SECONDS

    assert (await answered(gateway, queued_id))["status"] == "completed", "what waited goes on"
    head = place(phone.cursors[thread_id])
    attached = await phone.resume(thread_id)
    assert attached["recovered"] is False
    snapshot = await phone.next()
    assert snapshot["type"] == "snapshot"
    assert place(snapshot["cursor"])[0] > head[0], "a new epoch"
    assert place(snapshot["cursor"])[1] > head[1], "the offsets that were lost have been given again"
    assert snapshot["turn"] is None
    told = [(m["role"], m.get("status"), m["content"]) for m in snapshot["messages"]]
    assert told == [
        ("user", None, "first"),
        ("assistant", "interrupted", kept),
        ("user", None, "second"),
        ("assistant", "completed", "more " * 300),
    ]
    assert [call.question for call in messages_api.calls] == ["first", "second"], "nothing was paid for twice"

    again = await phone.message("first", id="message-1")
    assert again["duplicate"] is True
    assert again["turn_id"] == turn_id
    retried = await gateway.post(f"/api/turns/{turn_id}/retry")
    assert retried.status_code == 202
    assert retried.json()["retry_of"] == turn_id
    messages_api.script = counting(3, 0.0)
    done = await phone.finish(retried.json()["turn_id"])
    assert (done["status"], done["content"]) == ("completed", "0 1 2 ")


async def test_without_a_new_epoch_the_stale_cursor_would_be_honoured(
    new_gateway: NewGateway, messages_api: MessagesApi, new_client: NewClient
) -> None:
    gateway = new_gateway()
    await gateway.start_soon()
    phone = new_client(gateway, agent="claude")
    thread_id, _, queued_id, _ = await killed_mid_turn(gateway, messages_api, phone)
    gateway.command = (sys.executable, "-c", WITHOUT_NEW_EPOCH)
    await gateway.restart()
    await answered(gateway, queued_id)
    assert (await phone.resume(thread_id))["recovered"] is True


async def test_after_a_crash_open_approvals_are_cancelled_and_open_tool_calls_failed(
    new_gateway: NewGateway, new_client: NewClient
) -> None:
    gateway = new_gateway()
    await gateway.start_soon()
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/echo before\n/tool open\n/approval command")
    asked = (await phone.receive(until="approval_request"))[-1]
    await asyncio.sleep(DURABLE_SECONDS + SLACK_SECONDS)  # by then it is durable, the protocol says
    await gateway.kill()
    await gateway.restart()
    turn = await gateway.get(f"/api/turns/{accepted['turn_id']}")
    assert (turn["status"], turn["content"]) == ("interrupted", "before")
    late = await gateway.post(f"/api/approvals/{asked['approval_id']}", {"decision": "approved"})
    assert late.status_code == 200
    assert late.json()["decision"] == "cancelled"
    fresh = new_client(gateway)
    await fresh.connect()
    await fresh.attach(accepted["thread_id"])
    snapshot = await fresh.next()
    assert snapshot["approvals"] == []
    assert snapshot["turn"] is None


async def test_a_gateway_that_is_killed_again_and_again_shows_a_turn_once_and_never_calls_again(
    new_gateway: NewGateway, messages_api: MessagesApi, new_client: NewClient
) -> None:
    gateway = new_gateway()
    await gateway.start_soon()
    phone = new_client(gateway, agent="claude")
    thread_id, turn_id, _, _ = await killed_mid_turn(gateway, messages_api, phone)
    await gateway.restart()
    epoch = place((await phone.resume(thread_id))["cursor"])[0]
    await gateway.kill()
    await phone.closed()
    await gateway.restart()
    attached = await phone.resume(thread_id)
    assert place(attached["cursor"])[0] >= epoch
    assert (await gateway.get(f"/api/turns/{turn_id}"))["status"] == "interrupted"
    assert [call.question for call in messages_api.calls].count("first") == 1
