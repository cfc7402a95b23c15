import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from gateway.connection import NOTICES, REPLIES, REPLY_CHARS, Connection
from gateway.errors import LimitExceeded
from gateway.eventlog.local import LocalEventLog
from gateway.eventlog.log import ThreadLog
from gateway.protocol import Goodbye, Pong
from gateway.store.sql import SqlStore
from tests.gateway.events import TIME, accept, say


@pytest.fixture
def connection(logs: LocalEventLog) -> Connection:
    return Connection(
        connection_id="c", user_id="alice", agent="demo", device_id=None, logs=logs, frame_bytes=8 * 1_000
    )


async def new_log(store: SqlStore, logs: LocalEventLog, name: str = "1") -> ThreadLog:
    return await logs.hold((await accept(store, name)).thread.key)


def pong(nonce: int) -> Pong:
    return Pong(timestamp=TIME, nonce=nonce)


def frames(connection: Connection) -> list[dict[str, Any]]:
    taken = []
    while (frame := connection.next_frame()) is not None:
        taken.append(json.loads(frame))
    return taken


async def test_answers_go_before_notices_and_those_before_the_log(
    connection: Connection, store: SqlStore, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    connection.follow(log, 0)
    say(log, "text")
    connection.notify("ThreadUpdated", "t1", '{"type":"thread_updated"}')
    connection.reply(pong(1))
    assert [frame["type"] for frame in frames(connection)] == ["pong", "thread_updated", "message"]
    log.holders -= 1


async def test_a_newer_notice_about_a_thread_takes_the_place_of_the_older(connection: Connection) -> None:
    for kind, thread_id, text in (("A", "t1", "1"), ("A", "t2", "2"), ("B", "t1", "3"), ("A", "t1", "4")):
        connection.notify(kind, thread_id, text)
    assert frames(connection) == [2, 3, 4]


async def test_notices_are_bounded_and_the_oldest_gives_way(connection: Connection) -> None:
    for number in range(NOTICES * 3):
        connection.notify("A", f"t{number}", str(number))
    assert frames(connection) == list(range(NOTICES * 2, NOTICES * 3))


async def test_a_reader_of_many_threads_reads_them_in_turn(
    connection: Connection, store: SqlStore, logs: LocalEventLog
) -> None:
    opened = [await new_log(store, logs, str(number)) for number in range(4)]
    for log in opened:
        connection.follow(log, 0)
    for number in range(50):
        for log in opened:
            say(log, "x", item_id=str(number))  # items of their own, so that nothing is joined
    seen = frames(connection)
    assert len(seen) == 200
    for start in range(0, 200, 4):
        assert len({frame["thread_id"] for frame in seen[start : start + 4]}) == 4


async def test_a_flood_in_one_thread_does_not_hold_up_another(
    connection: Connection, store: SqlStore, logs: LocalEventLog
) -> None:
    flood, quiet = await new_log(store, logs, "1"), await new_log(store, logs, "2")
    connection.follow(flood, 0)
    connection.follow(quiet, 0)
    taken: Counter[str] = Counter()
    for number in range(100):
        for _ in range(20):
            say(flood, "x", item_id=str(number % 2))
        if number == 50:
            say(quiet, "at last")
        frame = json.loads(connection.next_frame() or "null")
        taken[frame["thread_id"]] += 1
        if number in (51, 52) and taken["t2"]:
            break
    assert taken["t2"] == 1


async def test_following_again_starts_over_from_the_new_place(
    connection: Connection, store: SqlStore, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    connection.follow(log, 0)
    say(log, "a")
    say(log, "b")
    assert [frame["content"] for frame in frames(connection)] == ["ab"]
    connection.follow(await logs.hold(log.key), 1)
    assert [frame["content"] for frame in frames(connection)] == ["b"]
    assert log.holders == 1


async def test_behind_detached_comes_no_frame_of_the_thread(
    connection: Connection, store: SqlStore, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    connection.follow(log, 0)
    say(log, "waits")
    connection.unfollow("t1")
    say(log, "comes later")
    assert [frame["type"] for frame in frames(connection)] == ["detached"]
    assert connection.following("t1") is None
    assert log.holders == 0


async def test_a_thread_at_rest_gives_way_to_a_further_one_and_the_client_is_told(
    connection: Connection, store: SqlStore, logs: LocalEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.connection.FOLLOWS", 4)
    opened = [await new_log(store, logs, str(number)) for number in range(4)]
    for log in opened:
        connection.follow(log, 0)
    say(opened[1], "not shown yet")
    connection.expect_room("t0")  # used again, so that it is no longer the one that was used longest ago
    connection.expect_room(None)
    shown = frames(connection)
    assert [(f["type"], f["thread_id"]) for f in shown] == [("detached", "t2"), ("message", "t1")]
    assert opened[2].holders == 0
    assert all(connection.following(f"t{number}") for number in (0, 1, 3))
    connection.close()


async def test_only_so_many_threads_with_something_to_show_are_followed(
    connection: Connection, store: SqlStore, logs: LocalEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.connection.FOLLOWS", 8)
    for number in range(8):
        log = await new_log(store, logs, str(number))
        connection.follow(log, 0)
        say(log, "not shown yet")
    for refused in ("one-too-many", None):
        with pytest.raises(LimitExceeded):
            connection.expect_room(refused)
    connection.expect_room("t0")
    again = await logs.hold((await accept(store, "x", thread_id="t0")).thread.key)
    connection.follow(again, 0)  # one that is followed already is no further one
    connection.close()
    assert again.holders == 0


async def test_a_waiting_sender_hears_of_every_kind_of_news(
    connection: Connection, store: SqlStore, logs: LocalEventLog
) -> None:
    log = await new_log(store, logs)
    connection.follow(log, 0)
    frames(connection)
    for cause in (
        lambda: connection.reply(pong(1)),
        lambda: connection.notify("A", "t", "1"),
        lambda: say(log, "x"),
    ):
        waiting = asyncio.create_task(connection.news())
        await asyncio.sleep(0)
        assert not waiting.done()
        cause()
        async with asyncio.timeout(1):
            await waiting
            await connection.news()  # what is there already is told at once
        assert frames(connection)


async def test_a_sender_that_stopped_waiting_is_not_told(connection: Connection) -> None:
    waiting = asyncio.create_task(connection.news())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    connection.reply(pong(1))
    assert len(frames(connection)) == 1


async def test_answers_are_bounded_by_those_that_wait(connection: Connection) -> None:
    for number in range(REPLIES):
        await connection.room()
        connection.reply(pong(number))
    waiting = asyncio.create_task(connection.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    connection.next_frame()
    async with asyncio.timeout(1):
        await waiting


async def test_long_answers_are_bounded_by_their_length(connection: Connection) -> None:
    long = Goodbye(timestamp="", reason="x" * (REPLY_CHARS // 2), reconnect_after_ms=1)
    for _ in range(2):
        await connection.room()
        connection.reply(long)
    waiting = asyncio.create_task(connection.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    connection.next_frame()
    async with asyncio.timeout(1):
        await waiting


async def test_a_closed_connection_holds_nothing(connection: Connection, store: SqlStore, logs: LocalEventLog) -> None:
    opened = [await new_log(store, logs, str(number)) for number in range(3)]
    for log in opened:
        connection.follow(log, 0)
        say(log, "x")
    connection.reply(pong(1))
    connection.close()
    assert frames(connection) == []
    assert [log.holders for log in opened] == [0, 0, 0]
    say(opened[0], "nobody listens")
    assert connection.next_frame() is None
