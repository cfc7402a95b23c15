"""The asynchronous client against a running gateway."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
from contextlib import aclosing

import pytest

from agentline import (
    Accepted,
    Agentline,
    ApprovalRequest,
    ApprovalResolved,
    Busy,
    Done,
    Follow,
    IdConflict,
    NotFound,
    Reasoning,
    Snapshot,
    Text,
    ToolCall,
    ToolResult,
    UserMessage,
    WrongAgent,
)
from tests.agentline.conftest import line_to
from tests.agentline.leaks import held
from tests.agentline.proxy import Proxy
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.server import GatewayProcess


async def exhausted(stream: Follow) -> None:
    async for _ in stream:
        pass


async def test_a_turn_is_accepted_first_and_done_last(line: Agentline) -> None:
    stream = line.stream("demo", "/reasoning hm\n/tool\n/echo done", thread_id="whole")
    events = [event async for event in stream]
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Accepted, UserMessage]
    assert kinds[-1] is Done
    assert {Reasoning, ToolCall, ToolResult, Text} <= set(kinds)
    assert isinstance(events[-1], Done)
    assert stream.text == events[-1].content == "done"
    assert stream.thread_id == "whole"
    assert [event async for event in stream] == [], "it is over"


async def test_each_piece_is_handed_out_before_the_agent_says_more(line: Agentline, messages_api: MessagesApi) -> None:
    paced = Paced().say(["a", "b", "c"]).finish()
    messages_api.script = paced.script
    gates = iter(paced.gates)
    next(gates).opened.set()
    async for event in line.stream("claude", "Hi", within=10):
        if isinstance(event, Text):
            next(gates).opened.set()
    assert isinstance(event, Done)
    assert event.content == "abc"


async def test_a_cancelled_turn_keeps_its_text_and_still_ends(line: Agentline) -> None:
    stream = line.stream("demo", "/echo so far\n/hang")
    with pytest.raises(RuntimeError):
        await stream.cancel()
    async for event in stream:
        if isinstance(event, Text):
            await stream.cancel()
    assert isinstance(event, Done)
    assert (event.status, event.content) == ("cancelled", "so far")


async def test_an_approval_is_decided_by_a_callback_beside_the_stream(line: Agentline) -> None:
    async def decide(request: ApprovalRequest) -> str:
        await asyncio.sleep(0)
        return "approved"

    events = [event async for event in line.stream("demo", "/approval command\n/tool", on_approval=decide)]
    assert [event.decision for event in events if isinstance(event, ApprovalResolved)] == ["approved"]


async def test_an_approval_is_decided_by_a_call(line: Agentline) -> None:
    async for event in line.stream("demo", "/approval question"):
        if isinstance(event, ApprovalRequest):
            first = await line.decide(event.approval_id, "red", "warm")
            approval_id = event.approval_id
    assert isinstance(event, Done)
    late = await line.decide(approval_id, "blue")
    assert first.decision == late.decision == "red", "the first answer stands"
    assert "warm" in event.content


async def test_a_callback_that_is_still_thinking_is_cancelled_when_another_device_decides(
    line: Agentline, gateway: GatewayProcess
) -> None:
    thinking, cancelled = asyncio.Event(), asyncio.Event()
    asked: list[str] = []

    async def decide(request: ApprovalRequest) -> str:
        asked.append(request.approval_id)
        thinking.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return "never"

    async def other_device() -> None:
        await thinking.wait()
        async with line_to(gateway.url) as other:
            await other.decide(asked[0], "declined")

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(other_device())
        async for event in line.stream("demo", "/approval command", on_approval=decide):
            last = event
    assert cancelled.is_set()
    assert isinstance(last, Done)
    assert last.status == "completed"


async def test_what_a_callback_raises_is_raised_by_the_stream(line: Agentline) -> None:
    def decide(request: ApprovalRequest) -> str:
        raise ZeroDivisionError

    stream = line.stream("demo", "/approval command", on_approval=decide)
    with pytest.raises(ZeroDivisionError):
        async for _ in stream:
            pass
    assert stream.turn_id is not None
    await line.cancel(stream.turn_id)


async def test_a_second_message_waits_or_is_refused_as_the_caller_says(line: Agentline) -> None:
    async with line.stream("demo", "/hang", thread_id="busy") as first:
        async for event in first:
            if isinstance(event, UserMessage):
                break
        with pytest.raises(Busy):
            await anext(line.stream("demo", "/echo no", thread_id="busy", when_busy="reject"))
        second = line.stream("demo", "/echo yes", thread_id="busy")
        accepted = await anext(second)
        assert isinstance(accepted, Accepted)
        assert accepted.queued == 1
        await first.cancel()
        events = [event async for event in second]
        assert {event.turn_id for event in events if not isinstance(event, Snapshot)} == {second.turn_id}
        assert second.text == "yes", "nothing of the turn ahead"


async def test_refusals_are_typed(line: Agentline) -> None:
    with pytest.raises(NotFound):
        await anext(line.follow("nobody-has-this", agent="demo"))
    with pytest.raises(NotFound):
        await anext(line.follow("nobody-has-this"))
    async for _ in line.stream("demo", "/echo one", id="used", thread_id="typed"):
        pass
    with pytest.raises(IdConflict):
        await anext(line.stream("demo", "/echo two", id="used", thread_id="typed"))
    with pytest.raises(WrongAgent):
        await anext(line.stream("claude", "Hi", thread_id="typed"))


async def test_a_thread_that_is_deleted_ends_what_follows_it(line: Agentline) -> None:
    turn = line.stream("demo", "/hang", thread_id="deleted")
    async for event in turn:
        if isinstance(event, UserMessage):
            break
    follow = line.follow("deleted")
    assert isinstance(await anext(follow), Snapshot)
    await line.delete("deleted")
    assert [event async for event in turn][-1:] != [], "it was cancelled first, and says so"
    with pytest.raises(NotFound):
        await exhausted(follow)


async def test_following_shows_a_snapshot_then_what_any_device_does(line: Agentline, gateway: GatewayProcess) -> None:
    async for _ in line.stream("demo", "/echo before", thread_id="followed"):
        pass
    async with aclosing(line.follow("followed")) as follow:
        snapshot = await anext(follow)
        assert isinstance(snapshot, Snapshot)
        assert [message.content for message in snapshot.messages] == ["/echo before", "before"]
        async with line_to(gateway.url) as other:
            await other.send("demo", "/echo after", thread_id="followed")
        async for event in follow:
            if isinstance(event, Done):
                break
    assert event.content == "after"
    again = line.follow("followed", snapshot.cursor)
    replayed = []
    async for event in again:
        replayed.append(event)
        if isinstance(event, Done):
            break
    assert not [event for event in replayed if isinstance(event, Snapshot)], "the cursor is honoured"
    assert replayed[-1].content == "after"


async def test_a_cancelled_wait_for_the_next_event_loses_nothing(line: Agentline) -> None:
    stream = line.stream("demo", "/pieces 30 0.01")
    text, tries = "", 0
    while True:
        tries += 1
        try:
            async with asyncio.timeout(0.004):
                event = await anext(stream)
        except TimeoutError:
            continue
        except StopAsyncIteration:
            break
        if isinstance(event, Text):
            text += event.content
    assert tries > 40
    assert text == "".join(f"{n} " for n in range(1, 31))


async def test_a_stream_that_is_dropped_in_the_middle_frees_its_connection(gateway: GatewayProcess) -> None:
    async with Proxy(gateway.url) as proxy, line_to(proxy.url) as line:
        async for event in line.stream("demo", "/pause 3"):
            if isinstance(event, UserMessage):
                break
        gc.collect()
        await proxy.until_all_closed()


async def test_leaving_the_block_closes_every_stream(gateway: GatewayProcess) -> None:
    before = held()
    async with line_to(gateway.url) as line:
        streams = [line.stream("demo", "/pause 3") for _ in range(3)]
        for stream in streams:
            await anext(stream)
    with contextlib.suppress(StopAsyncIteration):
        await anext(streams[0])
    assert held() == before
    with pytest.raises(RuntimeError):
        line.stream("demo", "Hi")


async def test_a_slow_reader_slows_no_other_stream(line: Agentline) -> None:
    slow = line.stream("demo", "/pieces 50 0.001", thread_id="slow")
    await anext(slow)
    for _ in range(3):
        stream = line.stream("demo", "/echo quick", within=5)
        async for _ in stream:
            pass
        assert stream.text == "quick"
    async for _ in slow:
        pass
    assert slow.text == "".join(f"{n} " for n in range(1, 51))


async def test_what_a_person_has_read_is_marked_as_read(line: Agentline) -> None:
    for seen, unread in ((False, 1), (True, 0)):
        thread_id = f"seen-{seen}"
        async for _ in line.stream("demo", "/echo hi", thread_id=thread_id, seen=seen):
            pass
        async with asyncio.timeout(5):
            while (await line.thread(thread_id)).unread != unread:  # noqa: ASYNC110 - `seen` has no answer
                await asyncio.sleep(0.01)


async def test_the_history_comes_in_pages(line: Agentline) -> None:
    for n in range(3):
        async for _ in line.stream("demo", f"/echo {n}", thread_id="pages"):
            pass
    last = await line.messages("pages", limit=2)
    assert [message.content for message in last] == ["/echo 2", "2"]
    before = await line.messages("pages", before=last[0].message_id)
    assert [message.content for message in before] == list(
        itertools.chain.from_iterable((f"/echo {n}", f"{n}") for n in range(2))
    )


async def test_no_log_line_holds_a_token_or_a_text(line: Agentline, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async for _ in line.stream("demo", "/echo a secret"):
        pass
    "".join(line.blocking.stream_text("demo", "/echo a secret"))
    await line.threads()
    assert "a secret" not in caplog.text
    assert "token-of-alice" not in caplog.text
    assert "token-of-alice" not in repr(line._address)
