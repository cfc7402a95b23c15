"""What a person does on one node counts on all: notices, decisions, device tokens. Two engines on one database."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import now
from gateway.connection import Connection
from gateway.devicetokens import DeviceTokens, TokenRevoked
from gateway.errors import BadFrame, NodeUnavailable, NotFound, TooLarge
from gateway.ids import new_id
from gateway.store.records import Accepted
from gateway.store.sql import SqlStore
from notifications.records import Device
from providers import ApprovalRequest, Completed, Event, Option, TextDelta, Turn
from tests.gateway.engine import Parts, Watcher, engine
from tests.nodes.conftest import Node, eventually, node
from tests.redis_server import RedisServer

OPTIONS = (Option("approved", "Yes"), Option("later", "Later"), Option("declined", "No"))
USERS = frozenset(("alice", "bob"))


async def asks(turn: Turn) -> AsyncGenerator[Event]:
    decision = await turn.approve(ApprovalRequest("command", "Run it?", {"command": "ls"}, "c1", OPTIONS))
    yield TextDelta("a", f"{decision.option} {decision.text} {decision.expired}")
    yield Completed()


async def echoes(turn: Turn) -> AsyncGenerator[Event]:
    yield TextDelta("a", "echo")
    yield Completed()


@dataclass
class Pair:
    """Two nodes: an engine of each, and its control."""

    one: Parts
    two: Parts
    controls: tuple[Node, Node]


@contextlib.asynccontextmanager
async def pair_of_nodes(redis: RedisServer, store: SqlStore, tmp_path: Path, **settings: Any) -> AsyncIterator[Pair]:
    async with (
        node(redis, start=False) as first,
        node(redis, start=False) as second,
        engine(store, tmp_path, settings, first.control, a=asks, b=echoes) as one,
        engine(store, tmp_path, settings, second.control, a=asks, b=echoes) as two,
    ):
        await first.start()
        await second.start()
        yield Pair(one, two, (first, second))


class Socket:
    """An open connection at a node's hub."""

    def __init__(self, parts: Parts, user_id: str = "alice") -> None:
        self.parts = parts
        self.connection = Connection(
            connection_id=new_id("c"),
            user_id=user_id,
            agent="b",
            device_id=None,
            logs=parts.logs,
            frame_bytes=2**16,
        )
        self.frames: list[dict[str, Any]] = []
        parts.hub.add(self.connection)

    def close(self) -> None:
        self.parts.hub.remove(self.connection)
        self.connection.close()

    def read(self) -> list[dict[str, Any]]:
        """All that has come so far."""
        while (frame := self.connection.next_frame()) is not None:
            self.frames.append(json.loads(frame))
        return self.frames

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.read() if frame["type"] == kind]


async def asked(pair: Pair, *, durable: bool = True) -> tuple[Watcher, str, Accepted]:
    """A turn on the first node that asks for a decision: who follows it, the approval's id, the turn."""
    phone = pair.one.client()
    accepted = await phone.send()
    approval_id = (await phone.until("approval_request"))["approval_id"]
    if durable:
        await pair.one.logs.checkpoint()
    return phone, approval_id, accepted


@contextlib.contextmanager
def sockets(*opened: Socket) -> Any:
    try:
        yield
    finally:
        for socket in opened:
            socket.close()


# Notices


