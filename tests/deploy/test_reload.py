"""A proxy's reload costs no text: clients that stream meanwhile end with exactly the whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import pytest
from websockets.exceptions import InvalidHandshake

from tests.client import Client, Closed, Frame, place
from tests.deploy.conftest import NewClient, NewGateway, NewProxy
from tests.deploy.proxies import Proxy, reload

PIECES, EVERY, RELOADS = 90, 15, 5
PACE = 0.03
TEXT = "".join(f"{n} " for n in range(1, PIECES + 1))
CUTTING = {
    "nginx": {"worker_shutdown_timeout 30m;": "worker_shutdown_timeout 100ms;"},
    "caddy": {"\tgrace_period 30s\n": "\tgrace_period 100ms\n"},
}
"""What the reload leaves of old connections is cut soon."""
Lost = (Closed, OSError, InvalidHandshake, EOFError)


async def stay(client: Client, thread_id: str, seen: Callable[[Frame], None] = lambda frame: None) -> int:
    """Follow the thread until its turn is done, coming back whenever the connection is lost. How often that was."""
    lost = 0
    async with asyncio.timeout(30):
        while not client.done:
            try:
                if not client.connected:
                    await client.resume(thread_id)
                seen(await client.next())
            except Lost:
                lost += 1
                if client.connected:
                    await client.abort()
                await asyncio.sleep(0.02)
    return lost


async def read_events(proxy: Proxy, thread_id: str) -> tuple[str, int]:
    """The like, as server-sent events: the text, and how often the stream was lost."""
    last: str | None = None
    offset, text, lost = 0, "", 0
    async with asyncio.timeout(30):
        while True:
            try:
                async with proxy.events(f"/api/threads/{thread_id}/events", last=last) as stream:
                    while (event := await stream.next(within=20)) is not None:
                        frame = event.frame
                        if frame["type"] == "attached" and last is not None:
                            assert frame["recovered"] is True
                        if frame["type"] == "snapshot":
                            text, last, offset = frame["turn"]["content"], frame["cursor"], place(frame["cursor"])[1]
                        if event.id is not None:
                            last = event.id
                            assert place(last)[1] > offset, "nothing twice"
                            offset = place(last)[1]
                        if frame["type"] == "message":
                            text += frame["content"]
                        if frame["type"] == "done":
                            assert frame["content"] == text
                            return text, lost
            except (httpx2.TransportError, AssertionError) as error:
                if isinstance(error, AssertionError) and "within an event" not in str(error):
                    raise
            lost += 1
            await asyncio.sleep(0.02)


async def stream_through_reloads(proxy: Proxy, new_client: NewClient) -> tuple[list[int], int]:
    """Three sockets and an event stream during five reloads; how often each lost its connection."""
    witness = new_client(proxy)
    await witness.connect()
    accepted = await witness.message(f"/pieces {PIECES} {PACE}")
    thread_id, turn_id = accepted["thread_id"], accepted["turn_id"]
    followers = [new_client(proxy) for _ in range(2)]
    for follower in followers:
        await follower.connect()
        await follower.attach(thread_id, accepted["cursor"])
    reached = [asyncio.Event() for _ in range(RELOADS)]
    order: list[str] = []

    def count(frame: Frame) -> None:
        at = len(witness.texts.get(turn_id, "").split())
        for number, event in enumerate(reached):
            if at >= (number + 1) * EVERY and not event.is_set():
                event.set()

    async def reloads() -> None:
        for event in reached:
            await event.wait()
            await reload(proxy)
            order.append("reloaded")

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        staying = [group.create_task(stay(witness, thread_id, count))]
        staying += [group.create_task(stay(follower, thread_id)) for follower in followers]
        reading = group.create_task(read_events(proxy, thread_id))
        group.create_task(reloads())
    for client in (witness, *followers):
        assert client.texts[turn_id] == client.done[turn_id]["content"] == TEXT
    text, lost = reading.result()
    assert text == TEXT
    assert len(order) == RELOADS
    return [task.result() for task in staying], lost


async def test_nginx_keeps_open_connections_through_reloads(
    new_gateway: NewGateway, new_proxy: NewProxy, new_client: NewClient
) -> None:
    proxy = new_proxy("nginx", [new_gateway().url])
    assert await stream_through_reloads(proxy, new_client) == ([0, 0, 0], 0)


@pytest.mark.parametrize("name", ["nginx", "caddy"])
async def test_clients_whose_connections_a_reload_cuts_miss_nothing_and_see_nothing_twice(
    name: str, new_gateway: NewGateway, new_proxy: NewProxy, new_client: NewClient
) -> None:
    proxy = new_proxy(name, [new_gateway().url], CUTTING[name])
    sockets, events = await stream_through_reloads(proxy, new_client)
    assert min(sockets) >= RELOADS - 1, "each reload cuts the sockets, unless the turn ends first"
    if name == "nginx":  # Caddy leaves a stream alone as long as it can
        assert events >= RELOADS - 1
