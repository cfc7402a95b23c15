import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.errors import StoreUnavailable
from gateway.eventlog.local import CHECKPOINT_SECONDS, EVENTS_AT_REST, EVENTS_IN_MEMORY, LocalEventLog
from gateway.eventlog.log import ThreadLog
from gateway.eventlog.position import Position
from gateway.protocol import Event, Reset, encode
from gateway.store.records import Approval, Checkpoint, Thread
from gateway.store.sql import SqlStore
from tests.gateway.events import EPOCH, accept, add, ask, end, say


class Unreliable(SqlStore):
    """A store that does not answer when it is told so, and notes when it is written to."""

    down = False
    written: list[tuple[float, int]]
    loads = 0
    loading: asyncio.Event | None = None
    fail_load = False

    async def checkpoint(self, batch: Sequence[Checkpoint]) -> set[int]:
        if self.down:
            raise StoreUnavailable
        fenced = await super().checkpoint(batch)
        self.written.append((time.monotonic(), len(batch)))
        return fenced

    async def thread_by_key(self, thread_key: int) -> Thread | None:
        self.loads += 1
        if self.loading is not None:
            await self.loading.wait()
        if self.fail_load:
            self.fail_load = False
            raise StoreUnavailable
        return await super().thread_by_key(thread_key)


@pytest.fixture
async def store(tmp_path: Any) -> Any:
    async with Unreliable.open(f"sqlite:///{tmp_path}/store.db") as store:
        assert isinstance(store, Unreliable)
        store.written = []
        yield store


async def new_log(store: SqlStore, logs: LocalEventLog, name: str = "1") -> ThreadLog:
    return await logs.hold((await accept(store, name)).thread.key)


async def stored(store: SqlStore, log: ThreadLog) -> list[str]:
    """Everything that another process would find, as the frames that show it."""
    frames: list[str] = []
    reader = LocalEventLog(store)
    while page := await reader.read(log, len(frames)):
        frames += [encode(event) for event in page]
    return frames


async def test_what_is_read_back_is_what_was_appended(store: Unreliable, logs: LocalEventLog) -> None:
    log = await new_log(store, logs)
    written: list[Event] = []
    for number in range(40):
        written += [ask(log, f"{number}"), say(log, "Grüße 👋🏽 \ufffd"), say(log, "x" * 5_000)]
        written.append(end(log, "content"))
        if number % 3 == 0:
            logs.touch(log)
            await logs.checkpoint()
    logs.touch(log)
    await logs.checkpoint()
    assert await stored(store, log) == [encode(event) for event in written]
    for after in (0, 1, 57, len(written) - 1):
        assert encode((await logs.read(log, after))[0]) == encode(written[after])
    assert await logs.read(log, len(written)) == []


async def test_a_new_process_goes_on_where_the_durable_events_end(store: Unreliable, logs: LocalEventLog) -> None:
    log = await new_log(store, logs)
    for number in range(5):
        say(log, str(number))
    logs.touch(log)
    await logs.checkpoint()
    later = await LocalEventLog(store).hold(log.key)
    assert (later.epoch, later.head, later.durable, later.base) == (EPOCH, 5, 5, 5)
    assert later.next_cursor() == f"{EPOCH}:6"