async def test_a_turn_on_one_node_is_shown_on_list_screens_at_the_other(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        mine, bobs = Socket(pair.two), Socket(pair.two, "bob")
        with sockets(mine, bobs):
            accepted = await pair.one.submit(agent="b")
            await pair.one.ended(accepted)
            await eventually(lambda: mine.of("thread_updated"))
            await eventually(lambda: mine.of("thread_updated")[-1]["status"] == "idle")
            assert mine.of("thread_updated")[-1]["preview"] == "echo"
            assert bobs.read() == []


async def test_many_changes_at_once_end_with_the_newest_on_every_list_screen(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        accepted = await pair.one.submit(agent="b")
        await pair.one.ended(accepted)
        thread_id = accepted.thread.thread_id
        there = [Socket(pair.one), Socket(pair.two)]
        with sockets(*there):
            for number in range(30):
                await store.rename("alice", thread_id, f"title {number}")
                await asyncio.gather(*(pair.one.notices.changed("alice", thread_id) for _ in range(3)))
            for socket in there:
                await eventually(lambda s=socket: s.of("thread_updated") and s.frames[-1]["title"] == "title 29")  # type: ignore[misc]
                titles = [int(frame["title"].split()[1]) for frame in socket.of("thread_updated")]
                assert titles == sorted(titles), "none comes after a newer one"


async def test_what_is_read_on_one_node_is_read_on_the_other_and_not_told_to_who_said_so(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        accepted = await pair.one.submit(agent="b")
        stored = await pair.one.ended(accepted)
        says, beside, other = Socket(pair.one), Socket(pair.one), Socket(pair.two)
        with sockets(says, beside, other):
            thread_id = accepted.thread.thread_id
            await pair.one.notices.seen("alice", thread_id, stored.answer_id, says.connection)
            # A notice of the turn's end may come first.
            await eventually(lambda: other.of("read") and [f["unread"] for f in other.of("thread_updated")][-1:] == [0])
            assert [frame["message_id"] for frame in other.of("read")] == [stored.answer_id]
            assert len(beside.of("read")) == 1
            assert says.of("read") == []


async def test_a_deleted_thread_is_let_go_of_on_the_other_node_but_not_one_made_anew(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        first = await pair.one.submit(agent="b", thread_id="chosen")
        await pair.one.ended(first)
        follower = Socket(pair.two)
        with sockets(follower):
            await pair.two.resume.attach(follower.connection, "chosen", None)
            await pair.one.turns.delete_thread("alice", "chosen")
            await eventually(lambda: follower.of("detached"))
            assert follower.of("thread_updated")[-1]["status"] == "deleted"
            assert follower.connection.following("chosen") is None
            # The same word again, late, for a thread that has the same id and is another one.
            again = await pair.two.submit(agent="b", thread_id="chosen")
            await pair.two.ended(again)
            await pair.two.resume.attach(follower.connection, "chosen", None)
            await pair.one.notices.deleted(first.thread)
            await eventually(lambda: [f["status"] for f in follower.of("thread_updated")].count("deleted") == 2)
            assert follower.connection.following("chosen") is not None
            await pair.one.notices.deleted(again.thread)
            await eventually(lambda: follower.connection.following("chosen") is None)


async def test_without_redis_a_nodes_own_sockets_are_told_without_delay(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        accepted = await pair.one.submit(agent="b")
        await pair.one.ended(accepted)
        mine = Socket(pair.one)
        with sockets(mine), redis.frozen():
            began = time.monotonic()
            await pair.one.notices.changed("alice", accepted.thread.thread_id)
            assert mine.of("thread_updated")
            assert time.monotonic() - began < 0.5


# Decisions


async def test_an_approval_is_decided_through_another_node_before_and_after_it_is_durable(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        for durable in (False, True):
            phone, approval_id, accepted = await asked(pair, durable=durable)
            assert (await store.approval("alice", approval_id) is not None) is durable
            began = time.monotonic()
            first, counts = await pair.two.approvals.decide("alice", approval_id, "later", "at noon", "tablet")
            assert time.monotonic() - began < 0.5
            assert (first.decision, first.by, counts) == ("later", "tablet", True)
            for parts in (pair.two, pair.one):
                standing, counts = await parts.approvals.decide("alice", approval_id, "approved", None, "phone")
                assert (standing.decision, standing.by, counts) == ("later", "tablet", False)
            assert (await phone.until("done"))["content"] == "later at noon False"
            await pair.one.ended(accepted)
            standing, counts = await pair.two.approvals.decide("alice", approval_id, "approved", None, "phone")
            assert (standing.decision, counts) == ("later", False)


async def test_of_many_decisions_on_both_nodes_at_once_one_counts_and_all_hear_of_it(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        for _ in range(5):
            phone, approval_id, _ = await asked(pair)
            answers = await asyncio.gather(
                *(
                    parts.approvals.decide("alice", approval_id, OPTIONS[number % 3].id, None, f"device {number}")
                    for number in range(10)
                    for parts in (pair.two, pair.one)
                )
            )
            assert [counts for _, counts in answers].count(True) == 1
            assert len({(standing.decision, standing.by) for standing, _ in answers}) == 1
            resolved = await phone.until("approval_resolved")
            assert (resolved["decision"], resolved["by"]) == (answers[0][0].decision, answers[0][0].by)
            assert (await phone.until("done"))["content"].split()[0] == answers[0][0].decision
            assert phone.kinds.count("approval_resolved") == 1


async def test_what_was_not_offered_is_refused_through_another_node_in_the_same_words(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        phone, approval_id, _ = await asked(pair)
        said = []
        for parts in (pair.one, pair.two):
            with pytest.raises(BadFrame) as caught:
                await parts.approvals.decide("alice", approval_id, "x" * 100_000, None, None)
            said.append((caught.value.message, caught.value.field))
        assert said[0] == said[1]
        with pytest.raises(TooLarge):
            await pair.two.approvals.decide("alice", approval_id, "approved", "x" * 100_000, None)
        await pair.two.approvals.decide("alice", approval_id, "declined", "x" * 10_000, None)
        assert (await phone.until("done"))["content"].startswith("declined xxx")


async def test_nobody_else_finds_an_approval_through_any_node_and_soon_hears_so(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.approvals.NEW_SECONDS", 0.3)
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        phone, approval_id, _ = await asked(pair, durable=False)
        said = set()
        for durable in (False, True):
            if durable:
                await pair.one.logs.checkpoint()
            for user, name, most in (("bob", approval_id, 0.8), ("alice", new_id("p"), 0.8), ("alice", "p-none", 0.25)):
                began = time.monotonic()
                with pytest.raises(NotFound) as caught:
                    await pair.two.approvals.decide(user, name, "approved", None, None)
                assert time.monotonic() - began < most
                said.add((caught.value.message, caught.value.field))
        assert len(said) == 1
        await pair.one.approvals.decide("alice", approval_id, "approved", None, None)
        await phone.until("done")


async def test_an_approval_of_a_node_that_does_not_answer_can_be_tried_again(
    redis: RedisServer, store: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.approvals.DECIDE_SECONDS", 0.5)
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        phone, approval_id, _ = await asked(pair)
        await pair.controls[0].stop()  # it neither hears nor answers
        began = time.monotonic()
        with pytest.raises(NodeUnavailable) as caught:
            await pair.two.approvals.decide("alice", approval_id, "approved", None, None)
        assert 0.4 < time.monotonic() - began < 1.5
        assert caught.value.retryable
        deciding = asyncio.create_task(pair.two.approvals.decide("alice", approval_id, "approved", None, None))
        await asyncio.sleep(0.05)
        await pair.one.approvals.decide("alice", approval_id, "later", None, "there")
        await pair.one.logs.checkpoint()
        standing, counts = await deciding
        assert (standing.decision, counts) == ("later", False), "it was resolved meanwhile, and the store knows"
        await phone.until("done")


async def test_without_redis_an_open_approval_elsewhere_can_be_tried_again_and_an_unknown_one_is_unknown(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    async with pair_of_nodes(redis, store, tmp_path) as pair:
        phone, approval_id, _ = await asked(pair)
        await redis.kill()
        await eventually(lambda: not pair.controls[1].link.up)
        began = time.monotonic()
        with pytest.raises(NodeUnavailable):
            await pair.two.approvals.decide("alice", approval_id, "approved", None, None)
        with pytest.raises(NotFound):
            await pair.two.approvals.decide("alice", new_id("p"), "approved", None, None)
        assert time.monotonic() - began < 0.5
        _, counts = await pair.one.approvals.decide("alice", approval_id, "approved", None, None)
        assert counts, "where it is open it needs no Redis"
        await phone.until("done")


async def test_an_approval_is_pushed_once_however_many_nodes_there_are(
    redis: RedisServer, store: SqlStore, tmp_path: Path
) -> None:
    device = Device(device_id="phone", user_id="alice", platform="ios", token="t" * 64, registered_at=1)
    async with pair_of_nodes(redis, store, tmp_path, push={"grace_seconds": 0, "policy": "always"}) as pair:
        await store.put_device(device)
        phone, approval_id, accepted = await asked(pair, durable=False)
        turn_id = accepted.turn.turn_id

        async def pushed(kind: str) -> list[str]:
            """What was pushed, once something of this kind was."""
            async with asyncio.timeout(10):
                while True:
                    kinds: list[str] = [outcome.kind for outcome in await store.push_outcomes(turn_id)]
                    if kind in kinds:
                        return kinds
                    await asyncio.sleep(0.01)

        await pushed("approval")
        await pair.two.approvals.decide("alice", approval_id, "approved", None, None)
        await phone.until("done")
        assert sorted(await pushed("turn")) == ["approval", "turn"]


# Device tokens


async def test_a_token_revoked_on_one_node_ends_its_connections_on_the_other_at_once(
    redis: RedisServer, store: SqlStore
) -> None:
    async with node(redis, start=False) as first, node(redis, start=False) as second:
        one = DeviceTokens(store, USERS, first.control)
        two, unheard = DeviceTokens(store, USERS, second.control), DeviceTokens(store, USERS)
        await first.start()
        await second.start()
        code, _ = await one.new_code("alice")
        token, kept = await one.pair(code, "phone")
        for tokens in (two, unheard):
            identity = await tokens.authenticate(token)
            assert identity is not None
            assert identity.token_id == kept.token_id
        began = now()
        revoked = asyncio.Event()

        async def connection() -> None:
            async with two.watch(kept.token_id):
                revoked.set()
                await asyncio.Event().wait()

        connected = asyncio.create_task(connection())
        await revoked.wait()
        await one.revoke("alice", kept.token_id)
        with pytest.raises(TokenRevoked):
            async with asyncio.timeout(1):
                await connected
        assert now() - began < 1000
        assert await two.authenticate(token) is None
        assert unheard._by_digest, "one that does not hear of it learns of it by its next look"
