"""What one node tells, all others hear, in order; what gets lost gets lost quietly, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.errors import NodeUnavailable
from gateway.nodes import control as module
from gateway.nodes.control import MESSAGE_BYTES, STREAM, RedisControl, Solo
from tests.nodes.conftest import Node, eventually, node
from tests.redis_server import RedisServer


def has_heard(node: Node, count: int) -> bool:
    return len(node.heard) == count


def logged(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


async def test_all_others_hear_what_a_node_tells_in_order_and_it_does_not_hear_itself(redis: RedisServer) -> None:
    async with node(redis) as one, node(redis) as two, node(redis) as three:
        await one.say(*range(800))
        await eventually(lambda: len(two.heard) == len(three.heard) == 800)
        assert two.heard == three.heard == list(range(800))
        await two.say("from two")
        await eventually(lambda: one.heard and len(three.heard) == 801)
        assert one.heard == ["from two"]
        assert len(two.heard) == 800


async def test_a_node_hears_nothing_from_before_its_start(redis: RedisServer) -> None:
    async with node(redis) as one:
        await one.say("early")
        await eventually(lambda: redis.command("XLEN", STREAM) == 1)
        async with node(redis) as two:
            await one.say("late")
            await eventually(lambda: two.heard)
            assert two.heard == ["late"]


async def test_what_is_told_between_begin_and_run_is_heard(redis: RedisServer) -> None:
    async with node(redis) as one, node(redis, start=False) as two:
        await two.control.begin()
        await one.say("between")
        await eventually(lambda: redis.command("XLEN", STREAM) == 1)
        await two.start()
        await eventually(lambda: two.heard == ["between"])


async def test_a_question_gets_the_first_answer_that_is_one(redis: RedisServer) -> None:
    async with (
        node(redis) as asking,
        node(redis, start=False) as silent,
        node(redis, start=False) as knowing,
        node(redis, start=False) as slow,
    ):
        asked: list[str] = []
        never = asyncio.Event()

        async def nothing(payload: dict[str, Any]) -> None:
            asked.append("silent")

        async def double(payload: dict[str, Any]) -> dict[str, Any]:
            asked.append("knowing")
            return {"twice": payload["number"] * 2}

        async def waits(payload: dict[str, Any]) -> str:
            asked.append("slow")
            await never.wait()
            return "too late"

        silent.control.on("double", nothing)
        knowing.control.on("double", double)
        slow.control.on("double", waits)
        for one in (silent, knowing, slow):
            await one.start()
        answers = await asyncio.gather(*(asking.control.ask("double", number=number) for number in range(50)))
        assert answers == [{"twice": 2 * number} for number in range(50)]
        await eventually(lambda: len(asked) == 150)
        never.set()  # late answers do no harm
        assert await asking.control.ask("double", number=50) == {"twice": 100}


async def test_a_question_without_an_answer_is_given_up_in_time(redis: RedisServer) -> None:
    async with node(redis) as one, node(redis):
        began = time.monotonic()
        with pytest.raises(NodeUnavailable):
            await one.control.ask("word", within=0.3, word="heard, but no question")
        with pytest.raises(NodeUnavailable):
            await one.control.ask("unknown", within=0.3)
        assert 0.6 <= time.monotonic() - began < 2


async def test_a_dead_redis_delays_nobody_and_what_was_told_meanwhile_is_dropped_with_one_line(
    redis: RedisServer,
) -> None:
    async with node(redis) as one, node(redis) as two:
        await one.say("before")
        await eventually(lambda: two.heard == ["before"])
        with capture_logs() as logs:
            await redis.kill()
            began = time.monotonic()
            for number in range(100):
                await one.say(number)
                await asyncio.sleep(0)
            assert time.monotonic() - began < 0.5
            await eventually(lambda: not one.link.up)
            await one.say("still down")
            began = time.monotonic()
            with pytest.raises(NodeUnavailable):
                await one.control.ask("word", word="?")
            assert time.monotonic() - began < 0.5
            await eventually(lambda: not one.control._outgoing)
            await redis.restart()
            await eventually(lambda: one.link.up and two.link.up)
            await one.say("after")
            await eventually(lambda: "after" in two.heard)
        assert two.heard == ["before", "after"]
        assert len(logged(logs, "control_messages_dropped")) == 1
        [again] = logged(logs, "control_messages_sent_again")
        assert again["dropped"] == 101


async def test_a_node_whose_connection_broke_misses_nothing(redis: RedisServer) -> None:
    async with node(redis) as one, node(redis) as two:
        for number in range(5):
            listing = redis.command("CLIENT", "LIST")
            assert isinstance(listing, bytes)
            for line in listing.decode().splitlines():
                words = dict(word.partition("=")[::2] for word in line.split())
                if words["cmd"] == "xread":
                    redis.command("CLIENT", "KILL", "ID", words["id"])
            await one.say(number)
        await eventually(lambda: len(two.heard) == 5)
        assert two.heard == list(range(5))


@pytest.mark.parametrize("looks_back", [True, False])
async def test_a_redis_that_has_lost_its_ids_is_heard_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, looks_back: bool
) -> None:
    """As after a failover to a replica that lags, or whose clock does."""
    ahead = f"{(int(time.time()) + 3600) * 1000}-0"
    redis.command("XADD", STREAM, ahead, "message", "of a clock that is an hour ahead")
    if not looks_back:
        monkeypatch.setattr(RedisControl, "_look_back", lambda self: asyncio.sleep(0))
    async with node(redis) as one, node(redis) as two:
        assert two.control.position == ahead.encode()
        await redis.kill()
        redis.forget()
        await redis.restart()
        await eventually(lambda: one.link.up and two.link.up)
        if looks_back:
            await eventually(lambda: two.control.position == b"0-0")
            await one.say("anew")
            await eventually(lambda: two.heard == ["anew"])
        else:
            await one.say("anew")
            await eventually(lambda: redis.command("XLEN", STREAM) == 1)
            await asyncio.sleep(0.3)
            assert two.heard == [], "an hour long"


async def test_a_frozen_redis_delays_nobody_and_is_heard_again_once_it_thaws(redis: RedisServer) -> None:
    async with node(redis) as one, node(redis) as two:
        await one.say("before")
        await eventually(lambda: two.heard)
        with redis.frozen():
            began = time.monotonic()
            await one.say("during")
            assert time.monotonic() - began < 0.1
            with pytest.raises(NodeUnavailable):
                await one.control.ask("word", word="?")
            assert time.monotonic() - began < 3.5
            assert not one.link.up
            began = time.monotonic()
            with pytest.raises(NodeUnavailable):
                await one.control.ask("word", word="?")
            assert time.monotonic() - began < 0.1, "it is known to be down by now"
        await eventually(lambda: one.link.up and two.link.up)
        await one.say("after")
        await eventually(lambda: "after" in two.heard)


async def test_what_is_no_message_is_logged_and_passed_over(redis: RedisServer) -> None:
    async with node(redis) as one, node(redis) as two:
        with capture_logs() as logs:
            redis.command("XADD", STREAM, "*", "message", "no msgpack")
            redis.command("XADD", STREAM, "*", "other", "field")
            redis.command("XADD", STREAM, "*", "message", "\x92\x01\x02")
            await one.control.tell("kind of a later version", new=True)
            await one.say("good")
            await eventually(lambda: two.heard == ["good"])
        assert len(logged(logs, "control_entry_malformed")) == 6, "three, on two nodes"
        assert not [entry for entry in logs if "no msgpack" in str(entry)]


async def test_a_handler_that_fails_or_hangs_stops_nothing(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANDLER_SECONDS", 0.2)
    async with node(redis) as one, node(redis, start=False) as two:

        async def fails(payload: dict[str, Any]) -> None:
            raise KeyError(payload["why"])

        async def hangs(payload: dict[str, Any]) -> None:
            await asyncio.Event().wait()

        async def strange(payload: dict[str, Any]) -> object:
            return object()

        two.control.on("fail", fails)
        two.control.on("hang", hangs)
        two.control.on("strange", strange)
        await two.start()
        with capture_logs() as logs:
            for kind in ("fail", "hang", "strange"):
                with pytest.raises(NodeUnavailable):
                    await one.control.ask(kind, within=0.4, why="x")
            await one.say("on")
            await eventually(lambda: two.heard == ["on"])
        assert [entry["kind"] for entry in logged(logs, "control_handler_failed")] == ["fail", "hang", "strange"]


async def test_only_so_many_handlers_are_at_work_at_once_and_nothing_is_lost(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANDLERS", 3)
    async with node(redis) as one, node(redis, start=False) as two:
        at_work: set[int] = set()
        most, done = 0, []

        async def works(payload: dict[str, Any]) -> None:
            nonlocal most
            at_work.add(payload["number"])
            most = max(most, len(at_work))
            await asyncio.sleep(0.002)
            at_work.discard(payload["number"])
            done.append(payload["number"])

        two.control.on("work", works)
        await two.start()
        for number in range(100):
            await one.control.tell("work", number=number)
        await eventually(lambda: len(done) == 100)
        assert sorted(done) == list(range(100))
        assert most == 3


async def test_a_message_that_is_too_long_is_refused(redis: RedisServer) -> None:
    async with node(redis) as one, node(redis) as two:
        for refused in (one.control.tell("word", word="x" * MESSAGE_BYTES), one.control.ask("word", word="x" * 70_000)):
            with pytest.raises(ValueError, match="more than 65536"):
                await refused
        await one.say("x" * (MESSAGE_BYTES - 200))
        await eventually(lambda: two.heard)
        assert not one.control._questions


async def test_more_than_may_wait_is_dropped_and_said(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OUTGOING", 10)
    async with node(redis) as one, node(redis) as two:
        with capture_logs() as logs:
            await one.say(*range(25))  # the loop does not turn meanwhile
            with pytest.raises(NodeUnavailable):
                await one.control.ask("word", word="?")
            await eventually(lambda: len(two.heard) == 10)
        assert two.heard == list(range(10))
        assert [entry["reason"] for entry in logged(logs, "control_messages_dropped")] == ["too many wait"]
        assert logged(logs, "control_messages_sent_again")[0]["dropped"] == 16


async def test_a_node_that_stops_sends_what_waits(redis: RedisServer) -> None:
    async with node(redis) as two:
        async with node(redis) as one:
            await one.say(*range(300))
        await eventually(lambda: len(two.heard) == 300)


async def test_a_node_stops_soon_while_redis_is_frozen(redis: RedisServer) -> None:
    with contextlib.ExitStack() as freeze:
        async with node(redis) as one:
            freeze.enter_context(redis.frozen())
            await one.say(1, 2, 3)
            began = time.monotonic()
            await one.stop()
            assert time.monotonic() - began < 1.5


async def test_the_stream_stays_short(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 100)
    async with node(redis) as one, node(redis) as two:
        for number in range(20):
            await one.say(*range(100 * number, 100 * number + 100))
            await eventually(partial(has_heard, two, 100 * number + 100))
        await eventually(lambda: len(two.heard) == 2000)
        length = redis.command("XLEN", STREAM)
        assert isinstance(length, int)
        assert length < 400


async def test_a_kind_has_one_handler(redis: RedisServer) -> None:
    async with node(redis, start=False) as one:
        for kind in ("word", ""):
            with pytest.raises(ValueError, match="handler"):
                one.control.on(kind, Node._hear)  # type: ignore[arg-type]  # never called


async def test_the_only_node_tells_nobody_and_asks_nobody() -> None:
    solo = Solo()
    solo.on("word", Node._hear)  # type: ignore[arg-type]  # never called
    await solo.tell("word", word="x")
    began = time.monotonic()
    with pytest.raises(NodeUnavailable):
        await solo.ask("word", word="x")
    assert time.monotonic() - began < 0.1
    running = asyncio.create_task(solo.run())
    await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