async def test_what_is_appended_is_durable_within_half_a_second(store: Unreliable, logs: LocalEventLog) -> None:
    opened = [await new_log(store, logs, str(number)) for number in range(20)]
    keeping = asyncio.create_task(logs.keep_checkpointing())
    try:
        oldest: dict[int, float] = {}
        worst, until = 0.0, time.monotonic() + 1.5
        while time.monotonic() < until:
            for log in opened:
                say(log, "x")
                logs.touch(log)
                oldest.setdefault(log.key, time.monotonic())
            await asyncio.sleep(0.01)
            for log in opened:
                worst = max(worst, time.monotonic() - oldest[log.key])
                if log.durable == log.head:
                    del oldest[log.key]
                elif log.durable >= log.head - 1:
                    oldest[log.key] = time.monotonic()
        assert len(store.written) >= 4
        gaps = [later[0] - earlier[0] for earlier, later in zip(store.written, store.written[1:], strict=False)]
        assert max(gaps) < 0.5
        assert min(gaps) >= CHECKPOINT_SECONDS * 0.9  # one write for all of them, not one for each
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_a_store_that_does_not_answer_loses_nothing(store: Unreliable, logs: LocalEventLog) -> None:
    log = await new_log(store, logs)
    keeping = asyncio.create_task(logs.keep_checkpointing())
    try:
        store.down = True
        written: list[Event] = []
        for number in range(30):
            written.append(say(log, str(number)))
            logs.touch(log)
            await asyncio.sleep(0.02)
        assert log.durable == 0
        assert not keeping.done()
        store.down = False
        async with asyncio.timeout(2):
            while log.durable < log.head:  # noqa: ASYNC110 - a checkpoint tells nobody that it was there
                await asyncio.sleep(0.01)
        assert await stored(store, log) == [encode(event) for event in written]
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def test_nothing_is_written_while_nothing_happens(store: Unreliable, logs: LocalEventLog) -> None:
    await new_log(store, logs)
    keeping = asyncio.create_task(logs.keep_checkpointing())
    await asyncio.sleep(2 * CHECKPOINT_SECONDS)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    assert store.written == []


async def test_events_that_come_during_a_write_are_in_the_next(store: Unreliable, logs: LocalEventLog) -> None:
    log = await new_log(store, logs)
    written: list[Event] = [say(log, "before")]
    logs.touch(log)
    writing = asyncio.create_task(logs.checkpoint())
    await asyncio.sleep(0)
    written.append(say(log, "during"))
    await writing
    assert (log.durable, log.head) == (1, 2)
    await logs.checkpoint()
    assert await stored(store, log) == [encode(event) for event in written]


async def test_a_log_that_is_being_finished_is_left_alone(store: Unreliable, logs: LocalEventLog) -> None:
    log, other = await new_log(store, logs, "1"), await new_log(store, logs, "2")
    for one in (log, other):
        say(one, "x")
        logs.touch(one)
    async with log.flushing:
        await logs.checkpoint()
        assert (log.durable, other.durable) == (0, 1)


async def test_sessions_and_approvals_become_durable_with_the_events(store: Unreliable, logs: LocalEventLog) -> None:
    log = await new_log(store, logs)
    log.session = {"id": "s"}
    approval = Approval(
        approval_id="p",
        thread_id=log.thread_id,
        turn_id="u1",
        request={},
        decision="approved",
        by="phone",
        text=None,
        created_at=1,
        expires_at=2,
        resolved_at=2,
    )
    log.approvals["p"] = approval
    logs.touch(log)
    assert logs.pending_approval("alice", "p") == approval
    assert logs.pending_approval("bob", "p") is None
    await logs.checkpoint()
    assert logs.pending_approval("alice", "p") is None
    assert await store.approval("alice", "p") == approval
    thread = await store.thread_by_key(log.key)
    assert thread is not None
    assert thread.session == {"id": "s"}
    assert (log.session, log.approvals) == (None, {})


async def test_a_change_during_a_write_is_not_taken_for_durable(store: Unreliable, logs: LocalEventLog) -> None:
    log = await new_log(store, logs)
    log.session = {"n": 1}
    logs.touch(log)
    writing = asyncio.create_task(logs.checkpoint())
    await asyncio.sleep(0)
    log.session = {"n": 2}
    await writing
    assert log.session == {"n": 2}
    await logs.checkpoint()
    thread = await store.thread_by_key(log.key)
    assert thread is not None
    assert thread.session == {"n": 2}


# Memory


