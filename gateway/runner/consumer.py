"""The turns of the queue that are this node's: taken from it, kept by a heartbeat, ended in it.

    queue ──┬─ take ────▶ claim ────▶ LocalRunner ────▶ done
            └─ overdue ─▶ claim ────▶ interrupted: the node that ran it is dead

The queue says who should run a turn, and may say it twice. The claim in the store says who does: a turn that somebody
has claimed is never begun again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import structlog
from redis.exceptions import ResponseError

from gateway.background import running
from gateway.clock import now
from gateway.errors import StoreUnavailable
from gateway.eventlog.streamed import StreamedEventLog
from gateway.ids import new_id
from gateway.logs import log_failure
from gateway.nodes.link import REFUSED_SECONDS, RETRY_SECONDS, Reader, RedisDown, RedisLink
from gateway.nodes.queue import Entry, TurnQueue
from gateway.runner.local import LocalRunner
from gateway.store.base import STORE_RETRY_SECONDS, Store
from gateway.store.records import Claim, Turn

TURNS = 1000
"""At the same time on one node. What is beyond waits for another node, or for one to end."""
TAKEN_AT_ONCE = 32
GRACE_SECONDS = 1.5
"""After an outage of Redis, before anything is taken over: those who live say so first."""
TAKEOVER_SECONDS = 0.5
"""Between two looks for turns whose node is dead, at most; less where the lease is short."""
STOPPING_SECONDS = 1.0
SETTLING_SECONDS = 2.0
"""How long a node that stops tries to tell Redis of the turns that it has ended. Else another node finds out."""

_log = structlog.get_logger(__name__)


class Consumer:
    """`async with` it, inside of the `LocalRunner`: leaving stops what runs; what waits is left to other nodes."""

    def __init__(
        self,
        local: LocalRunner,
        queue: TurnQueue,
        store: Store,
        logs: StreamedEventLog,
        link: RedisLink,
        lease_seconds: float,
        takes_turns: bool,
    ) -> None:
        """`takes_turns`: whether turns run on this node at all."""
        self._local = local
        self._queue = queue
        self._store = store
        self._logs = logs
        self._link = link
        self._lease_seconds = lease_seconds
        self._takes_turns = takes_turns
        self._taken: dict[str, Entry] = {}
        """Turns that are this node's, from their entry in the queue to its end."""
        self._handling: set[asyncio.Task[None]] = set()
        self._fewer = asyncio.Event()
        self._apart = False
        """The store did not answer the last claim. Until it answers again, nothing more is taken."""
        self._begun = contextlib.AsyncExitStack()
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._reader: Reader | None = None
        """That of the loop that takes turns."""
        local.start_following = self.start

    def has(self, turn_id: str) -> bool:
        """Whether the turn is this node's."""
        return turn_id in self._taken

    @property
    def _has_room(self) -> bool:
        return self._takes_turns and not self._local.draining and not self._apart and len(self._taken) < TURNS

    async def start(self, turn: Turn) -> None:
        """Queue the turn, and run it here if no other is first. While Redis is down it waits for the sweeper."""
        if not self._link.up:
            return
        try:
            if not self._has_room:
                await self._queue.enqueue([turn.turn_id])
            elif (entry := await self._queue.enqueue_and_take(turn.turn_id)) is not None:
                self._begin(entry)
        except (RedisDown, ResponseError):
            _log.error("turn_not_queued", turn_id=turn.turn_id)

    def _begin(self, entry: Entry, overdue: bool = False) -> None:
        known = entry.turn_id in self._taken
        self._taken[entry.turn_id] = entry
        if not known:
            task = asyncio.get_running_loop().create_task(
                self._handle(entry.turn_id, overdue), name=f"turn {entry.turn_id} of the queue"
            )
            self._handling.add(task)
            task.add_done_callback(self._handled)
            task.add_done_callback(log_failure(_log, "turn_task_failed", task=task.get_name()))

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        self._fewer.set()

    async def _handle(self, turn_id: str, overdue: bool) -> None:
        """Everything about one entry of the queue. If this ends without `done`, the entry is overdue in a lease."""
        attempt = new_id("a")
        left: Entry | None = None
        try:
            try:
                claim = await self._claim(turn_id, attempt)
            except StoreUnavailable:  # or this node stops
                left = self._taken[turn_id]
                await (self._queue.expose(left) if overdue else self._queue.give_back(left))
                return
            if claim is None:
                await self._settle(turn_id)
            elif claim.turn.attempt == attempt:
                await self._run(claim)
            elif overdue:
                _log.info("turn_taken_over", turn_id=turn_id)
                following = await self._persist(lambda: self._local.interrupt(claim.thread, claim.turn))
                await self._settle(turn_id)
                if following is not None:
                    await self.start(following)
            # Else its node lives, and will say so; or it is overdue in a lease.
        except (RedisDown, ResponseError):
            pass  # its end is in the store: whoever takes it over next finds that
        finally:
            entry = self._taken.pop(turn_id, None)
            self._local.forget(turn_id)
            if left is not None and entry is not None and entry != left:  # it has come back already
                self._begin(entry)

    async def _claim(self, turn_id: str, attempt: str) -> Claim | None:
        """Raises `StoreUnavailable` where it is certain that this node has not claimed the turn, and will not: one that
        alone does not reach the store must keep no turn from those that do."""
        doubt = False
        while not self._local.draining or doubt:
            try:
                return await self._store.claim(turn_id, attempt, now())
            except StoreUnavailable as error:
                doubt = doubt or not error.undone
                self._apart = True
                if not doubt:
                    raise
            await asyncio.sleep(STORE_RETRY_SECONDS)
        raise StoreUnavailable(undone=True)

    async def _run(self, claim: Claim) -> None:
        task = await self._local.start(claim.turn, claim.thread, claim.unshown)
        await asyncio.wait({task})
        if task.result():
            await self._done(claim.turn.turn_id)
        else:
            await self._settle(claim.turn.turn_id)

    async def _settle(self, turn_id: str) -> None:
        """The turn has no business in the queue any more, if it has ended; and everybody shall know its end."""
        found = await self._persist(lambda: self._store.turn(None, turn_id))
        if found is not None:
            thread, turn = found
            if turn.status == "running":
                return
            await self._persist(lambda: self._logs.nudge(thread))
        await self._done(turn_id)

    async def _done(self, turn_id: str) -> None:
        await self._persist(lambda: self._queue.done(self._taken[turn_id]))

    async def _persist(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await ask()
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_SECONDS)
            except RedisDown:
                await asyncio.sleep(RETRY_SECONDS)

    # The loops.

    async def _take(self) -> None:
        async with self._link.reader() as reader:
            self._reader = reader
            while not self._local.draining:
                try:
                    if self._apart:
                        await asyncio.sleep(STORE_RETRY_SECONDS)  # it may answer, and yet take nothing
                        await self._persist(self._store.ping)
                        self._apart = False
                    if not self._has_room:
                        self._fewer.clear()
                        await self._fewer.wait()
                        continue
                    for entry in await self._queue.take(reader, min(TURNS - len(self._taken), TAKEN_AT_ONCE)):
                        self._begin(entry)
                except RedisDown:
                    await asyncio.sleep(RETRY_SECONDS)
                except Exception as error:
                    await self._refused("take", error)

    async def _beat(self) -> None:
        while True:
            try:
                for entry in await self._queue.beat(self._taken.values()):
                    if self._taken.get(entry.turn_id) == entry:
                        await self._keep(entry.turn_id)
                if not self._taken:
                    await self._link.run("PING")
            except RedisDown:
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:
                await self._refused("beat", error)
            else:
                await asyncio.sleep(self._lease_seconds / 4)

    async def _keep(self, turn_id: str) -> None:
        """Have an entry for a turn whose own Redis has lost. If the turn is not this node's any more, who gets the new
        entry finds out what has become of it."""
        entry = await self._queue.keep(turn_id)
        old = self._taken.get(turn_id)
        if old is not None and old != entry:  # Redis may know both: the old one would be overdue in a lease
            await self._queue.done(old)
        if turn_id in self._taken:
            self._taken[turn_id] = entry
        else:
            await self._queue.give_back(entry)

    async def _take_over(self) -> None:
        while not self._local.draining:
            await asyncio.sleep(min(TAKEOVER_SECONDS, self._lease_seconds / 8))
            up_since = self._link.up_since
            if up_since is None or time.monotonic() - up_since < GRACE_SECONDS or self._apart or self._local.draining:
                continue
            try:
                for entry in await self._queue.overdue(round(self._lease_seconds * 1000)):
                    self._begin(entry, overdue=True)
            except RedisDown:
                pass
            except Exception as error:
                await self._refused("take over", error)

    async def _refused(self, what: str, error: Exception) -> None:
        """Redis refuses: perhaps it will when an operator has looked. Whatever it is, no loop ends for it."""
        if isinstance(error, ResponseError):
            _log.error("queue_refused", loop=what, reason=str(error).partition(" ")[0])
        else:
            _log.error("queue_failed", loop=what, exc_info=error)
        await asyncio.sleep(REFUSED_SECONDS)

    # The end.

    async def drain(self, seconds: float) -> None:
        """As in `Runner`."""
        self._local.draining = True
        until = time.monotonic() + seconds
        await self._stop_taking()
        if self._handling:  # each with its turn, also one that is claimed and has not begun
            await asyncio.wait(set(self._handling), timeout=max(until - time.monotonic(), 0))
        await self._local.drain(0)
        if self._handling:
            await asyncio.wait(set(self._handling), timeout=SETTLING_SECONDS)

    async def _stop_taking(self) -> None:
        """A turn that this node is just being given is given back; one that it does not hear of waits a lease."""
        self._fewer.set()
        taking = self._loops.get("take turns")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOPPING_SECONDS):
                while taking is not None and not taking.done():
                    if self._reader is not None:
                        await self._reader.interrupt()
                    await asyncio.wait({taking}, timeout=0.1)

    async def __aenter__(self) -> Self:
        loops = {"beat": self._beat()}
        if self._takes_turns:
            loops |= {"take turns": self._take(), "take over": self._take_over()}
        self._loops = await self._begun.enter_async_context(running(loops))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)
        for task in self._handling:
            task.cancel()
        await asyncio.gather(*self._handling, return_exceptions=True)
        await self._begun.aclose()
