"""Sockets whose owner has stopped reading: dropped at the send deadline, bounded in memory, nobody else's affair."""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import pytest

from tests.client import Client, place
from tests.e2e.conftest import NewClient, NewGateway, agents_for
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import Pieces, end, start
from tests.server import GatewayProcess

SEND_SECONDS = 1.0
DEAD = 30
PIECES, INTERVAL, PIECE = 600, 0.004, "0123456789abcdef" * 640
WITHOUT_SEND_DEADLINE = """
import asyncio, sys
from gateway.senddeadline import SendDeadlines
async def keep(self):
    await asyncio.Event().wait()
SendDeadlines.keep = keep
from gateway.cli import main
sys.exit(main(["serve", "--port", "0"]))
"""


@pytest.fixture(scope="module")
def gateway_environment(upstream_port: int) -> dict[str, Any]:
    return {"AGENTS": agents_for(upstream_port), "SEND_SECONDS": str(SEND_SECONDS)}


async def dead_readers(
    gateway: GatewayProcess, new_client: NewClient, thread_id: str, cursor: str, count: int
) -> list[Client]:
    dead = [new_client(gateway, agent="demo", receive_buffer=4096) for _ in range(count)]
    for client in dead:
        await client.connect()
        await client.attach(thread_id, cursor)
    return dead


async def connections(gateway: GatewayProcess) -> int:
    return sum((await gateway.get("/api/health", None))["connections"].values())


async def test_readers_that_never_read_are_dropped_and_touch_nobody_else(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    messages_api.script = [*start(), Pieces(PIECES, INTERVAL, PIECE), *end()]
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    # A first turn alone, so that what one turn takes is part of the measure before.
    alone = await phone.message("alone", thread_id="alone")
    await phone.finish(alone["turn_id"], within=30)
    alone_seconds = messages_api.calls[0].sent[-1] - messages_api.calls[0].sent[0]
    before = gateway.rss()

    accepted = await phone.message("together", thread_id="together")
    dead = await dead_readers(gateway, new_client, "together", accepted["cursor"], DEAD)
    highest = 0
    while accepted["turn_id"] not in phone.done:
        await phone.next(within=5)
        if len(phone.frames) % 50 == 0:
            highest = max(highest, gateway.rss())
    assert phone.texts[accepted["turn_id"]] == PIECE * PIECES
    sent = messages_api.calls[1].sent
    seconds = sent[-1] - sent[0]
    pieces = [
        at
        for f, at in zip(phone.frames, phone.arrivals, strict=True)
        if f["type"] == "message" and f["turn_id"] == accepted["turn_id"]
    ]
    if len(pieces) == PIECES:
        late = [at - out for at, out in zip(pieces, sent[3:], strict=False)]
        print(f"the phone's delay: p50 {statistics.median(late) * 1000:.1f} ms, max {max(late) * 1000:.1f} ms")
    grown = highest - before
    print(f"alone {alone_seconds:.2f} s, with {DEAD} dead readers {seconds:.2f} s; memory grew by {grown >> 20} MiB")
    assert seconds < alone_seconds + 2.0
    assert grown < len(PIECE) * PIECES + DEAD * 2**20, "no queue of the turn for each of them"

    async with asyncio.timeout(10):
        while await connections(gateway) > 1:  # noqa: ASYNC110 - another process's state: nothing to wait on
            await asyncio.sleep(0.05)
    closed = await dead[0].closed()
    assert closed.code in (4408, 1006)
    attached = await dead[0].resume("together")
    assert attached["recovered"] is True
    await dead[0].finish(accepted["turn_id"], within=30)
    assert dead[0].texts[accepted["turn_id"]] == PIECE * PIECES


async def test_without_the_send_deadline_they_would_stay(
    new_gateway: NewGateway, messages_api: MessagesApi, new_client: NewClient
) -> None:
    gateway = new_gateway(command=("-c", WITHOUT_SEND_DEADLINE), SEND_SECONDS=str(SEND_SECONDS), DRAIN_SECONDS="0")
    await gateway.start_soon()
    messages_api.script = [*start(), Pieces(200, 0.002, PIECE), *end()]
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    accepted = await phone.message("Hi")
    await dead_readers(gateway, new_client, accepted["thread_id"], accepted["cursor"], 3)
    done = await phone.finish(accepted["turn_id"])
    assert place(done["cursor"])[1] > 0
    until = time.monotonic() + 2 * SEND_SECONDS
    while time.monotonic() < until:
        assert await connections(gateway) == 4
        await asyncio.sleep(0.2)