async def test_memory_holds_the_newest_durable_events_and_all_that_are_not(
    store: Unreliable, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    for _ in range(EVENTS_AT_REST + 100):
        say(log, "x")
    logs.touch(log)
    assert len(log.events) == EVENTS_AT_REST + 100
    await logs.checkpoint()
    assert (len(log.events), log.base) == (EVENTS_AT_REST, 100)
    assert EVENTS_AT_REST < EVENTS_IN_MEMORY


async def test_a_log_is_in_memory_while_somebody_holds_it_or_it_is_not_durable(
    store: Unreliable, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    assert await logs.hold(log.key) is log
    logs.release(log)
    say(log, "x")
    logs.touch(log)
    logs.release(log)
    assert await logs.hold(log.key) is log
    logs.release(log)
    await logs.checkpoint()
    again = await logs.hold(log.key)
    assert again is not log
    assert again.head == 1


async def test_a_log_is_loaded_once_however_many_ask_at_once(store: Unreliable, logs: LocalEventLog) -> None:
    key = (await accept(store)).thread.key
    store.loading = asyncio.Event()
    asking = [asyncio.create_task(logs.hold(key)) for _ in range(10)]
    await asyncio.sleep(0.01)
    store.loading.set()
    held = await asyncio.gather(*asking)
    assert len({id(log) for log in held}) == 1
    assert (store.loads, held[0].holders) == (1, 10)


async def test_a_load_that_failed_does_not_lead_to_two_logs_of_one_thread(
    store: Unreliable, logs: LocalEventLog
) -> None:
    key = (await accept(store)).thread.key
    store.loading, store.fail_load = asyncio.Event(), True
    first, second = asyncio.create_task(logs.hold(key)), asyncio.create_task(logs.hold(key))
    await asyncio.sleep(0.01)

    async def third() -> ThreadLog:
        with pytest.raises(StoreUnavailable):
            await first
        return await logs.hold(key)

    asking = asyncio.create_task(third())
    store.loading.set()
    assert await second is await asking


async def test_of_a_thread_that_there_is_not_there_is_no_log(logs: LocalEventLog) -> None:
    with pytest.raises(LookupError):
        await logs.hold(12345)


# Positions


async def test_a_position_is_vouched_for_or_refused(store: Unreliable, logs: LocalEventLog) -> None:
    log = await new_log(store, logs)
    for number in range(EVENTS_AT_REST + 50):
        say(log, str(number))
    logs.touch(log)
    await logs.checkpoint()
    head = log.head
    for offset, vouched in ((0, True), (49, True), (50, True), (head, True), (head + 1, False)):
        assert await logs.vouches(log, Position(EPOCH, offset)) is vouched, offset
    assert not await logs.vouches(log, Position(EPOCH + 1, 1))
    assert not await logs.vouches(log, Position(EPOCH - 1, head))


async def test_a_position_whose_events_are_gone_from_the_store_is_refused(
    store: Unreliable, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    log.base = log.durable = 10
    assert not await logs.vouches(log, Position(EPOCH, 5))
    assert await logs.vouches(log, Position(EPOCH, 10))


async def test_what_lies_between_two_places_is_that_and_nothing_behind_it(
    store: Unreliable, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    for count in (3, 2, 7, 4):  # as many segments
        for number in range(count):
            say(log, f"{log.head + number}")
        logs.touch(log)
        await logs.checkpoint()
    for after in range(log.head):
        for upto in range(after, log.head):
            found = await logs.between(log.key, after, upto)
            assert [encode(event) for event in found] == [encode(event) for event in log.events[after:upto]]


async def test_followers_hear_of_every_append_and_the_frame_is_encoded_once(
    store: Unreliable, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    heard: list[str] = []

    class Follower:
        def __init__(self, name: str) -> None:
            self.name = name

        def wake(self) -> None:
            heard.append(self.name)

    one, two = Follower("one"), Follower("two")
    log.add_follower(one)
    log.add_follower(two)
    add(log, Reset, content="x")
    log.remove_follower(one)
    say(log, "y")
    assert sorted(heard) == ["one", "two", "two"]
    assert log.encoded(2) is log.encoded(2)
