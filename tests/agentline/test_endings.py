"""What the client makes of close codes, refusals and frames that seldom come; both kinds of client alike."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentline import (
    AgentlineError,
    ApprovalRequest,
    ApprovalResolved,
    Busy,
    ContractBroken,
    Done,
    Event,
    Forbidden,
    NoSuchAgent,
    Refused,
    Replaced,
    Reset,
    Text,
    TooLarge,
    ToolCall,
    ToolResult,
    Unauthorized,
)
from tests.agentline.conftest import QUICK, line_to
from tests.agentline.fake_gateway import FakeGateway, Peer

Read = Callable[[str], Awaitable[list[Event]]]


async def read_async(url: str) -> list[Event]:
    async with line_to(url) as line:
        return [event async for event in line.stream("a", "Hi", within=10)]


async def read_blocking(url: str) -> list[Event]:
    return await asyncio.to_thread(lambda: list(line_to(url).blocking.stream("a", "Hi", within=10)))


both = pytest.mark.parametrize("read", [read_async, read_blocking])


def text_of(events: list[Event]) -> str:
    text = ""
    for event in events:
        if isinstance(event, Text):
            text += event.content
        elif isinstance(event, Reset):
            text = event.content
    return text


@both
@pytest.mark.parametrize(
    ("code", "error"),
    [
        (4501, Unauthorized),
        (4503, Forbidden),
        (4504, NoSuchAgent),
        (4505, Replaced),
        (4599, Refused),
        (1009, TooLarge),
    ],
)
async def test_a_close_code_for_good_is_a_typed_error(read: Read, code: int, error: type[AgentlineError]) -> None:
    async def script(peer: Peer) -> None:
        await peer.ready()
        await peer.receive()
        await peer.socket.close(code, "because")

    async with FakeGateway(script) as gateway:
        with pytest.raises(error):
            await read(gateway.url)
        assert gateway.connections == 1


@both
@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 1013, 4401, 4408, 4429, 4499])
async def test_any_other_close_code_is_a_reason_to_come_back(read: Read, code: int) -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 0:
            await peer.accept()
            await peer.log("message", "1:1", content="one ")
            await peer.socket.close(code)
            return
        await peer.ready()
        assert await peer.receive() == {"type": "attach", "thread_id": "t", "cursor": "1:1"}
        await peer.send("attached", thread_id="t", recovered=True, cursor="1:1", turns=[])
        await peer.log("message", "1:2", content="two")
        await peer.done("1:3", "one two")
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        assert text_of(await read(gateway.url)) == "one two"
        assert gateway.connections == 2


@both
@pytest.mark.parametrize(
    ("status", "error"), [(401, Unauthorized), (403, Forbidden), (404, Refused), (302, Refused), (400, Refused)]
)
async def test_a_refused_upgrade_is_a_typed_error(read: Read, status: int, error: type[AgentlineError]) -> None:
    async def script(peer: Peer) -> None:
        raise AssertionError("refused")

    async with FakeGateway(script) as gateway:
        gateway.refusals = [(status, b"<html>", {"Location": "http://127.0.0.1:9/"})]
        with pytest.raises(error) as raised:
            await read(gateway.url)
        assert not gateway.refusals, "asked once"
        assert gateway.connections == 0
        assert "html" not in str(raised.value)


@both
async def test_a_gateway_that_is_about_to_stop_is_asked_again_when_it_says(read: Read) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.done("1:1", "")
        await peer.socket.wait_closed()

    problem = {"error": {"code": "draining", "message": "wait", "retryable": True, "retry_after": 0.3}}
    async with FakeGateway(script) as gateway:
        gateway.refusals = [(503, json.dumps(problem).encode(), {}), (502, b"", {})]
        began = time.monotonic()
        await read(gateway.url)
        assert time.monotonic() - began >= 0.3
        assert gateway.connections == 1


@both
async def test_a_goodbye_is_a_wish_to_be_left_alone_for_a_while(read: Read) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept() if peer.number == 0 else await peer.ready()
        if peer.number == 0:
            await peer.send("goodbye", reason="restart", reconnect_after_ms=300)
            await peer.socket.close(1012)
            return
        await peer.receive()
        await peer.send("attached", thread_id="t", recovered=True, cursor="1:0", turns=[])
        await peer.done("1:1", "")
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        began = time.monotonic()
        await read(gateway.url)
        assert time.monotonic() - began >= 0.3


@both
async def test_a_refused_message_is_raised_or_sent_again_as_the_code_says(read: Read) -> None:
    sent: list[str] = []

    async def script(peer: Peer) -> None:
        await peer.ready()
        message = await peer.receive()
        sent.append(message["id"])
        code = ("draining", "unavailable", "busy")[peer.number]
        await peer.send("error", code=code, message="no", retryable=True, retry_after=0.01, id=message["id"])
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        with pytest.raises(Busy):
            await read(gateway.url)
    assert len(sent) == 3
    assert len(set(sent)) == 1, "under the same id"


@both
async def test_an_answer_that_ended_while_nobody_could_vouch_for_the_rest_is_looked_up(read: Read) -> None:
    async def script(peer: Peer) -> None:
        if peer.number == 0:
            await peer.accept()
            await peer.log("message", "1:1", content="one")
            await peer.socket.close(1011)
            return
        await peer.ready()
        await peer.receive()
        await peer.send("attached", thread_id="t", recovered=False, cursor="2:9", turns=[])
        await peer.send("snapshot", thread_id="t", cursor="2:9", messages=[], turn=None, approvals=[])
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        gateway.turn = {
            "turn_id": "u",
            "thread_id": "t",
            "agent": "a",
            "status": "interrupted",
            "message_id": "a",
            "content": "one two",
            "error": {"code": "interrupted", "message": "stopped", "retryable": True},
        }
        events = await read(gateway.url)
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.status, done.content) == ("interrupted", "one two")
    assert done.error is not None
    assert text_of(events) == "one two"


@both
async def test_a_snapshot_of_the_running_turn_brings_everything_up_to_date_once(read: Read) -> None:
    approval = {"turn_id": "u", "kind": "command", "title": "?", "options": [{"id": "approved", "label": "Yes"}]}

    async def script(peer: Peer) -> None:
        if peer.number == 0:
            await peer.accept()
            await peer.log("message", "1:1", content="old ")
            await peer.log("tool_call", "1:2", call_id="c1", name="shell", title="ls", arguments={})
            await peer.send("approval_request", thread_id="t", cursor="1:3", approval_id="p1", **approval)
            await peer.socket.close(1011)
            return
        await peer.ready()
        await peer.receive()
        turns = [{"turn_id": "u", "status": "running", "queued": 0}]
        tools = [
            {"call_id": "c1", "name": "shell", "title": "ls", "status": "completed"},
            {"call_id": "c2", "name": "shell", "title": "pwd", "status": "running"},
        ]
        turn = {"turn_id": "u", "status": "running", "content": "new text", "reasoning": "", "tools": tools}
        await peer.send("attached", thread_id="t", recovered=False, cursor="2:5", turns=turns)
        await peer.send(
            "snapshot",
            thread_id="t",
            cursor="2:5",
            messages=[],
            turn=turn,
            approvals=[{"approval_id": "p2", **approval}],
        )
        await peer.log("message", "2:6", content=" goes on")
        await peer.log("tool_result", "2:7", call_id="c2", status="failed", summary="")
        await peer.log("approval_resolved", "2:8", approval_id="p2", decision="approved", by="alice")
        await peer.done("2:9", "new text goes on")
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        events = await read(gateway.url)
    assert text_of(events) == "new text goes on"
    assert [event.call_id for event in events if isinstance(event, ToolCall)] == ["c1", "c2"]
    assert [(e.call_id, e.status) for e in events if isinstance(e, ToolResult)] == [
        ("c1", "completed"),
        ("c2", "failed"),
    ]
    assert [event.approval_id for event in events if isinstance(event, ApprovalRequest)] == ["p1", "p2"]
    assert [(e.approval_id, e.decision) for e in events if isinstance(e, ApprovalResolved)] == [
        ("p1", "unknown"),
        ("p2", "approved"),
    ]


@both
@pytest.mark.parametrize("way", ["pieces", "reset"])
async def test_a_long_answer_is_whole_at_the_end_also_where_frames_showed_it_cut(read: Read, way: str) -> None:
    whole = "0123456789" * 10

    async def script(peer: Peer) -> None:
        await peer.accept()
        if way == "pieces":
            await peer.log("message", "1:1", content=whole[:60])
        else:
            await peer.log("reset", "1:1", content=whole[:20], truncated=True, length=60)
        await peer.log("message", "1:2", content=whole[60:])
        await peer.done("1:3", whole[:20], truncated=True, length=100)
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        gateway.turn = {
            "turn_id": "u",
            "thread_id": "t",
            "agent": "a",
            "status": "completed",
            "message_id": "a",
            "content": whole,
        }
        events = await read(gateway.url)
    done = events[-1]
    assert isinstance(done, Done)
    assert done.content == text_of(events) == whole
    assert not done.truncated


@both
async def test_an_end_that_says_more_than_the_pieces_did_is_believed(read: Read) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        await peer.log("message", "1:1", content="hal")
        await peer.done("1:2", "hello")
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        assert text_of(await read(gateway.url)) == "hello"


@both
@pytest.mark.parametrize(
    "frames",
    [
        ['{"type":"ready","timestamp":"","protocol":2}'],
        ["no json"],
        ['{"type":"message","timestamp":""}'],
        [b"\x00"],
        ["x" * (5 * 1024 * 1024)],
    ],
    ids=["version", "json", "shape", "binary", "size"],
)
async def test_a_peer_that_does_not_keep_the_contract_is_left(read: Read, frames: list[Any]) -> None:
    async def script(peer: Peer) -> None:
        for frame in frames:
            await peer.socket.send(frame)
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        with pytest.raises(ContractBroken):
            await read(gateway.url)


@both
async def test_what_a_newer_gateway_adds_is_ignored(read: Read) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept(colour="blue")
        await peer.send("celebration", thread_id="t")
        await peer.log("message", "1:1", content="hi", mood={"x": [1]})
        await peer.done("1:2", "hi")
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        assert text_of(await read(gateway.url)) == "hi"


@both
async def test_a_message_in_fragments_is_one_message(read: Read) -> None:
    async def script(peer: Peer) -> None:
        await peer.accept()
        done = {"type": "done", "timestamp": "", "thread_id": "t", "turn_id": "u", "cursor": "1:1"}
        text = json.dumps(done | {"status": "completed", "message_id": "a", "content": "é👍🏽"}, ensure_ascii=False)
        await peer.socket.send([text[:90], text[90:-4], text[-4:]])
        await peer.socket.wait_closed()

    async with FakeGateway(script) as gateway:
        assert text_of(await read(gateway.url)) == "é👍🏽"


async def test_the_token_may_be_asked_for_anew_for_each_connection() -> None:
    from agentline import Agentline

    tokens = iter(["token-of-alice", "token-of-alice", "old"])

    async def script(peer: Peer) -> None:
        await peer.ready()
        await peer.socket.close(4401)

    async with FakeGateway(script) as gateway:
        async with Agentline(gateway.url, lambda: next(tokens), deadlines=dataclasses.replace(QUICK)) as line:
            with pytest.raises(Unauthorized):
                await anext(line.stream("a", "Hi"))
        assert gateway.connections == 2
