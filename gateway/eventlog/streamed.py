"""The logs of a node among many: those of turns that run here are shipped, those of turns elsewhere are mirrored."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from redis.exceptions import ResponseError

from gateway.eventlog.local import LocalEventLog, log_of
from gateway.eventlog.log import ThreadLog, until
from gateway.eventlog.mirroring import Mirrors, RemoteTurn, append
from gateway.eventlog.position import Position
from gateway.eventlog.shipping import Shipment, Shipper
from gateway.eventlog.stream import write_nudge
from gateway.nodes.link import RedisLink
from gateway.protocol import Event
from gateway.store.base import Store
from gateway.store.records import Thread, Turn

REACH_SECONDS = 3.0
"""How long an attaching client waits until its cursor, of a node that has shown more, is known here too."""
FLUSH_SECONDS = 2.0


class StreamedEventLog(LocalEventLog):
    """As `LocalEventLog`, which keeps it durable; and everybody on every node sees the same log.

    `run` it in a task.
    """

    def __init__(self, store: Store, link: RedisLink) -> None:
        super().__init__(store)
        self._link = link
        self._owners: dict[int, str] = {}
        """By thread: the attempt of the turn that runs here."""
        self._shipments: dict[str, Shipment] = {}
        """By attempt."""
        self._shipper = Shipper(link, self.lost)
        self._mirrors = Mirrors(link, self._refill)
        self.on_lost: Callable[[ThreadLog], None] = lambda log: None
        """Called when a log that is owned here was taken over by another node."""

    async def run(self) -> None:
        """Ship and mirror until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._shipper.run(), name="shipping")
            group.create_task(self._mirrors.run(), name="mirroring")

    async def _load(self, key: int) -> ThreadLog:
        """Nobody finds the log before it is as the store and its stream have it: a turn may begin in it at once."""
        thread = await self._store.thread_by_key(key)
        if thread is None:
            raise LookupError(key)
        log = log_of(thread)
        log.running = await self._running(thread)
        try:
            await self._mirrors.add(log)
        except BaseException:
            self._mirrors.remove(log)
            raise
        self._logs[key] = log
        return log

    def _drop_if_unused(self, log: ThreadLog) -> None:
        super()._drop_if_unused(log)
        if self._logs.get(log.key) is not log:
            self._mirrors.remove(log)

    async def own(self, log: ThreadLog, attempt: str | None, thread: Thread | None) -> None:
        assert attempt is not None, "a node claims a turn before it runs it"  # noqa: S101 - an order of calls
        self._mirrors.remove(log)
        await self._catch_up(log, thread)
        if thread is not None and log.head > thread.head:  # what was mirrored never became durable
            await self._renew(log)
        if thread is not None and log.epoch != thread.epoch:  # what is written now would stand behind the turn's end
            await self._mirrors.add(log)
            raise LookupError(log.key)
        self._owners[log.key] = attempt
        self._shipments[attempt] = self._shipper.begin(log, attempt)

    async def disown(self, log: ThreadLog, attempt: str | None) -> bool:
        shipment = self._shipments.pop(attempt or "", None)
        if shipment is None:  # it was never owned: the store did not answer
            return False
        if self._owners.get(log.key) == attempt:
            del self._owners[log.key]
        self._shipper.end(shipment)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._shipper.flush(shipment)
        if self._logs.get(log.key) is log and log.key not in self._owners:
            await self._mirrors.add(log)
        return shipment.over and not shipment.refused

    async def known(self, thread: Thread, turn: Turn) -> list[Event]:
        """Those in the store, and those behind them in the stream."""
        async with self.held(thread.key) as log:
            await self.catch_up(log, thread)
            epoch, base, mirrored = log.epoch, log.base, list(log.events)  # one moment of it
            stored = await self.between(thread.key, turn.start or 0, base)
            return [*stored, *mirrored] if epoch == thread.epoch else stored

    async def nudge(self, thread: Thread) -> None:
        """Let mirrors on all nodes have what the store has: the one who knew more than their stream is gone.

        Raises: `RedisDown`.
        """
        pipeline = self._link.client.pipeline(transaction=False)
        write_nudge(pipeline, thread.key, thread.epoch, thread.head)
        with contextlib.suppress(ResponseError):  # the entry is refused where it is not needed
            await self._link.ask(pipeline.execute())

    def lost(self, log: ThreadLog) -> None:
        super().lost(log)
        self.on_lost(log)

    async def catch_up(self, log: ThreadLog, thread: Thread | None = None) -> None:
        async with log.flushing:
            if log.key not in self._owners:
                await self._catch_up(log, thread)

    async def _catch_up(self, log: ThreadLog, thread: Thread | None) -> None:
        thread = thread or await self._store.thread_by_key(log.key)
        if thread is None:
            raise LookupError(log.key)
        if thread.epoch > log.epoch:
            await self._renew(log)
        while thread.epoch == log.epoch and log.head < thread.head:
            before = log.head
            events = await self.read(log, before)
            if not events:
                if log.head == before:
                    await self._renew(log)
                return
            for event in events[log.head - before :]:
                append(log, event)
            log.durable = max(log.durable, min(thread.head, log.head))

    async def _renew(self, log: ThreadLog) -> None:
        """Have the log as the store has it now."""
        thread = await self._store.thread_by_key(log.key)
        if thread is None:
            raise LookupError(log.key)
        running = await self._running(thread)
        log.renew(thread.epoch, thread.head)
        log.running = running

    async def _running(self, thread: Thread) -> RemoteTurn | None:
        """The turn of which the log has events, but no end, up to the thread's head."""
        for turn in await self._store.open_turns(thread.key):
            if turn.status == "running" and turn.start is not None and turn.start < thread.head:
                running = RemoteTurn(turn.turn_id, turn.start)
                for event in await self.between(thread.key, turn.start, thread.head):
                    running.take(event)
                return running
        return None

    async def _refill(self, log: ThreadLog) -> None:
        """Get from the store what the stream does not have, or no longer has."""
        await self.catch_up(log)

    async def vouches(self, log: ThreadLog, position: Position) -> bool:
        if position.epoch > log.epoch:
            await self.catch_up(log)
        if position.epoch == log.epoch and position.offset > log.head and log.key not in self._owners:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REACH_SECONDS):
                    await until(log, lambda: position.epoch != log.epoch or position.offset <= log.head)
        return await super().vouches(log, position)
