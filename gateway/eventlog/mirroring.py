"""Following logs whose turns run on other nodes: one reader for all that this node's clients follow.

XREAD BLOCK of the streams that grow ────▶ ThreadLog.append, which wakes the followers here
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import ResponseError

from gateway.errors import StoreUnavailable
from gateway.eventlog.local import EVENTS_AT_REST, EVENTS_IN_MEMORY
from gateway.eventlog.log import ThreadLog
from gateway.eventlog.stream import STARTS, batch_of, key_of, place
from gateway.nodes.link import BLOCK_MS, REFUSED_SECONDS, RETRY_SECONDS, Reader, RedisDown, RedisLink
from gateway.protocol import Done, Event, UserMessage
from gateway.view import TurnView

ENTRIES_AT_ONCE = 256
"""Of each stream."""
LOOKS_AT_ONCE = 500
REFILL_SECONDS = 0.25
"""Between two tries to have from the store what is missing."""
CHECKS = 16
"""Logs that are held against the store at the same time."""
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
    Only the streams of turns that run are read: that another log begins to grow is told in one stream for all of them,
    so that thousands of conversations at rest cost nothing.
    """

    def __init__(self, link: RedisLink, refill: Callable[[ThreadLog], Awaitable[None]]) -> None:
        """`refill` reads from the store what a stream does not hold."""
        self._link = link
        self._refill = refill
        self._logs: dict[bytes, ThreadLog] = {}
        self._growing: dict[bytes, ThreadLog] = {}
        """Those in which a turn runs."""
        self._stalled: set[bytes] = set()
        """Those that are not read while what comes before is fetched from the store."""
        self._checked: set[bytes] = set()
        """Those that are just being held against the store."""
        self._checking = asyncio.Semaphore(CHECKS)
        self._started: bytes | None = None
        """Up to where it was read which logs begin to grow; None: unknown, and all must be looked at."""
        self._poke = f"agentline:poke:{link.node_id}".encode()
        self._poked = b"0-0"
        self._group: asyncio.TaskGroup | None = None

    async def add(self, log: ThreadLog) -> None:
        """Mirror `log` from where it stands, and return with all that its stream holds now, if Redis answers."""
        key = key_of(log.key).encode()
        self._logs[key] = log
        if not self._link.up:
            self._started = None
            return
        try:
            await self._look([key])
            if key in self._growing:  # the reader waits for other streams: let it begin anew
                pipeline = self._link.client.pipeline(transaction=False)
                pipeline.execute_command("XADD", self._poke, "MAXLEN", 1, "*", "thread", log.key)
                pipeline.execute_command("PEXPIRE", self._poke, POKE_MS)
                await self._link.ask(pipeline.execute())
        except (RedisDown, ResponseError):
            self._started = None

    def remove(self, log: ThreadLog) -> None:
        """Stop mirroring."""
        key = key_of(log.key).encode()
        if self._logs.get(key) is log:
            del self._logs[key]
            self._growing.pop(key, None)
            self._stalled.discard(key)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as self._group, self._link.reader() as reader:
            for key in self._stalled:
                self._group.create_task(self._refilled(key, self._logs[key]), name="refill")
            while True:
                try:
                    if self._started is None:
                        await self._look_at_all()
                    else:
                        await self._read(reader, self._started)
                except RedisDown:
                    self._started = None
                    await asyncio.sleep(RETRY_SECONDS)
                except ResponseError as error:
                    _log.error("logs_not_read", reason=str(error).partition(" ")[0])
                    self._started = None
                    await asyncio.sleep(REFUSED_SECONDS)
                except Exception:  # whatever it is, the other logs are mirrored
                    _log.exception("logs_not_read")
                    self._started = None
                    await asyncio.sleep(REFUSED_SECONDS)

    async def _look_at_all(self) -> None:
        newest = await self._link.run("XREVRANGE", STARTS, "+", "-", "COUNT", 1)
        self._started = newest[0][0] if newest else b"0-0"
        keys = list(self._logs)
        for start in range(0, len(keys), LOOKS_AT_ONCE):
            await self._look(keys[start : start + LOOKS_AT_ONCE])
        for key, log in self._growing.items():  # if Redis has lost a turn's end, nothing behind it will tell
            if key not in self._checked and key not in self._stalled and self._group is not None:
                self._checked.add(key)
                self._group.create_task(self._check(key, log), name="check")

    async def _check(self, key: bytes, log: ThreadLog) -> None:
        """Have what the store has of a log in which a turn runs, as far as is known here."""
        try:
            while self._growing.get(key) is log:
                try:
                    async with self._checking:
                        await self._refill(log)
                    break
                except LookupError:
                    break
                except Exception as error:
                    if not isinstance(error, StoreUnavailable):
                        _log.exception("log_not_refilled", thread_id=log.thread_id)
                await asyncio.sleep(REFUSED_SECONDS)
        finally:
            self._checked.discard(key)
        if log.running is None and self._growing.get(key) is log:
            del self._growing[key]

    async def _look(self, keys: list[bytes]) -> None:
        """Have what the streams of these hold now, as far as they are still followed. Raises `RedisDown`."""
        while keys := [key for key in keys if key in self._logs]:
            pipeline = self._link.client.pipeline(transaction=False)
            for key in keys:
                log = self._logs[key]
                behind = f"({place(log.epoch, log.head)}"
                pipeline.execute_command("XRANGE", key, behind, "+", "COUNT", ENTRIES_AT_ONCE)
            answers = await self._link.ask(pipeline.execute())
            for key, entries in zip(keys, answers, strict=True):
                self._take(key, entries)
            full = [key for key, entries in zip(keys, answers, strict=True) if len(entries) == ENTRIES_AT_ONCE]
            keys = [key for key in full if key not in self._stalled]

    async def _read(self, reader: Reader, started: bytes) -> None:
        """Wait for what grows, once."""
        places = {key: place(log.epoch, log.head) for key, log in self._growing.items() if key not in self._stalled}
        streams = {self._poke: self._poked, STARTS.encode(): started, **places}
        command = ("XREAD", "COUNT", ENTRIES_AT_ONCE, "BLOCK", BLOCK_MS, "STREAMS")
        for key, entries in await reader.read(*command, *streams, *streams.values()) or ():
            if key == self._poke:
                self._poked = entries[-1][0]
            elif key == STARTS.encode():
                if len(entries) == ENTRIES_AT_ONCE:  # too far behind: some may not be kept any more
                    self._started = None
                elif self._started is not None:  # else an outage was noticed meanwhile
                    self._started = entries[-1][0]
                begun = {key_of(int(fields[b"thread"])).encode() for _, fields in entries}
                await self._look([key for key in begun if key not in self._growing])
            else:
                self._take(key, entries)

    def _take(self, key: bytes, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        log = self._logs.get(key)
        if log is None or key in self._stalled:
            return
        for entry_id, fields in entries:
            if not _mirror(log, entry_id, fields):
                self._stall(key, log)
                break
        if log.running is not None:
            self._growing[key] = log
        else:
            self._growing.pop(key, None)

    def _stall(self, key: bytes, log: ThreadLog) -> None:
        self._stalled.add(key)
        if self._group is not None:
            self._group.create_task(self._refilled(key, log), name="refill")

    async def _refilled(self, key: bytes, log: ThreadLog) -> None:
        while self._logs.get(key) is log:
            before = log.position
            pause = REFILL_SECONDS  # until the store answers, and has what is missing
            try:
                await self._refill(log)
            except StoreUnavailable:
                pass
            except LookupError:  # it is deleted: nothing comes any more
                return
            except Exception:  # such as what a newer version has written: that thread stands still, and no other
                _log.exception("log_not_refilled", thread_id=log.thread_id)
                pause = REFUSED_SECONDS
            if log.position != before:
                break
            await asyncio.sleep(pause)
        self._stalled.discard(key)
        if self._logs.get(key) is log:
            await self.add(log)


def _mirror(log: ThreadLog, entry_id: bytes, fields: dict[bytes, bytes]) -> bool:
    """Append what is new in an entry. False if something is missing before it, or it begins anew, or is not readable:
    then the store is to be asked."""
    epoch, _, last = entry_id.partition(b"-")
    if int(epoch) < log.epoch or (int(epoch) == log.epoch and int(last) <= log.head):
        return True
    try:
        batch = batch_of(entry_id, fields)
        if batch.epoch > log.epoch or batch.first > log.head + 1:
            return False
        events = batch.events[log.head + 1 - batch.first :]
    except (KeyError, ValueError) as error:
        _log.error("bad_log_entry", thread_id=log.thread_id, reason=type(error).__name__)
        return False
    for event in events:
        append(log, event)
    log.durable = max(log.durable, min(batch.durable, log.head))
    log.forget(keep=EVENTS_IN_MEMORY if log.running is not None else EVENTS_AT_REST)
    return True
