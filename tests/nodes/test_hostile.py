"""What must not stop a node for good, stop a turn that lives, or leave anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gateway.clock import now
from gateway.errors import StoreUnavailable
from gateway.eventlog.stream import key_of, place, write_nudge
from gateway.nodes.link import BLOCK_MS, RedisDown
from gateway.nodes.queue import QUEUE, QUEUED, Entry
from gateway.runner.consumer import Consumer
from gateway.store.records import Thread
from gateway.store.records import Turn as StoredTurn
from gateway.store.sql import SqlStore
from providers import Completed, Event, TextDelta, Turn
from tests.gateway.engine import Stream
from tests.nodes.conftest import eventually
from tests.nodes.many import LEASE_SECONDS, Whole, whole_node
from tests.redis_server import RedisServer


async def echoes(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", turn.messages[-1].content)
    yield Completed()


class Held:
    """A provider's stream that says something and goes on when it is told to."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.calls = 0

    async def __call__(self, turn: Turn) -> AsyncGenerator[Event]:
        self.calls += 1
        yield TextDelta("a", "begun")
        self.begun.set()
        await self.go_on.wait()
        yield TextDelta("a", ", ended")
        yield Completed()


@contextlib.asynccontextmanager
async def pair(
    redis: RedisServer, store: SqlStore, folder: Path, **streams: Stream
) -> AsyncIterator[tuple[Whole, Whole]]:
    """One that runs turns, and one that only serves."""
    async with (
        whole_node(redis, store, folder, streams) as runs,
        whole_node(redis, store, folder, streams, takes_turns=False) as serves,
    ):
        yield runs, serves


