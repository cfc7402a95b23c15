"""The gateway with one of its guarantees switched off: `python -m tests.cluster.sabotage NAME serve --port 0`.

Where one guarantee has two mechanisms, both are named: `no-sweeper+no-keep`.

Each function here patches the product inside its own process and nowhere else. A test that passes all the same does not
look at what it says it looks at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["SABOTAGES"]


def lose_pieces() -> None:
    """Every 20th frame of text is never sent."""
    from gateway.follow import Follow

    take = Follow.take
    count = 0

    def losing(self: Follow) -> str | None:
        nonlocal count
        frame = take(self)
        if frame is not None and '"type":"message"' in frame:
            count += 1
            if count % 20 == 0:
                return take(self)
        return frame

    Follow.take = losing  # type: ignore[method-assign]  # that is what it is for


def lose_mirrored_pieces() -> None:
    """A mirror loses the text of every 10th piece."""
    import msgspec

    import gateway.eventlog.mirroring
    from gateway.eventlog.log import ThreadLog
    from gateway.eventlog.mirroring import append
    from gateway.protocol import Event, Message

    count = 0

    def losing(log: ThreadLog, event: Event) -> None:
        nonlocal count
        if isinstance(event, Message):
            count += 1
            if count % 10 == 0:
                event = msgspec.structs.replace(event, content="")
        append(log, event)

    gateway.eventlog.mirroring.append = losing


def forget_ids() -> None:
    """A message's own id is not stored, so that nobody knows it again."""
    import msgspec

    from gateway.store.records import Accepted, NewTurn
    from gateway.store.sql import SqlStore

    accept = SqlStore.accept

    async def forgetting(self: SqlStore, new: NewTurn) -> Accepted:
        return await accept(self, msgspec.structs.replace(new, client_id=None))

    SqlStore.accept = forgetting  # type: ignore[method-assign]  # that is what it is for


def no_claims() -> None:
    """Whoever asks for a turn gets it, also if another node has it."""
    import msgspec

    from gateway.store.records import Claim
    from gateway.store.sql import SqlStore

    claim = SqlStore.claim

    async def granted(self: SqlStore, turn_id: str, attempt: str, at: int) -> Claim | None:
        found = await claim(self, turn_id, attempt, at)
        if found is None:
            return None
        return msgspec.structs.replace(found, turn=msgspec.structs.replace(found.turn, attempt=attempt))

    SqlStore.claim = granted  # type: ignore[method-assign]  # that is what it is for


def no_takeover() -> None:
    """Leases that have run out are nobody's business."""
    from gateway.nodes.queue import Entry, TurnQueue

    async def none(self: TurnQueue, lease_ms: int, count: int = 100) -> list[Entry]:
        return []

    TurnQueue.overdue = none  # type: ignore[method-assign]  # that is what it is for


def no_epochs() -> None:
    """Who takes a turn over goes on in the epoch of the node that ran it.

    All the fences before a log are made of the epoch: Redis takes no id of an older one, the store no checkpoint, and a
    mirror no entry. What is left is that a turn which has ended does not end again.
    """
    from typing import Any

    from gateway.runner.local import LocalRunner
    from gateway.runner.running import RunningTurn

    finish = LocalRunner._finish

    async def in_the_same(
        self: LocalRunner, running: RunningTurn, status: Any, failure: Any, epoch: int | None = None
    ) -> Any:
        if epoch is not None:
            thread = await self._store.thread_by_key(running.log.key)
            assert thread is not None
            running.log.epoch = thread.epoch
        return await finish(self, running, status, failure)

    LocalRunner._finish = in_the_same  # type: ignore[method-assign]  # that is what it is for


def no_pause() -> None:
    """Behind an outage of Redis a node takes over at once what seems to be nobody's."""
    import gateway.runner.consumer

    gateway.runner.consumer.GRACE_SECONDS = 0.0


def no_sweeper() -> None:
    """What Redis did not hear of, or has forgotten, is looked for by nobody."""
    from gateway.runner.sweeper import Sweeper

    async def idle(self: Sweeper, *, thorough: bool) -> None:
        pass

    Sweeper.sweep = idle  # type: ignore[method-assign]  # that is what it is for


def no_keep() -> None:
    """A node does not say again that it has a turn which Redis has forgotten."""
    from gateway.nodes.queue import Entry, TurnQueue

    async def as_before(self: TurnQueue, turn_id: str) -> Entry:
        return Entry("0-1", turn_id)

    TurnQueue.keep = as_before  # type: ignore[method-assign]  # that is what it is for


