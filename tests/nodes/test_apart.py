"""A node that something keeps from what the others reach, and things in Redis that are not as they were left."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.clock import now
from gateway.errors import NotFound, StoreUnavailable
from gateway.eventlog.local import decode_events
from gateway.eventlog.stream import STARTS, key_of
from gateway.nodes.link import RedisDown, RedisLink
from gateway.nodes.queue import QUEUE, QUEUED, Entry, TurnQueue
from gateway.store.base import Store
from gateway.store.records import Accepted, Checkpoint
from gateway.store.records import Turn as StoredTurn
from gateway.store.sql import SqlStore
from providers import Completed, Event, TextDelta, Turn
from tests.nodes.conftest import eventually
from tests.nodes.many import LEASE_SECONDS, Whole, whole_node
from tests.nodes.test_hostile import Held, echoes, pair
from tests.redis_server import RedisServer

SCALE = Path(__file__).parents[2] / "docs" / "scale.md"


class Reached:
    """A store that one node alone does not reach while it is `apart`."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.apart = False
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        async def asked(*values: Any, **named: Any) -> Any:
            if self.apart:
                self.asked += 1
                raise StoreUnavailable(undone=True)
            return await found(*values, **named)

        return asked


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


@contextlib.asynccontextmanager
async def apart(
    redis: RedisServer, store: SqlStore, folder: Path, stream: Any = echoes
) -> AsyncIterator[tuple[Whole, Reached]]:
    """A node that runs turns, and that does not reach the store."""
    reached = Reached(store)
    async with whole_node(redis, cast("Store", reached), folder, {"a": stream}) as node:
        reached.apart = True
        try:
            yield node, reached
        finally:
            reached.apart = False


async def taken_by_the_dead(redis: RedisServer, store: SqlStore, serves: Whole) -> Accepted:
    """A turn whose node has claimed it, and has died since."""
    async with RedisLink(redis.url) as dead, dead.reader() as reader:
        accepted = await serves.submit()
        queue, entries = TurnQueue(dead), list[Entry]()
        while not entries:
            entries = await queue.take(reader, 1)
        assert [entry.turn_id for entry in entries] == [accepted.turn.turn_id]
        assert await store.claim(accepted.turn.turn_id, "dead", now()) is not None
    return accepted


