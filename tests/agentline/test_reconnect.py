"""Whatever happens to the connection, the caller sees every event once, and the exact text."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import pytest

from agentline import (
    Accepted,
    Agentline,
    Disconnected,
    Done,
    Event,
    Reset,
    Text,
    TimedOut,
    ToolCall,
    Typing,
    UserMessage,
    turn_session,
)
from tests.agentline.conftest import QUICK, line_to
from tests.agentline.proxy import Act, Proxy, Seen
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.server import GatewayProcess

PIECES = 200
LOGGED = ("user_message", "message", "reset", "reasoning", "tool_call", "tool_result", "done")
OnEvent = Callable[[Event], None]
Read = Callable[..., Any]


async def read_async(line: Agentline, agent: str, content: str, on_event: OnEvent, within: float = 60) -> list[Event]:
    events: list[Event] = []
    async with line, line.stream(agent, content, within=within) as stream:
        async for event in stream:
            events.append(event)
            on_event(event)
    return events


async def read_blocking(
    line: Agentline, agent: str, content: str, on_event: OnEvent, within: float = 60
) -> list[Event]:
    loop = asyncio.get_running_loop()

    def read() -> list[Event]:
        events: list[Event] = []
        for event in line.blocking.stream(agent, content, within=within):
            events.append(event)
            loop.call_soon_threadsafe(on_event, event)
        return events

    return await asyncio.to_thread(read)


both = pytest.mark.parametrize("read", [read_async, read_blocking])


def assert_exact(events: list[Event], pieces: list[str]) -> None:
    assert not [event for event in events if isinstance(event, Reset)], "no repair was needed"
    assert [event.content for event in events if isinstance(event, Text)] == pieces
    told = [event for event in events if not isinstance(event, Text | Typing)]
    assert [type(event) for event in told] == [Accepted, UserMessage, Done]
    assert isinstance(events[-1], Done)
    assert events[-1].content == "".join(pieces)


async def cut_after_every_frame(
    read: Read, gateway: GatewayProcess, messages_api: MessagesApi, pieces: list[str], within: float = 60
) -> None:
    """The backend says the next piece only when the last one was read, and each one read costs the connection."""
    paced = Paced().say(pieces).finish()
    messages_api.script = paced.script
    gates = iter(paced.gates)
    next(gates).opened.set()

    def on_event(event: Event) -> None:
        if isinstance(event, Text):
            next(gates, paced.gates[-1]).opened.set()

    async with Proxy(gateway.url, lambda seen: Act.CUT_AFTER if seen.type in LOGGED else Act.PASS) as proxy:
        events = await read(line_to(proxy.url), "claude", "Hi", on_event, within=within)
    # One for each piece, one for the message, one for the end; and the client's own `message` is cut off, too.
    assert proxy.connections >= len(pieces) + 2
    assert_exact(events, pieces)
    assert len(messages_api.calls) == 1


@both
async def test_a_connection_cut_after_every_frame_of_a_turn_changes_nothing_of_the_text(
    gateway: GatewayProcess, messages_api: MessagesApi, read: Read
) -> None:
    await cut_after_every_frame(read, gateway, messages_api, [f"[{n} 👍🏽 é] " for n in range(PIECES)])


@both
async def test_a_client_that_resumes_from_the_cursor_before_its_last_is_found_out(
    gateway: GatewayProcess, messages_api: MessagesApi, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursors: list[str | None] = [None]
    attach = turn_session.attach_frame

    def stale(thread_id: str, cursor: str | None) -> str:
        cursors.append(cursor)
        return attach(thread_id, cursors[-2])

    monkeypatch.setattr(turn_session, "attach_frame", stale)
    with pytest.raises((AssertionError, TimedOut)):
        await cut_after_every_frame(read, gateway, messages_api, [f"[{n}] " for n in range(10)], within=1.5)


@both
@pytest.mark.parametrize("frames", range(8))
async def test_a_connection_cut_after_its_first_frames_loses_nothing_and_sends_the_message_once(
    gateway: GatewayProcess, read: Read, frames: int
) -> None:
    """Cut before `ready`, between `ready` and `accepted`, behind it, …: three times each."""

    def policy(seen: Seen) -> Act:
        return Act.CUT_BEFORE if seen.to_client and seen.index == frames and seen.connection < 3 else Act.PASS

    async with Proxy(gateway.url, policy) as proxy:
        events = await read(line_to(proxy.url), "demo", "/pieces 5 0.01", lambda event: None)
    accepted = [event for event in events if isinstance(event, Accepted)]
    assert len(accepted) == 1
    assert accepted[0].duplicate == (frames == 1), "cut between the message and its `accepted`: sent again"
    assert "".join(event.content for event in events if isinstance(event, Text)) == "1 2 3 4 5 "
    assert not [event for event in events if isinstance(event, Reset)]
    assert sum(isinstance(event, Done) for event in events) == 1
    history = await line_history(gateway, accepted[0].thread_id)
    assert [message["role"] for message in history] == ["user", "assistant"]


async def line_history(gateway: GatewayProcess, thread_id: str) -> list[Any]:
    answer = await gateway.get(f"/api/threads/{thread_id}/messages")
    messages: list[Any] = answer["messages"]
    return messages


@both
async def test_a_message_that_never_left_is_sent_on_the_next_connection(gateway: GatewayProcess, read: Read) -> None:
    def policy(seen: Seen) -> Act:
        return Act.CUT_BEFORE if seen.type == "message" and not seen.to_client and seen.connection < 2 else Act.PASS

    async with Proxy(gateway.url, policy) as proxy:
        events = await read(line_to(proxy.url), "demo", "/echo once", lambda event: None)
    accepted = next(event for event in events if isinstance(event, Accepted))
    assert not accepted.duplicate
    assert proxy.connections == 3
    assert events[-1].content == "once"


@both
@pytest.mark.parametrize("at", ["ready", "accepted", "message"])
async def test_a_connection_that_falls_silent_is_given_up_and_resumed(
    gateway: GatewayProcess, read: Read, at: str
) -> None:
    """A network that swallows everything tells nobody: only the deadlines notice."""

    def policy(seen: Seen) -> Act:
        return Act.HOLE if seen.to_client and seen.type == at and seen.connection == 0 else Act.PASS

    deadlines = dataclasses.replace(QUICK, answer=0.4, heartbeat=0.2)
    began = time.monotonic()
    async with Proxy(gateway.url, policy) as proxy:
        events = await read(line_to(proxy.url, deadlines), "demo", "/echo found again", lambda event: None)
    assert events[-1].content == "found again"
    assert proxy.connections == 2
    assert 0.3 < time.monotonic() - began < 3


@both
async def test_frames_that_come_late_are_waited_for_as_long_as_the_gateway_answers_pings(
    gateway: GatewayProcess, read: Read
) -> None:
    deadlines = dataclasses.replace(QUICK, heartbeat=0.1)
    async with Proxy(gateway.url) as proxy:
        events = await read(line_to(proxy.url, deadlines), "demo", "/pause 0.8\n/echo late", lambda event: None)
    assert events[-1].content == "late"
    assert proxy.connections == 1


@both
async def test_a_gateway_that_is_gone_is_given_up_in_the_end(gateway: GatewayProcess, read: Read) -> None:
    deadlines = dataclasses.replace(QUICK, give_up=0.5)
    async with Proxy(gateway.url, lambda seen: Act.CUT_AFTER if seen.type == "user_message" else Act.PASS) as proxy:

        def on_event(event: Event) -> None:
            proxy.refuse = True

        began = time.monotonic()
        with pytest.raises(Disconnected) as raised:
            await read(line_to(proxy.url, deadlines), "demo", "/hang", on_event)
    assert 0.4 < time.monotonic() - began < 2
    assert raised.value.seconds >= 0.5


@both
async def test_a_gateway_that_takes_connections_and_drops_them_is_given_up_too(
    gateway: GatewayProcess, read: Read
) -> None:
    deadlines = dataclasses.replace(QUICK, give_up=0.5, first_delay=0.05)
    async with Proxy(gateway.url, lambda seen: Act.CUT_AFTER if seen.type == "ready" else Act.PASS) as proxy:
        with pytest.raises(Disconnected):
            await read(line_to(proxy.url, deadlines), "demo", "Hi", lambda event: None)
    assert proxy.connections < 20, "it waits longer from time to time"


@both
async def test_a_gateway_that_drops_each_connection_before_anything_new_is_given_up_too(
    gateway: GatewayProcess, read: Read
) -> None:
    """That the agent is at work is said on each connection: it is no progress."""
    deadlines = dataclasses.replace(QUICK, give_up=0.5, first_delay=0.05)
    async with Proxy(gateway.url, lambda seen: Act.CUT_AFTER if seen.type == "typing" else Act.PASS) as proxy:
        with pytest.raises(Disconnected):
            await read(line_to(proxy.url, deadlines), "demo", "/hang", lambda event: None)
    assert 2 <= proxy.connections < 20


async def follow_async(line: Agentline, thread_id: str, cursor: str) -> list[Event]:
    events: list[Event] = []
    async with line, asyncio.timeout(30):
        async for event in line.follow(thread_id, cursor, agent="demo"):
            events.append(event)
            if isinstance(event, Done) and event.content == "the end":
                break
    return events


async def follow_blocking(line: Agentline, thread_id: str, cursor: str) -> list[Event]:
    def follow() -> list[Event]:
        events: list[Event] = []
        for event in line.blocking.follow(thread_id, cursor, agent="demo"):
            events.append(event)
            if isinstance(event, Done) and event.content == "the end":
                break
        return events

    return await asyncio.to_thread(follow)


@pytest.mark.parametrize("follow", [follow_async, follow_blocking])
async def test_a_thread_is_followed_over_connections_cut_after_every_frame(
    gateway: GatewayProcess, follow: Callable[..., Any]
) -> None:
    thread_id = f"cut-{follow.__name__}"
    async with line_to(gateway.url) as line:
        turns = [
            [event async for event in line.stream("demo", content, thread_id=thread_id)]
            for content in ("/tool\n/reasoning hm\n/items 5", "/reset\n/unicode", "/echo the end")
        ]
        first = turns[0][0]
        assert isinstance(first, Accepted)
        async with Proxy(gateway.url, lambda seen: Act.CUT_AFTER if seen.type in LOGGED else Act.PASS) as proxy:
            events = await follow(line_to(proxy.url), thread_id, first.cursor)
        assert proxy.connections > 15
    ends = [event for event in events if isinstance(event, Done)]
    assert ends == [turn[-1] for turn in turns]
    for end in ends:
        text = ""
        for event in events:
            if isinstance(event, Text) and event.turn_id == end.turn_id:
                text += event.content
            elif isinstance(event, Reset) and event.turn_id == end.turn_id:
                text = event.content
        assert text == end.content
    tools = [event for event in events if isinstance(event, ToolCall)]
    assert len(tools) == 1, "each event once"


@both
async def test_the_callers_deadline_ends_the_stream_and_not_the_turn(gateway: GatewayProcess, read: Read) -> None:
    turn_id = ""

    def on_event(event: Event) -> None:
        nonlocal turn_id
        turn_id = getattr(event, "turn_id", "")

    began = time.monotonic()
    with pytest.raises(TimedOut):
        await read(line_to(gateway.url), "demo", "/pause 2\n/echo later", on_event, within=0.3)
    assert time.monotonic() - began < 1.5
    assert (await gateway.get(f"/api/turns/{turn_id}"))["status"] == "running"


@pytest.mark.parametrize("read", [read_async, pytest.param(read_blocking, marks=pytest.mark.soak)])
async def test_a_gateway_killed_in_mid_turn_and_started_again_gives_a_snapshot_and_one_end(
    new_gateway: Callable[..., GatewayProcess], read: Read
) -> None:
    gateway = new_gateway()
    await gateway.start_soon()
    port = gateway.url.rsplit(":", 1)[1]
    gateway.command = (*gateway.command[:-1], port)
    killing: list[asyncio.Task[None]] = []

    async def kill_and_restart() -> None:
        await gateway.kill()
        await gateway.restart()

    def on_event(event: Event) -> None:
        if isinstance(event, Text) and event.content.startswith("15") and not killing:
            killing.append(asyncio.create_task(kill_and_restart()))

    events = await read(line_to(gateway.url), "demo", "/pieces 200 0.05", on_event)
    await killing[0]
    done = events[-1]
    assert isinstance(done, Done)
    assert done.status == "interrupted"
    text = ""
    for event in events:
        if isinstance(event, Text):
            text += event.content
        elif isinstance(event, Reset):
            text = event.content
    assert text == done.content != ""
    assert sum(isinstance(event, Done) for event in events) == 1