async def test_a_node_goes_on_when_redis_refused_all_that_it_asked_for_a_while(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with whole_node(redis, store, tmp_path, {"a": echoes}) as node:
        await node.ended(await node.submit())
        redis.command("DEL", QUEUE)
        redis.command("SET", QUEUE, "no stream")
        await asyncio.sleep(1.5)
        redis.command("DEL", QUEUE)
        await asyncio.sleep(1.5)
        assert [name for name, task in node.tasks.items() if task.done()] == []
        assert (await node.ended(await node.submit())).status == "completed"


async def test_nodes_go_on_once_a_stream_is_one_again(redis: RedisServer, store: SqlStore, tmp_path: Path) -> None:
    held = Held()
    async with pair(redis, store, tmp_path, a=held) as (runs, serves):
        accepted = await serves.submit()
        await held.begun.wait()
        async with serves.logs.held(accepted.thread.key) as log:
            await eventually(lambda: log.running is not None)
            key = key_of(log.key)
            redis.command("DEL", key)
            redis.command("SET", key, "no stream")
            held.go_on.set()
            await asyncio.sleep(1.0)
            assert [name for one in (runs, serves) for name, task in one.tasks.items() if task.done()] == []
            redis.command("DEL", key)
            await serves.ended(accepted)
            await eventually(lambda: log.running is None)


async def test_logs_that_are_let_go_of_while_all_are_looked_at_stop_nothing(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.eventlog.mirroring.LOOKS_AT_ONCE", 1)
    async with pair(redis, store, tmp_path, a=echoes) as (_, serves):
        logs = []
        for _ in range(5):
            accepted = await serves.submit()
            await serves.ended(accepted)
            logs.append(await serves.logs.hold(accepted.thread.key))
        mirrors = serves.logs._mirrors
        look = mirrors._look

        async def looking(keys: list[bytes]) -> None:
            await look(keys)
            while logs:
                serves.logs.release(logs.pop())

        monkeypatch.setattr(mirrors, "_look", looking)
        mirrors._started = None
        await eventually(lambda: not logs)
        await asyncio.sleep(0.1)
        assert not serves.tasks["logs"].done()


async def test_a_log_that_the_store_has_lost_a_part_of_keeps_no_other_from_becoming_durable(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    """As after a failover of Postgres to a replica that lacked the last commits."""
    one, two = Held(), Held()
    async with whole_node(redis, store, tmp_path, {"a": one, "b": two}) as node:
        first, second = await node.submit(agent="a"), await node.submit(agent="b")
        await asyncio.gather(one.begun.wait(), two.begun.wait())
        await node.logs.checkpoint()
        lost = "UPDATE threads SET head = 0 WHERE key = :key"
        await store.database.write(lambda connection: connection.execute(text(lost), {"key": first.thread.key}))
        one.go_on.set()
        two.go_on.set()
        assert (await node.ended(second)).status == "completed"
        again = await node.submit(agent="b")
        assert (await node.ended(again)).status == "completed"
        assert not node.tasks["checkpoints"].done()
        assert (await node.ended(first)).status == "interrupted"


async def test_a_turn_that_ends_while_its_entry_is_made_anew_leaves_nothing_behind(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with whole_node(redis, store, tmp_path, {"a": held}, lease=0.4) as node:
        accepted = await node.submit()
        await held.begun.wait()
        queue = node.queue
        keep, keeping = queue.keep, asyncio.Event()

        async def late(turn_id: str) -> object:
            keeping.set()
            await eventually(lambda: not node.consumer._taken)
            kept = await keep(turn_id)
            await asyncio.sleep(0.3)  # whoever reads the queue meanwhile takes it, and finds that it has ended
            return kept

        monkeypatch.setattr(queue, "keep", late)
        redis.command("FLUSHALL")
        await keeping.wait()
        held.go_on.set()
        await node.ended(accepted)
        await asyncio.sleep(1.0)
        assert node.consumer._taken == {}
        assert (redis.command("XLEN", QUEUE), redis.command("HLEN", QUEUED)) == (0, 0)


async def test_a_nudge_before_the_owners_own_entry_ends_no_turn(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    """Another node that settles the end of an earlier turn knows the head of the store, and that may be newer than what
    the owner has brought to Redis."""
    said, told = asyncio.Event(), asyncio.Event()

    async def speaks(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("a", "one")
        said.set()
        await told.wait()
        told.clear()
        yield TextDelta("a", ", two")
        await told.wait()
        yield Completed()

    async with pair(redis, store, tmp_path, a=speaks) as (runs, serves):
        accepted = await serves.submit()
        await said.wait()
        async with runs.logs.held(accepted.thread.key) as log, serves.logs.held(accepted.thread.key) as mirror:
            await eventually(lambda: mirror.head == log.head)
            pipeline = runs.link.client.pipeline(transaction=False)
            write_nudge(pipeline, log.key, log.epoch, log.head + 1)
            await runs.link.ask(pipeline.execute())
            told.set()
            await eventually(lambda: mirror.head == log.head and mirror.durable > 2)
            told.set()
            assert (await runs.ended(accepted)).status == "completed"
            await eventually(lambda: mirror.head == log.head and mirror.running is None)


async def test_who_was_apart_while_a_turn_began_and_redis_lost_its_beginning_follows_it_all_the_same(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with pair(redis, store, tmp_path, a=held, b=echoes) as (runs, serves):
        first = await serves.submit(agent="a", thread_id="t")
        held.go_on.set()
        await serves.ended(first)
        held.go_on.clear()
        held.begun.clear()
        async with serves.logs.held(first.thread.key) as log:
            await eventually(lambda: log.running is None and log.head > 2)
            together, mirrors = asyncio.Event(), serves.logs._mirrors
            read, look = mirrors._read, mirrors._look_at_all

            async def apart(*_: object) -> None:
                await together.wait()
                raise RedisDown

            monkeypatch.setattr(mirrors, "_read", apart)
            monkeypatch.setattr(mirrors, "_look_at_all", apart)
            await asyncio.sleep(BLOCK_MS / 1000 + 0.2)  # until the read ends that is under way
            second = await runs.submit(agent="a", thread_id="t")
            await held.begun.wait()
            await redis.kill()
            redis.forget()
            await eventually(lambda: not runs.link.up)
            await redis.restart()
            await eventually(lambda: runs.link.up)
            monkeypatch.setattr(mirrors, "_read", read)
            monkeypatch.setattr(mirrors, "_look_at_all", look)
            together.set()
            await asyncio.sleep(0.5)
            held.go_on.set()
            await runs.ended(second)
            await eventually(lambda: log.head > 5 and log.running is None)


async def test_a_cancel_that_no_node_heard_of_is_heard_of_later(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with pair(redis, store, tmp_path, a=held) as (runs, serves):
        accepted = await serves.submit()
        await held.begun.wait()
        tell = serves.control.tell
        dropped: list[dict[str, Any]] = []

        async def losing(kind: str, /, **payload: Any) -> None:
            if kind == "cancel" and not dropped:
                dropped.append(payload)
            else:
                await tell(kind, **payload)

        monkeypatch.setattr(serves.control, "tell", losing)
        await serves.turns.cancel_turn("alice", accepted.turn.turn_id)
        assert dropped
        assert (await runs.ended(accepted, within=5)).status == "cancelled"


async def steered(turn: Turn) -> AsyncGenerator[Event]:
    async for message in turn.steering:
        yield TextDelta("a", message.content[:5])
    yield Completed()


async def test_a_message_that_is_too_long_to_be_handed_to_another_node_becomes_a_turn_of_its_own(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    monkeypatch.setattr("tests.gateway.engine.Scripted.capabilities", frozenset(("steer",)))
    async with pair(redis, store, tmp_path, a=held) as (runs, serves):
        first = await serves.submit(thread_id="t")
        await held.begun.wait()
        second = await serves.submit("x" * 100_000, thread_id="t", when_busy="steer")
        assert second.queued
        held.go_on.set()
        assert (await runs.ended(first)).status == (await runs.ended(second)).status == "completed"


async def test_a_turn_that_a_node_is_given_as_it_stops_is_run_by_another_one(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with (
        whole_node(redis, store, tmp_path, {"a": held}) as stops,
        whole_node(redis, store, tmp_path, {"a": echoes}, takes_turns=False) as serves,
    ):
        begin, taken = stops.consumer._begin, asyncio.Event()

        def begin_last(entry: Entry, overdue: bool = False) -> None:
            stops.runner.draining = True
            begin(entry, overdue)
            taken.set()

        monkeypatch.setattr(stops.consumer, "_begin", begin_last)
        accepted = await serves.submit()
        await asyncio.wait_for(taken.wait(), 5)
        async with whole_node(redis, store, tmp_path, {"a": echoes}) as runs:
            assert (await runs.ended(accepted, within=LEASE_SECONDS - 1)).status == "completed"
            await stops.runner.drain(10.0)
        assert held.calls == 0


async def test_text_that_cannot_be_read_stops_nothing_but_its_own_thread(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    """As a newer version writes it, while some nodes run the older one."""
    held = Held()
    async with pair(redis, store, tmp_path, a=held, b=echoes) as (runs, serves):
        accepted = await serves.submit()
        await held.begun.wait()
        await runs.logs.checkpoint()
        async with serves.logs.held(accepted.thread.key) as log:
            await eventually(lambda: log.running is not None)
            unknown = "UPDATE segments SET events = :events WHERE thread_key = :key"
            values = {"events": b"\x91\x81\xa4type\xa3new", "key": log.key}
            await store.database.write(lambda connection: connection.execute(text(unknown), values))
            async with serves.link.client.pipeline(transaction=False) as pipeline:
                at = ("first", log.head + 2, "durable", log.head + 2, "attempt", "x", "events", b"\x91\x80")
                pipeline.execute_command("XADD", key_of(log.key), place(log.epoch, log.head + 2), *at)
                await serves.link.ask(pipeline.execute())
            lost = "UPDATE threads SET head = head + 2 WHERE key = :key"
            await store.database.write(lambda connection: connection.execute(text(lost), {"key": log.key}))
            await asyncio.sleep(1.0)
            assert not serves.tasks["logs"].done()
            other = await serves.submit(agent="b")
            async with serves.logs.held(other.thread.key) as beside:
                await serves.ended(other)
                await eventually(lambda: beside.head >= 3 and beside.running is None)
        await serves.turns.cancel_turn("alice", accepted.turn.turn_id)
        await serves.ended(accepted)


async def test_a_cursor_is_not_good_for_an_epoch_that_begins_while_its_client_attaches(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held()
    async with pair(redis, store, tmp_path, a=held) as (runs, serves):
        accepted = await serves.submit(thread_id="t")
        await held.begun.wait()
        await runs.logs.checkpoint()
        connection = serves.connection()
        async with serves.logs.held(accepted.thread.key) as log:
            await eventually(lambda: log.head == 2)
            cursor, ask, asked = log.position.cursor, store.open_turns, 0

            async def interrupted_meanwhile(thread_key: int) -> list[StoredTurn]:
                nonlocal asked
                asked += 1
                if asked == 1:
                    found = await store.turn(None, accepted.turn.turn_id)
                    assert found is not None
                    await serves.local.interrupt(*found)
                    await serves.logs.catch_up(log)
                return await ask(thread_key)

            monkeypatch.setattr(store, "open_turns", interrupted_meanwhile)
            await serves.resume.attach(connection, "t", cursor)
            frames = []
            while (frame := connection.next_frame()) is not None:
                frames.append(json.loads(frame))
            connection.close()
            kinds = [frame["type"] for frame in frames]
            assert kinds[:2] == ["attached", "snapshot"], kinds
            assert frames[0]["recovered"] is False


async def taken_over_without_a_store(
    redis: RedisServer, store: SqlStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> StoredTurn:
    """A turn whose takeover finds no store twice: how it ended."""
    held, refused = Held(), 0
    async with (
        pair(redis, store, folder, a=held) as (_, serves),
        whole_node(redis, store, folder, {"a": held}, takes_turns=False) as takes,
    ):
        known = takes.logs.known

        async def unavailable(thread: Thread, turn: StoredTurn) -> list[Any]:
            nonlocal refused
            refused += 1
            if refused < 3:
                raise StoreUnavailable
            return await known(thread, turn)

        monkeypatch.setattr(takes.logs, "known", unavailable)
        accepted = await serves.submit()
        await held.begun.wait()
        takes.consumer._begin(Entry("1-1", accepted.turn.turn_id), overdue=True)
        handling = set(takes.consumer._handling)
        await asyncio.wait(handling, timeout=5)
        try:
            return await takes.ended(accepted, within=0.5)
        finally:
            held.go_on.set()
            await asyncio.gather(*handling)


async def test_a_takeover_waits_for_a_store_that_does_not_answer(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await taken_over_without_a_store(redis, store, tmp_path, monkeypatch)).status == "interrupted"


async def test_a_takeover_that_does_not_try_again_ends_nothing(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def once(self: Consumer, ask: Callable[[], Awaitable[Any]]) -> Any:
        return await ask()

    monkeypatch.setattr(Consumer, "_persist", once)
    with pytest.raises(StoreUnavailable):
        await taken_over_without_a_store(redis, store, tmp_path, monkeypatch)


async def test_a_turn_that_nobody_queued_is_found_by_a_node_whose_clock_is_behind(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with whole_node(redis, store, tmp_path, {"a": echoes}) as node:
        monkeypatch.setattr("gateway.runner.sweeper.now", lambda: now() - 3_600_000)

        async def nothing(turn_ids: str) -> None:
            return None

        monkeypatch.setattr(node.queue, "enqueue_and_take", nothing)
        accepted = await node.submit()
        assert (await node.ended(accepted, within=6)).status == "completed"
