"""JSON lines with a scripted peer at the other end of a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from providers.codex import client as module
from providers.codex.client import Client, Disconnected, Incoming, Overflow, RpcError


class Peer:
    """Plays the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def get(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return dict(json.loads(await self._reader.readline()))

    def say(self, **message: Any) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Client, Peer]]:
    ours, theirs = socket.socketpair()
    client = Client(*await asyncio.open_connection(sock=ours))
    peer = Peer(*await asyncio.open_connection(sock=theirs))
    reading = asyncio.create_task(client.run())
    try:
        yield client, peer
    finally:
        peer.writer.close()
        client._writer.close()
        async with asyncio.timeout(5):
            await reading


async def test_answers_find_their_requests_in_any_order(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    asked = [asyncio.create_task(client.request("m", {"n": n})) for n in range(3)]
    numbers = [(await peer.get())["id"] for _ in asked]
    for number in reversed(numbers):
        peer.say(id=number, result=number)
    assert await asyncio.gather(*asked) == numbers


async def test_an_overloaded_server_is_asked_again(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    asked = asyncio.create_task(client.request("thread/start", {}))
    for _ in range(2):
        peer.say(id=(await peer.get())["id"], error={"code": -32001, "message": "Server overloaded; retry later."})
    peer.say(id=(await peer.get())["id"], result="there")
    assert await asked == "there"


async def test_a_server_that_stays_overloaded_costs_a_timeout_and_no_more(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    asked = asyncio.create_task(client.request("thread/start", {}, within=0.3))

    async def refusing() -> None:
        while True:
            peer.say(id=(await peer.get())["id"], error={"code": -32001, "message": "later"})

    refuser = asyncio.create_task(refusing())
    with pytest.raises(TimeoutError):
        await asked
    refuser.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await refuser


async def test_a_refusal_keeps_its_words_out_of_its_text(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    asked = asyncio.create_task(client.request("turn/start", {}))
    peer.say(id=(await peer.get())["id"], error={"code": -32600, "message": "private words"})
    with pytest.raises(RpcError) as caught:
        await asked
    assert "private" not in str(caught.value)


async def test_a_request_of_the_server_is_answered_with_its_own_id_even_zero(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    with client.follow("t") as inbox:
        peer.say(id=0, method="item/commandExecution/requestApproval", params={"threadId": "t"})
        incoming = await inbox.get()
        assert incoming == Incoming("item/commandExecution/requestApproval", {"threadId": "t"}, 0)
        client.respond(0, {"decision": "decline"})
        assert await peer.get() == {"id": 0, "result": {"decision": "decline"}}


async def test_a_request_for_a_thread_that_nobody_follows_is_refused(pair: tuple[Client, Peer]) -> None:
    _, peer = pair
    peer.say(id=0, method="item/commandExecution/requestApproval", params={"threadId": "unknown"})
    answer = await peer.get()
    assert (answer["id"], "result" in answer) == (0, False)


async def test_a_turn_that_falls_too_far_behind_fails_alone(
    pair: tuple[Client, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "INBOX_MESSAGES", 10)
    client, peer = pair
    with client.follow("slow") as slow, client.follow("quick") as quick:
        for number in range(11):
            peer.say(method="x", params={"threadId": "slow", "n": number})
        peer.say(method="x", params={"threadId": "quick"})
        assert (await quick.get()).method == "x"
        assert [(await slow.get()).params["n"] for _ in range(10)] == list(range(10))
        with pytest.raises(Overflow):
            await slow.get()


async def test_a_line_that_is_no_message_is_skipped_and_not_logged(
    pair: tuple[Client, Peer], caplog: pytest.LogCaptureFixture
) -> None:
    client, peer = pair
    asked = asyncio.create_task(client.request("m", {}))
    number = (await peer.get())["id"]
    peer.writer.write(b"private words\n[1]\n")
    peer.say(id=number, result="fine")
    assert await asked == "fine"
    assert "private" not in caplog.text
    assert "is not a message" in caplog.text


async def test_when_the_pipe_ends_everybody_who_waits_is_told(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    with client.follow("t") as inbox:
        waiting = asyncio.create_task(inbox.get())
        asked = asyncio.create_task(client.request("m", {}))
        await peer.get()
        peer.writer.close()
        for task in (waiting, asked):
            with pytest.raises(Disconnected):
                await task
    with pytest.raises(Disconnected):
        await client.request("m", {})
    with client.follow("later") as inbox, pytest.raises(Disconnected):
        await inbox.get()


async def test_a_sub_agents_requests_go_to_the_turn_that_began_it(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    with client.follow("root") as inbox:
        peer.say(method="turn/started", params={"threadId": "root", "turn": {"id": "r1", "rootTurnId": "r1"}})
        peer.say(method="turn/started", params={"threadId": "below", "turn": {"id": "b1", "rootTurnId": "r1"}})
        peer.say(method="turn/started", params={"threadId": "other", "turn": {"id": "o1", "rootTurnId": "o1"}})
        peer.say(id=7, method="item/fileChange/requestApproval", params={"threadId": "below"})
        assert [(await inbox.get()).params["threadId"] for _ in range(3)] == ["root", "below", "below"]
        assert client.children("root") == {"below": "b1"}
        peer.say(method="turn/completed", params={"threadId": "below", "turn": {"id": "b1", "rootTurnId": "r1"}})
        await inbox.get()
        assert client.children("root") == {"below": None}
    assert client.children("root") == {}
