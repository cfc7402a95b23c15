"""Writing the events of the turns that run here to their streams, for those who follow on other nodes.

ThreadLog.append wakes local followers, and this one ────▶ XADD, a batch for each log that has grown

What is appended while Redis answers goes with the next batch: nothing waits for a timer, and no local reader for Redis.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any

import structlog
from redis.exceptions import ResponseError

from gateway.eventlog.log import ThreadLog
from gateway.eventlog.stream import KEPT_MS, fields_of, key_of, place, start_of
from gateway.nodes.link import RETRY_SECONDS, Line, RedisDown, RedisLink

EVENTS_AT_ONCE = 512
"""In one entry at most."""
LOGS_AT_ONCE = 64
ANNOUNCE_SECONDS = 600.0
"""After which a stream's life is prolonged, and that it grows is told again; as behind an outage of Redis, which may
have lost that it was."""

_log = structlog.get_logger(__name__)


class Shipment:
    """What of one owned log is on its way: a follower, whose position moves when Redis has the events."""

    __slots__ = ("_mark", "announced_at", "attempt", "end", "epoch", "log", "marked", "refused", "shipped", "waiters")

    def __init__(self, log: ThreadLog, attempt: str, mark: Callable[[Shipment], None]) -> None:
        self.log = log
        self.attempt = attempt
        self.epoch = log.epoch
        self.shipped = log.head
        """Offset of the last event that Redis has."""
        self.end: int | None = None
        """Offset of the last event that is to be written; None while the log is owned."""
        self.refused = False
        """Another node has gone on with this log: nothing more is written."""
        self.marked = False
        self.announced_at = -math.inf
        self.waiters: list[asyncio.Future[None]] = []
        """Of those who wait until all is written, or nothing will be any more."""
        self._mark = mark

    @property
    def over(self) -> bool:
        """Whether nothing is left to write."""
        return self.refused or self.log.epoch != self.epoch or self.shipped >= self.last

    @property
    def last(self) -> int:
        """Offset of the last event that is to be written by now."""
        return self.log.head if self.end is None else self.end

    def wake(self) -> None:
        if not self.marked and not self.refused:
            self._mark(self)


class Shipper:
    """The one writer of this node: one request under way, with all that was appended since the last."""

    def __init__(self, link: RedisLink, on_refused: Callable[[ThreadLog], None]) -> None:
        """`on_refused` is called when Redis refuses a log's events because somebody else has gone on with it."""
        self._link = link
        self._on_refused = on_refused
        self._marked: list[Shipment] = []
        self._news = asyncio.Event()

    def begin(self, log: ThreadLog, attempt: str) -> Shipment:
        """Write what is appended to `log` from now on."""
        shipment = Shipment(log, attempt, self._mark)
        log.add_follower(shipment)
        return shipment

    def end(self, shipment: Shipment) -> None:
        """Write no more than what is there now, and that only if nobody has gone on with the log."""
        shipment.end = shipment.log.head
        shipment.log.remove_follower(shipment)

    async def flush(self, shipment: Shipment) -> None:
        """Return when all that was appended is written, or nothing will be any more. The caller sets the deadline."""
        if not shipment.over:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            shipment.waiters.append(waiter)
            await waiter

    def _mark(self, shipment: Shipment) -> None:
        shipment.marked = True
        self._marked.append(shipment)
        self._news.set()

    async def run(self) -> None:
        """Run until cancelled."""
        async with self._link.line() as line:
            await self._keep_shipping(line)

    async def _keep_shipping(self, line: Line) -> None:
        while True:
            await self._news.wait()
            batch = self._marked[:LOGS_AT_ONCE]
            del self._marked[:LOGS_AT_ONCE]
            if not self._marked:
                self._news.clear()
            for shipment in batch:
                shipment.marked = False
            try:
                await self._ship(line, [one for one in batch if not one.over])
            except (RedisDown, ResponseError):
                for shipment in batch:
                    shipment.wake()
                await asyncio.sleep(RETRY_SECONDS)
            except Exception:  # whatever it is, the other logs are written
                _log.exception("logs_not_written")
                await asyncio.sleep(RETRY_SECONDS)
            for shipment in batch:
                if not shipment.over:
                    shipment.wake()
                else:
                    for waiter in shipment.waiters:
                        if not waiter.done():
                            waiter.set_result(None)
                    shipment.waiters.clear()

    async def _ship(self, line: Line, shipments: list[Shipment]) -> None:
        if not shipments:
            return
        commands: list[tuple[Any, ...]] = []
        ends = []
        for shipment in shipments:
            log = shipment.log
            first = max(shipment.shipped, log.base) + 1  # what was forgotten meanwhile, the store has
            last = min(first + EVENTS_AT_ONCE - 1, shipment.last)
            events = log.events[first - log.base - 1 : last - log.base]
            ends.append(last)
            key = key_of(log.key)
            fields = fields_of(events, first, log.durable, shipment.attempt)
            behind = place(log.epoch, log.durable)
            commands.append(("XADD", key, "MINID", "~", behind, place(log.epoch, last), *fields))
        now = time.monotonic()
        since = max(now - ANNOUNCE_SECONDS, now if self._link.up_since is None else self._link.up_since)
        announced = [shipment for shipment in shipments if shipment.announced_at < since]
        for shipment in announced:
            commands.append(("PEXPIRE", key_of(shipment.log.key), KEPT_MS))
            commands.append(start_of(shipment.log.key))
        for shipment, last in zip(shipments, ends, strict=True):
            if last == shipment.end:  # the stream may have been made anew since it was announced
                commands.append(("PEXPIRE", key_of(shipment.log.key), KEPT_MS))
        await line.freshen()
        answers = await line.ask(*commands)
        for answer in answers[len(shipments) :]:
            if isinstance(answer, ResponseError):
                raise self._link.down(answer)
        for shipment, last, answer in zip(shipments, ends, answers, strict=False):
            if isinstance(answer, ResponseError):
                await self._refused(shipment, last, answer)
            else:
                shipment.shipped = last
        for shipment in announced:
            shipment.announced_at = now

    async def _refused(self, shipment: Shipment, last: int, answer: ResponseError) -> None:
        """Redis has a later entry: that of a node that has taken over, under a higher epoch; or one of ours.

        Of this epoch nobody else writes but who knows that the store has all up to there: a nudge, or the turn behind.
        """
        if "equal or smaller" not in str(answer):
            raise self._link.down(answer)
        newest = await self._link.run("XREVRANGE", key_of(shipment.log.key), "+", "-", "COUNT", 1)
        if not newest:  # it has expired since
            return
        epoch, _, offset = newest[0][0].partition(b"-")
        if int(epoch) == shipment.epoch:
            shipment.shipped = max(last, int(offset))
            return
        shipment.refused = True
        if shipment.end is None:
            _log.info("log_fenced", thread_id=shipment.log.thread_id)
            self._on_refused(shipment.log)