async def test_a_node_that_alone_does_not_reach_the_store_keeps_no_turn_from_the_others(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with (
        whole_node(redis, store, tmp_path, {"a": echoes}, takes_turns=False) as serves,
        apart(redis, store, tmp_path) as (alone, reached),
    ):
        asked = reached.asked
        first = await serves.submit()
        await eventually(lambda: reached.asked > asked + 2)
        async with whole_node(redis, store, tmp_path, {"a": echoes}, lease=30) as runs:
            assert (await runs.ended(first, within=20)).status == "completed"
            for accepted in [await serves.submit() for _ in range(20)]:
                assert (await runs.ended(accepted, within=20)).status == "completed"
        reached.apart = False
        again = await serves.submit()
        assert (await serves.ended(again, within=20)).status == "completed"
        assert alone.agents["a"].turns


async def test_a_claim_of_which_nobody_knows_whether_it_was_made_is_not_given_to_others(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would find it made, by a node that never began, and interrupt the turn."""
    claim, lost = store.claim, 0

    async def unanswered(turn_id: str, attempt: str, at: int) -> Any:
        nonlocal lost
        claimed = await claim(turn_id, attempt, at)
        lost += 1
        if lost == 1:
            raise StoreUnavailable
        if lost == 2:
            raise StoreUnavailable(undone=True)
        return claimed

    monkeypatch.setattr(store, "claim", unanswered)
    async with pair(redis, store, tmp_path, a=echoes) as (_, serves):
        assert (await serves.ended(await serves.submit())).status == "completed"
        assert lost == 3


async def test_a_dead_nodes_turn_is_not_kept_by_a_node_that_cannot_take_it_over(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with whole_node(redis, store, tmp_path, {"a": echoes}, takes_turns=False) as serves:
        accepted = await taken_by_the_dead(redis, store, serves)
        async with apart(redis, store, tmp_path) as (_, reached):
            asked = reached.asked
            await asyncio.sleep(LEASE_SECONDS + 1.0)
            assert reached.asked > asked
            async with whole_node(redis, store, tmp_path, {"a": echoes}, lease=30) as takes:
                assert (await takes.ended(accepted, within=20)).status == "interrupted"


async def test_a_node_that_stops_as_it_takes_a_turn_over_leaves_it_to_the_next_at_once(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole_node(redis, store, tmp_path, {"a": echoes}, takes_turns=False) as serves:
        accepted = await taken_by_the_dead(redis, store, serves)
        async with whole_node(redis, store, tmp_path, {"a": echoes}) as stops:
            begin, taken = stops.consumer._begin, asyncio.Event()

            def begin_last(entry: Entry, overdue: bool = False) -> None:
                stops.runner.draining = True
                begin(entry, overdue)
                taken.set()

            monkeypatch.setattr(stops.consumer, "_begin", begin_last)
            await asyncio.wait_for(taken.wait(), 3 * LEASE_SECONDS)
            async with whole_node(redis, store, tmp_path, {"a": echoes}, lease=30) as takes:
                assert (await takes.ended(accepted, within=20)).status == "interrupted"
                await stops.runner.drain(5.0)


async def test_the_node_that_sweeps_gives_that_up_when_it_does_not_reach_the_store(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_: object) -> None:
        return None

    async with apart(redis, store, tmp_path) as (sweeps, _):
        await eventually(lambda: redis.command("GET", "{agentline}:sweeper") == sweeps.link.node_id.encode())
        async with whole_node(redis, store, tmp_path, {"a": echoes}) as runs:
            monkeypatch.setattr(runs.runner, "start", nothing)
            accepted = await runs.submit()
            assert (await runs.ended(accepted, within=10)).status == "completed"


async def test_a_turn_that_redis_knows_twice_goes_on(redis: RedisServer, store: SqlStore, tmp_path: Path) -> None:
    """As when an evicting Redis has dropped which turns are queued, but not the queue."""
    held = Held()
    async with (
        whole_node(redis, store, tmp_path, {"a": held}, lease=1.0) as one,
        whole_node(redis, store, tmp_path, {"a": held}, lease=1.0) as two,
    ):
        accepted = await one.submit()
        await held.begun.wait()
        runs, other = (one, two) if one.runner.count else (two, one)
        redis.command("DEL", QUEUED)
        await other.queue.enqueue([accepted.turn.turn_id])
        await asyncio.sleep(4.0)
        held.go_on.set()
        assert (await runs.ended(accepted)).status == "completed"
        assert held.calls == 1
        await eventually(lambda: (redis.command("XLEN", QUEUE), redis.command("HLEN", QUEUED)) == (0, 0))


async def test_the_end_of_a_turn_is_not_told_to_a_redis_that_takes_no_writes(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with whole_node(redis, store, tmp_path, {"a": echoes}) as node:
        accepted = await node.submit()
        await node.ended(accepted)
        thread = await store.thread_by_key(accepted.thread.key)
        assert thread is not None
        await node.logs.nudge(thread)  # refused, because it is not needed
        await node.logs.nudge(thread)
        redis.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(RedisDown):
            await node.logs.nudge(thread)
        redis.command("CONFIG", "SET", "maxmemory", "0")


async def test_the_end_of_a_turn_that_redis_has_lost_is_found_in_the_store_after_an_outage(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with pair(redis, store, tmp_path, a=held) as (runs, serves):
        accepted = await serves.submit()
        await held.begun.wait()
        async with serves.logs.held(accepted.thread.key) as log:
            await eventually(lambda: log.running is not None and log.head == 2)
            together, mirrors = asyncio.Event(), serves.logs._mirrors
            read, away = mirrors._read, asyncio.Event()

            async def cut(*_: object) -> None:
                away.set()
                await together.wait()
                monkeypatch.setattr(mirrors, "_read", read)
                raise RedisDown

            monkeypatch.setattr(mirrors, "_read", cut)
            redis.command("XADD", STARTS, "*", "thread", str(10**9))  # ends the read that is under way
            await away.wait()
            held.go_on.set()
            await runs.ended(accepted)
            await eventually(lambda: runs.consumer._taken == {})
            redis.command("DEL", key_of(log.key))
            together.set()
            await eventually(lambda: log.running is None, within=5)
            assert log.events[-1].turn_id == accepted.turn.turn_id


async def test_a_stream_that_was_lost_while_its_turn_ran_does_not_stay_for_ever(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    held = Held()
    async with whole_node(redis, store, tmp_path, {"a": held}) as node:
        accepted = await node.submit()
        await held.begun.wait()
        key = key_of(accepted.thread.key)
        await eventually(lambda: redis.command("EXISTS", key) == 1)
        redis.command("DEL", key)
        held.go_on.set()
        await node.ended(accepted)
        await eventually(lambda: node.consumer._taken == {})
        assert redis.command("EXISTS", key) == 1
        assert cast("int", redis.command("PTTL", key)) > 0


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_turn_that_began_while_its_thread_was_being_deleted_is_stopped(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def endless(turn: Turn) -> AsyncGenerator[Event]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield Completed()
        finally:
            stopped.set()

    async with pair(redis, store, tmp_path, a=echoes, b=endless) as (runs, serves):
        asked = serves if elsewhere else runs
        first = await runs.submit(agent="b", thread_id="t", content="one")
        await begun.wait()
        begun.clear()
        delete = store.delete

        async def late(user_id: str, thread_id: str) -> bool:
            monkeypatch.setattr(store, "delete", delete)
            await runs.ended(first)
            stopped.clear()
            await runs.submit(agent="b", thread_id="t", content="two")
            await begun.wait()
            return await delete(user_id, thread_id)

        monkeypatch.setattr(store, "delete", late)
        await asked.turns.delete_thread("alice", "t")
        await asyncio.wait_for(stopped.wait(), 5)
        await eventually(lambda: runs.runner.count == 0)
        with pytest.raises(NotFound):
            await asked.turns.cancel_thread("alice", "t")


async def test_an_answer_to_a_message_that_was_handed_over_fits_however_much_the_thread_holds(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = asyncio.Event()

    async def takes(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("a", "begun")
        async for message in turn.steering:
            yield TextDelta("a", message.content[:5])
            took.set()
            break
        yield Completed()

    monkeypatch.setattr("tests.gateway.engine.Scripted.capabilities", frozenset(("steer",)))
    async with pair(redis, store, tmp_path, a=takes) as (runs, serves):
        first = await serves.submit(thread_id="t")
        await eventually(lambda: runs.runner.count == 1)
        await store.checkpoint(
            [
                Checkpoint(
                    thread_key=first.thread.key,
                    epoch=first.thread.epoch,
                    segment=None,
                    session={"history": "x" * 100_000},
                    approvals=(),
                )
            ]
        )
        words = "y" * 60_000
        second = await serves.submit(words, thread_id="t", when_busy="steer")
        assert (second.steered, second.turn.turn_id, second.turn.content) == (True, first.turn.turn_id, words)
        await took.wait()
        assert (await runs.ended(first)).status == "completed"


async def test_an_idle_connection_that_redis_has_closed_is_no_outage(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.nodes.link.IDLE_SECONDS", 0.5, raising=False)
    redis.command("CONFIG", "SET", "timeout", "1")
    async with whole_node(redis, store, tmp_path, {"a": echoes}) as node:
        await node.ended(await node.submit())
        await asyncio.sleep(3.5)
        since = node.link.up_since
        again = await node.submit()
        await node.ended(again)
        await eventually(lambda: node.consumer._taken == {})
        assert node.link.up_since == since


async def test_what_nobody_understands_in_redis_stops_no_loop(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair(redis, store, tmp_path, a=echoes) as (runs, serves):
        await runs.ended(await runs.submit())
        redis.command("XADD", QUEUE, "*", "job", "of a newer version")
        redis.command("XADD", STARTS, "*", "log", "of a newer version")
        redis.command("XADD", "agentline:control", "*", "word", "of a newer version")
        await asyncio.sleep(LEASE_SECONDS + 1.0)
        assert [name for one in (runs, serves) for name, task in one.tasks.items() if task.done()] == []
        accepted = await serves.submit()
        async with serves.logs.held(accepted.thread.key) as log:
            await eventually(lambda: log.running is None and log.head >= 3)


async def test_an_error_of_the_store_that_nobody_expected_stops_no_loop_and_no_turn(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as rights that were taken away, or a table that is just being restored."""
    held = Held()
    async with whole_node(redis, store, tmp_path, {"a": held}) as node:
        failing = ("checkpoint", "summary", "trim")
        asked: set[str] = set()

        def denied(name: str) -> Any:
            async def deny(*_: object, **__: object) -> None:
                asked.add(name)
                raise RuntimeError("permission denied for table")

            return deny

        with monkeypatch.context() as patched:
            for name in failing:
                patched.setattr(store, name, denied(name))
            connection = node.connection()
            node.turns._notices._hub.add(connection)
            accepted = await node.submit()
            await held.begun.wait()
            await eventually(lambda: {"checkpoint", "summary"} <= asked)
        async with node.logs.held(accepted.thread.key) as log:
            await eventually(lambda: log.durable == log.head == 2)
        held.go_on.set()
        assert (await node.ended(accepted)).status == "completed"
        assert not node.tasks["checkpoints"].done()


@pytest.mark.parametrize("followed", [False, True])
async def test_a_node_that_stood_still_behind_its_claim_writes_nothing_behind_the_end_of_the_turn(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, followed: bool
) -> None:
    async with (
        pair(redis, store, tmp_path, a=echoes) as (zombie, serves),
        contextlib.AsyncExitStack() as stack,
    ):
        first = await serves.submit(thread_id="t")
        await serves.ended(first)
        if followed:
            await stack.enter_async_context(zombie.logs.held(first.thread.key))
        await eventually(lambda: zombie.consumer._taken == {})
        start, calls = zombie.local.start, len(zombie.agents["a"].turns)

        async def late(turn: StoredTurn, *claimed: Any) -> Any:
            found = await store.turn(None, turn.turn_id)
            assert found is not None
            await serves.local.interrupt(*found)
            monkeypatch.setattr(zombie.local, "start", start)
            if followed:
                log = await zombie.logs.hold(turn.thread_key)
                await zombie.logs.catch_up(log)
                zombie.logs.release(log)
            return await start(turn, *claimed)

        monkeypatch.setattr(zombie.local, "start", late)
        second = await serves.submit(thread_id="t")
        assert (await serves.ended(second)).status == "interrupted"
        await eventually(lambda: zombie.consumer._taken == {})
        await zombie.logs.checkpoint()
        thread = await store.thread_by_key(first.thread.key)
        assert thread is not None
        segments = await store.segments(thread.key, 0, 100)
        events = [event for segment in segments for event in decode_events(segment)]
        assert [type(event).__name__ for event in events if event.turn_id == second.turn.turn_id][-1:] == ["Done"]
        assert len(zombie.agents["a"].turns) == calls
        third = await serves.submit(thread_id="t")
        assert (await serves.ended(third)).status == "completed"


async def test_a_node_that_lost_a_turn_stops_that_one_and_not_the_next_one_of_the_thread(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def first_never_ends(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("a", "begun")
        if turn.messages[-1].content == "one":
            begun.set()
            await asyncio.Event().wait()
        yield Completed()

    async with pair(redis, store, tmp_path, a=first_never_ends) as (runs, serves):
        first = await runs.submit("one", thread_id="t")
        await begun.wait()
        second = await runs.submit("two", thread_id="t")
        noticing, checkpoint = asyncio.Event(), runs.logs.checkpoint

        async def late() -> None:
            await noticing.wait()
            await checkpoint()

        monkeypatch.setattr(runs.logs, "checkpoint", late)
        found = await store.turn(None, first.turn.turn_id)
        assert found is not None
        following = await serves.local.interrupt(*found)
        assert following is not None
        await runs.runner.start(following)
        await eventually(lambda: second.turn.turn_id in runs.local._by_turn)
        noticing.set()
        async with runs.logs.held(first.thread.key) as log:
            runs.logs.touch(log)
            assert (await runs.ended(second)).status == "completed"
        assert (await runs.ended(first)).status == "interrupted"


async def test_a_turn_whose_history_cannot_be_read_waits_for_the_store(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages, asked = store.messages, 0

    async def late(*which: Any, **named: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreUnavailable
        return await messages(*which, **named)

    monkeypatch.setattr(store, "messages", late)
    async with whole_node(redis, store, tmp_path, {"a": echoes}) as node:
        assert (await node.ended(await node.submit())).status == "completed"
        assert asked == 2


async def test_the_rights_that_the_documentation_names_are_enough(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    words = re.search(r"`ACL SETUSER agentline on >password ([^`]*)`", SCALE.read_text(encoding="utf-8"))
    assert words is not None
    redis.command("ACL", "SETUSER", "agentline", "on", ">p@ss/word", *words[1].split())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RedisServer, "url", f"redis://agentline:p%40ss%2Fword@127.0.0.1:{redis.port}/3")
        async with pair(redis, store, tmp_path, a=echoes) as (runs, serves):
            for _ in range(3):
                accepted = await serves.submit()
                async with serves.logs.held(accepted.thread.key) as log:
                    await serves.ended(accepted)
                    await eventually(lambda: log.running is None and log.head >= 3)
            await runs.queue.forget_nodes()
            await serves.turns.delete_thread("alice", accepted.thread.thread_id)
            assert (runs.link.up, serves.link.up) == (True, True)
            asked = await serves.link.run("EXISTS", QUEUE)
            assert asked == 1
    assert redis.command("ACL", "LOG") == []
    assert redis.command("DBSIZE") == 0  # it was another database's number
