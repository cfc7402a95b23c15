"""Nothing is collected first: what the agent has said is on the phone before it says more."""

from __future__ import annotations

import statistics
import time
from datetime import datetime

from tests.e2e.conftest import NewClient
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import Pieces, end, start
from tests.server import GatewayProcess

PIECES = 12
INTERVAL = 0.2
MEDIAN_SECONDS, WORST_SECONDS = 0.050, 0.150
"""The promise, for the median; the slack of a busy machine for each single piece."""


def assert_at_once(what: str, delays: list[float]) -> None:
    ordered = sorted(delays)
    print(
        f"{what}: {len(delays)} pieces, p50 {statistics.median(ordered) * 1000:.1f} ms, max {ordered[-1] * 1000:.1f} ms"
    )
    assert statistics.median(ordered) < MEDIAN_SECONDS
    assert ordered[-1] < WORST_SECONDS


async def test_each_piece_of_claude_arrives_within_50_ms_of_being_sent(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    messages_api.script = [*start(), Pieces(PIECES, INTERVAL, "word "), *end()]
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    accepted = await phone.message("Hi")
    await phone.finish(accepted["turn_id"])
    pairs = zip(phone.frames, phone.arrivals, strict=True)
    arrivals = [arrived for frame, arrived in pairs if frame["type"] == "message"]
    before = len(start()) + 1  # and the start of the block
    sent = messages_api.calls[0].sent[before : before + PIECES]
    assert len(arrivals) == PIECES
    assert_at_once("claude", [arrived - at for arrived, at in zip(arrivals, sent, strict=True)])
    assert sent[-1] - arrivals[0] > INTERVAL * (PIECES - 2), "the first piece was there long before the last was sent"


async def test_each_piece_of_the_demo_arrives_within_50_ms_of_being_logged(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message(f"/pieces {PIECES} {INTERVAL}")
    delays: list[float] = []
    while accepted["turn_id"] not in phone.done:
        frame = await phone.next()
        if frame["type"] == "message":
            delays.append(time.time() - datetime.fromisoformat(frame["timestamp"]).timestamp())
    assert phone.done[accepted["turn_id"]]["status"] == "completed"
    assert len(delays) >= PIECES - 1  # the demo says its first two pieces in one breath
    assert_at_once("demo", delays)


async def test_claude_says_the_next_piece_only_after_the_last_one_is_on_the_phone(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    paced = Paced().think(["hm", " so"]).say(["a", "b", "c", "d"]).say(["e", "f"]).finish()
    messages_api.script = paced.script
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    await phone.message("Hi")
    shown = []
    for gate in paced.gates:
        gate.opened.set()
        frame = (await phone.receive(until=lambda f: f["type"] in ("message", "reasoning", "done")))[-1]
        shown.append(frame["content"])
    assert shown == ["hm", " so", "a", "b", "c", "d", "\n\ne", "f", "abcd\n\nef"]


async def test_the_demo_goes_on_only_after_what_it_said_is_on_the_phone(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    """Its gate is a question: the answer to it comes from the client that has read everything before it."""
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/echo one\n/approval question\n/echo two\n/approval question\n/echo three")
    for word in ("one", "two"):
        frames = await phone.receive(until="approval_request")
        assert "".join(f["content"] for f in frames if f["type"] == "message").endswith(word)
        await phone.send("approval", approval_id=frames[-1]["approval_id"], decision="red")
    done = await phone.finish(accepted["turn_id"])
    chosen = "You chose red."
    assert done["content"] == "\n\n".join(["one", chosen, "two", chosen, "three"])
