"""Logs in the memory of this process, checkpointed to the store."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import msgspec
import structlog

from gateway.clock import now
from gateway.errors import StoreUnavailable
from gateway.eventlog.log import ThreadLog
from gateway.eventlog.position import Position
from gateway.protocol import Event
from gateway.store.base import Store
from gateway.store.records import Approval, Checkpoint, Segment, Thread, Turn

CHECKPOINT_SECONDS = 0.25
"""Between two checkpoints. With the time that writing takes, what is durable is at most half a second old."""
EVENTS_IN_MEMORY = 10_000
"""Per log with a running turn; what is older and durable is read from the store."""
EVENTS_AT_REST = 256
"""Per log without a running turn: what followers have perhaps not shown yet."""
KEPT_SECONDS = 7 * 24 * 3600
"""How long after its turn's end an event can still be replayed; an older cursor gets a snapshot."""
TRIM_SECONDS = 600
"""From the end of one look at all threads to the next one."""
TRIM_PAUSE_SECONDS = 0.2
"""Between some threads and the next ones."""
TRIM_ROWS = 1000
"""Forgotten at once at most, so that no other write waits long."""
PAGE_SEGMENTS = 32
"""Segments read from the store at once for a follower that is far behind."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Event])
_log = structlog.get_logger(__name__)


def encode_events(events: list[Event]) -> bytes:
    """Events as a segment keeps them."""
    return _encoder.encode(events)


def decode(encoded: bytes) -> list[Event]:
    """Events that `encode_events` has encoded. Raises `ValueError` if it has not."""
    return _decoder.decode(encoded)


def decode_events(segment: Segment) -> list[Event]:
    """The events of a segment."""
    return decode(segment.events)


def log_of(thread: Thread) -> ThreadLog:
    """The log of a thread of which nothing is in memory yet."""
    return ThreadLog(
        key=thread.key, user_id=thread.user_id, thread_id=thread.thread_id, epoch=thread.epoch, head=thread.head
    )


class _Loading:
    """Who wants a log that is not in memory: one of them loads it. Kept until the last has what he wants, so that there
    are never two loads, and two logs, of one thread."""

    __slots__ = ("lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class LocalEventLog:
    """All logs that somebody uses at the moment.

    A log is in memory while somebody holds it. It is loaded once, so everybody sees the same one.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._logs: dict[int, ThreadLog] = {}
        self._loading: dict[int, _Loading] = {}
        self._dirty: set[ThreadLog] = set()
        self._changed = asyncio.Event()

    async def hold(self, key: int) -> ThreadLog:
        """The log of the thread `key`, kept in memory until it is released as often as it was held.

        Raises:
            LookupError: there is no such thread.
            StoreUnavailable: it had to be loaded and could not.
        """
        log = self._logs.get(key)
        if log is not None:
            log.holders += 1
            return log
        loading = self._loading.setdefault(key, _Loading())
        loading.waiting += 1
        try:
            async with loading.lock:
                log = self._logs.get(key) or await self._load(key)
                log.holders += 1
                return log
        finally:
            loading.waiting -= 1
            if not loading.waiting:
                del self._loading[key]

    async def _load(self, key: int) -> ThreadLog:
        thread = await self._store.thread_by_key(key)
        if thread is None:
            raise LookupError(key)
        if (loaded := self._logs.get(key)) is not None:
            return loaded
        log = log_of(thread)
        self._logs[key] = log
        return log

    def release(self, log: ThreadLog) -> None:
        """Undo one `hold`. A log with events that are not durable stays until they are."""
        log.holders -= 1
        self._drop_if_unused(log)

    def _drop_if_unused(self, log: ThreadLog) -> None:
        if log.holders == 0 and log not in self._dirty and self._logs.get(log.key) is log:
            del self._logs[log.key]

    @contextlib.asynccontextmanager
    async def held(self, key: int) -> AsyncIterator[ThreadLog]:
        """`hold` and `release` around a block."""
        log = await self.hold(key)
        try:
            yield log
        finally:
            self.release(log)

    def touch(self, log: ThreadLog) -> None:
        """The log has something that must become durable at the next checkpoint."""
        if log not in self._dirty:
            self._dirty.add(log)
            self._changed.set()

    async def own(self, log: ThreadLog, attempt: str | None, thread: Thread | None) -> None:
        """Be the one who appends, because a turn runs here. `log` then has all that the store has of `thread`, or has
        now. The caller holds `log.flushing`.

        Raises:
            LookupError: the thread is gone, or another node has ended the turn since this one has claimed it.
            StoreUnavailable: call again.
        """

    async def disown(self, log: ThreadLog, attempt: str | None) -> bool:
        """Undo `own`: the turn has ended, here or elsewhere. Whether all readers on all nodes have its last events."""
        return True

    async def known(self, thread: Thread, turn: Turn) -> list[Event]:
        """The events of the thread since the turn's start, as far as anybody but its process has them."""
        return await self.between(thread.key, turn.start or 0, thread.head)

    async def catch_up(self, log: ThreadLog, thread: Thread | None = None) -> None:
        """Have all in `log` that the store has, as read just now, or in `thread`.

        Raises: `LookupError`, `StoreUnavailable`.
        """
        async with log.flushing:
            pass  # between a turn's end in the store and its `done` in the log, this is locked

    async def read(self, log: ThreadLog, after: int) -> list[Event]:
        """Some events behind offset `after`, from the store; the caller reads what is in memory itself.

        Empty if the store no longer has them.
        """
        segments = await self._store.segments(log.key, after, PAGE_SEGMENTS)
        if not segments or segments[0].first > after + 1:
            return []
        events: list[Event] = []
        expected = segments[0].first
        for segment in segments:
            if segment.first != expected:
                break
            events += decode_events(segment)
            expected = segment.last + 1
        return events[after + 1 - segments[0].first :]

    async def between(self, thread_key: int, after: int, upto: int) -> list[Event]:
        """The events behind offset `after` up to `upto`, as far as the store has them."""
        events: list[Event] = []
        while after < upto and (segments := await self._store.segments(thread_key, after, PAGE_SEGMENTS)):
            for segment in segments:
                stored = decode_events(segment)
                events += stored[max(after + 1 - segment.first, 0) : max(upto + 1 - segment.first, 0)]
                after = segment.last
        return events

    async def vouches(self, log: ThreadLog, position: Position) -> bool:
        """Whether every event behind `position` can still be shown."""
        if position.epoch != log.epoch or position.offset > log.head:
            return False
        if position.offset >= log.base:
            return True
        segments = await self._store.segments(log.key, position.offset, 1)
        return bool(segments) and segments[0].first <= position.offset + 1 and position.epoch == log.epoch

    def pending_approval(self, user_id: str, approval_id: str) -> Approval | None:
        """The user's approval, if what is known of it is not durable yet."""
        for log in self._dirty:
            if log.user_id == user_id and (approval := log.approvals.get(approval_id)) is not None:
                return approval
        return None

    def pending(self, log: ThreadLog, further: Sequence[Event] = (), shown: Sequence[str] = ()) -> Checkpoint:
        """All of `log` that is not durable, and `further` events, which show the end of `shown` turns. The caller holds
        `log.flushing`."""
        events = [*log.events[log.durable - log.base :], *further]
        first = log.durable + 1
        segment = Segment(first=first, last=log.durable + len(events), events=encode_events(events)) if events else None
        return Checkpoint(
            thread_key=log.key,
            epoch=log.epoch,
            segment=segment,
            session=log.session,
            approvals=tuple(log.approvals.values()),
            shown=(*log.shown, *shown),
        )

    def settled(self, log: ThreadLog, checkpoint: Checkpoint) -> None:
        """What `checkpoint` holds is durable now. The caller holds `log.flushing`."""
        if checkpoint.segment is not None:
            log.durable = checkpoint.segment.last
        if log.session is checkpoint.session:
            log.session = None
        for turn_id in checkpoint.shown:
            log.shown.pop(turn_id, None)
        for approval in checkpoint.approvals:
            if log.approvals.get(approval.approval_id) is approval:
                del log.approvals[approval.approval_id]
        log.forget(keep=EVENTS_IN_MEMORY if log.running is not None else EVENTS_AT_REST)
        if log.durable >= log.head and log.session is None and not log.approvals and not log.shown:
            self._dirty.discard(log)
            self._drop_if_unused(log)

    async def checkpoint(self) -> None:
        """Make all that is pending durable, but for logs whose turn is being finished at this moment.

        Raises:
            StoreUnavailable: nothing was lost; the next checkpoint has it all.
        """
        logs = [log for log in self._dirty if not log.flushing.locked()]
        async with contextlib.AsyncExitStack() as stack:
            for log in logs:
                await stack.enter_async_context(log.flushing)
            batch = [self.pending(log) for log in logs]
            if batch:
                fenced = await self._stored(batch)
                for log, written in zip(logs, batch, strict=True):
                    if log.key in fenced:
                        self._dirty.discard(log)
                        self.lost(log)
                        self._drop_if_unused(log)
                    else:
                        self.settled(log, written)

    async def _stored(self, batch: list[Checkpoint]) -> set[int]:
        """The threads with which somebody else has gone on, or whose log the store has lost a part of.

        One such thread does not keep the others' events from becoming durable.
        """
        try:
            return await self._store.checkpoint(batch)
        except ValueError:
            if len(batch) == 1:
                _log.exception("checkpoint_impossible", thread_key=batch[0].thread_key)
                return {batch[0].thread_key}
        half = len(batch) // 2
        return await self._stored(batch[:half]) | await self._stored(batch[half:])

    def lost(self, log: ThreadLog) -> None:
        """Somebody else has gone on with this log, under a new epoch; or it does not fit to what the store has."""
        _log.info("log_lost", thread_id=log.thread_id)

    async def keep_checkpointing(self) -> None:
        """Run until cancelled: one checkpoint per `CHECKPOINT_SECONDS` while there is something to write."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(CHECKPOINT_SECONDS)
            try:
                await self.checkpoint()
            except StoreUnavailable:
                _log.error("checkpoint_failed", logs=len(self._dirty))
            except Exception:  # such as missing rights: perhaps they are given back
                _log.exception("checkpoint_failed", logs=len(self._dirty))
            if self._dirty:
                self._changed.set()

    async def run(self) -> None:
        """What this kind of log needs to have done all the time: nothing here. Run until cancelled."""

    async def keep_trimming(self) -> None:
        """Run until cancelled: forget events that are older than anybody needs."""
        behind: int | None = 0
        while True:
            try:
                _, behind = await self._store.trim(now() - KEPT_SECONDS * 1000, TRIM_ROWS, behind or 0)
            except StoreUnavailable:
                _log.error("trim_failed")
                behind = None
            except Exception:
                _log.exception("trim_failed")
                behind = None
            await asyncio.sleep(TRIM_SECONDS if behind is None else TRIM_PAUSE_SECONDS)
