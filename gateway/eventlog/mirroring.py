"""Following logs whose turns run on other nodes: one reader for all that this node's clients follow.

XREAD BLOCK of all streams ────▶ ThreadLog.append, which wakes the followers here
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.errors import StoreUnavailable
from gateway.eventlog.local import EVENTS_AT_REST, EVENTS_IN_MEMORY
from gateway.eventlog.log import ThreadLog
from gateway.eventlog.stream import Batch, batch_of, key_of, place
from gateway.nodes.link import BLOCK_MS, RETRY_SECONDS, RedisDown, RedisLink
from gateway.protocol import Done, Event, UserMessage
from gateway.view import TurnView

ENTRIES_AT_ONCE = 256
"""Of each stream."""
REFILL_SECONDS = 0.5
"""Between two tries to read from a store that does not answer."""
POKE_MS = 60_000

_log = structlog.get_logger(__name__)


class RemoteTurn:
    """A turn that runs on another node, as far as its events have come."""

    __slots__ = ("start", "turn_id", "view")

    def __init__(self, turn_id: str, start: int) -> None:
        self.turn_id = turn_id
        self.start = start
        self.view = TurnView()

    def take(self, event: Event) -> None:
        """Take one more event of the log into account."""
        if event.turn_id == self.turn_id:
            self.view.apply(event)


def append(log: ThreadLog, event: Event) -> None:
    """Append to a mirror what the owner of the log has appended."""
    running = log.running
    if running is None and isinstance(event, UserMessage):
        running = log.running = RemoteTurn(event.turn_id, log.head)
        log.turns_started += 1
    if isinstance(running, RemoteTurn):
        running.take(event)
        if isinstance(event, Done) and event.turn_id == running.turn_id:
            log.running = None
            log.turns_started += 1
    log.append(event)


class Mirrors:
    """The logs that are followed here and owned elsewhere, or nowhere at the moment.

    Where each stands is its own position: nothing is kept per stream, and after an outage each goes on where it was.
    """

    def __init__(self, link: RedisLink, refill: Callable[[ThreadLog], Awaitable[None]]) -> None:
        """`refill` reads from the store what a stream does not hold."""
        self._link = link
        self._refill = refill
        self._logs: dict[bytes, ThreadLog] = {}
        self._stalled: set[bytes] = set()
        """Streams that are not read while what comes before is fetched from the store."""
        self._poke = f"agentline:poke:{link.node_id}".encode()
        self._poked = b"0-0"
        self._some = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None

    async def add(self, log: ThreadLog) -> None:
        """Mirror `log` from where it stands, and return with all that its stream holds now, if Redis answers."""
        key = key_of(log.key).encode()
        self._logs[key] = log
        self._some.set()
        try:
            pipeline = self._link.client.pipeline(transaction=False)
            pipeline.execute_command("XRANGE", key, f"({place(log.epoch, log.head)}", "+", "COUNT", ENTRIES_AT_ONCE)
            # The reader is waiting for other streams: let it begin anew.
            pipeline.execute_command("XADD", self._poke, "MAXLEN", 1, "*", "log", log.key)
            pipeline.execute_command("PEXPIRE", self._poke, POKE_MS)
            entries, *_ = await self._link.ask(pipeline.execute())
        except RedisDown:
            return
        self._take(key, entries)

    def remove(self, log: ThreadLog) -> None:
        """Stop mirroring."""
        key = key_of(log.key).encode()
        if self._logs.get(key) is log:
            del self._logs[key]
            self._stalled.discard(key)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as self._group, self._link.reader() as reader:
            for key in self._stalled:
                self._group.create_task(self._refilled(key, self._logs[key]), name="refill")
            while True:
                while not self._logs:
                    self._some.clear()
                    await self._some.wait()
                followed = {k: place(log.epoch, log.head) for k, log in self._logs.items() if k not in self._stalled}
                keys, ids = [self._poke, *followed], [self._poked, *followed.values()]
                try:
                    answer = await reader.read(
                        "XREAD", "COUNT", ENTRIES_AT_ONCE, "BLOCK", BLOCK_MS, "STREAMS", *keys, *ids
                    )
                except RedisDown:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                for key, entries in answer or ():
                    if key == self._poke:
                        self._poked = entries[-1][0]
                    else:
                        self._take(key, entries)

    def _take(self, key: bytes, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        log = self._logs.get(key)
        if log is None or key in self._stalled:
            return
        for entry_id, fields in entries:
            try:
                whole = _mirror(log, batch_of(entry_id, fields))
            except (KeyError, ValueError) as error:
                _log.error("bad_log_entry", thread_id=log.thread_id, reason=type(error).__name__)
                whole = False
            if not whole:
                self._stall(key, log)
                return

    def _stall(self, key: bytes, log: ThreadLog) -> None:
        self._stalled.add(key)
        if self._group is not None:
            self._group.create_task(self._refilled(key, log), name="refill")

    async def _refilled(self, key: bytes, log: ThreadLog) -> None:
        while self._logs.get(key) is log:
            try:
                await self._refill(log)
                break
            except StoreUnavailable:
                await asyncio.sleep(REFILL_SECONDS)
        self._stalled.discard(key)
        if self._logs.get(key) is log:
            await self.add(log)


def _mirror(log: ThreadLog, batch: Batch) -> bool:
    """Append what is new in `batch`. False if something is missing before it, or it begins anew."""
    if batch.epoch < log.epoch or (batch.epoch == log.epoch and batch.last <= log.head):
        return True
    if batch.epoch > log.epoch or batch.first > log.head + 1:
        return False
    for event in batch.events[log.head + 1 - batch.first :]:
        append(log, event)
    log.durable = max(log.durable, min(batch.durable, log.head))
    log.forget(keep=EVENTS_IN_MEMORY if log.running is not None else EVENTS_AT_REST)
    return True