def no_push_leases() -> None:
    """A node does not see which pushes another one is sending."""
    from sqlalchemy import Connection

    from gateway.store import outbox
    from notifications.records import Delivery, Platform

    lease = outbox.lease
    own: set[int] = set()

    def due_for_all(
        connection: Connection, platform: Platform, now: int, until: int, limit: int, told: outbox.Told
    ) -> list[Delivery]:
        fresh = [one for one in lease(connection, platform, now, now, limit, told) if one.key not in own]
        own.update(one.key for one in fresh)
        return fresh

    outbox.lease = due_for_all


def early_accepts() -> None:
    """A message in a thread that is known is answered before it is stored, in the hope that it will be."""
    import msgspec

    from gateway.errors import StoreUnavailable
    from gateway.store.records import Accepted, NewTurn
    from gateway.store.sql import SqlStore

    accept = SqlStore.accept
    known: dict[tuple[str, str], Accepted] = {}

    async def hopeful(self: SqlStore, new: NewTurn) -> Accepted:
        place = new.user_id, new.thread_id
        try:
            known[place] = await accept(self, new)
        except StoreUnavailable:
            if place not in known:
                raise
            names = ("turn_id", "message_id", "answer_id", "client_id", "content")
            fields = {name: getattr(new, name) for name in names}
            turn = msgspec.structs.replace(known[place].turn, status="queued", **fields)
            return msgspec.structs.replace(known[place], turn=turn, duplicate=False, queued=1)
        return known[place]

    SqlStore.accept = hopeful  # type: ignore[method-assign]  # that is what it is for


def give_up() -> None:
    """The end of a turn is stored at the first try, or not at all."""
    from gateway.errors import StoreUnavailable
    from gateway.store.records import Outcome, Turn
    from gateway.store.sql import SqlStore

    finish = SqlStore.finish

    async def once(self: SqlStore, outcome: Outcome) -> Turn | None:
        try:
            return await finish(self, outcome)
        except StoreUnavailable:
            raise LookupError("given up") from None

    SqlStore.finish = once  # type: ignore[method-assign]  # that is what it is for


def deaf() -> None:
    """A node does not hear what the others tell and ask."""
    from collections.abc import Iterable

    from gateway.nodes.control import Entry, RedisControl

    async def passed_over(self: RedisControl, entries: Iterable[Entry]) -> None:
        for entry_id, _ in entries:
            self.position = entry_id

    RedisControl.take = passed_over  # type: ignore[method-assign]  # that is what it is for


def polling() -> None:
    """Nodes look for news every so often, as most systems do, instead of waiting for it."""
    import asyncio
    from typing import Any

    from gateway.nodes.link import Reader

    read = Reader.read

    async def late(self: Reader, *command: Any) -> Any:
        answer = await read(self, *command)
        await asyncio.sleep(0.1)
        return answer

    Reader.read = late  # type: ignore[method-assign]  # that is what it is for


def steerable() -> None:
    """No sabotage: one more provider, which says what it is told while it runs, until it is told `stop`."""
    from collections.abc import AsyncGenerator, Mapping
    from typing import Any

    import gateway.agents
    from providers import Completed, Event, TextDelta, Turn
    from providers.base import Capability
    from providers.registry import create

    class Steerable:
        name = "steerable"
        capabilities: frozenset[Capability] = frozenset(("steer",))

        async def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
            yield TextDelta("a", "begun")
            async for message in turn.steering:
                yield TextDelta("a", f", {message.content}")
                if message.content == "stop":
                    break
            yield Completed()

    def create_or_steer(name: str, options: Mapping[str, Any]) -> Any:
        return Steerable() if name == "steerable" else create(name, options)

    gateway.agents.create = create_or_steer  # type: ignore[attr-defined]  # where it is looked up


SABOTAGES: dict[str, Callable[[], None]] = {
    "deaf": deaf,
    "early-accepts": early_accepts,
    "forget-ids": forget_ids,
    "give-up": give_up,
    "lose-mirrored-pieces": lose_mirrored_pieces,
    "lose-pieces": lose_pieces,
    "no-claims": no_claims,
    "no-epochs": no_epochs,
    "no-keep": no_keep,
    "no-pause": no_pause,
    "no-push-leases": no_push_leases,
    "no-sweeper": no_sweeper,
    "no-takeover": no_takeover,
    "polling": polling,
    "steerable": steerable,
}


if __name__ == "__main__":
    from gateway.cli import main

    for name in sys.argv[1].split("+"):
        SABOTAGES[name]()
    sys.exit(main(sys.argv[2:]))
