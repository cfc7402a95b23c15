"""Turns on one of many nodes.

    store.accept → queue ──┬─ take ────▶ claim ────▶ LocalRunner ────▶ done
                           └─ overdue ─▶ claim ────▶ interrupted: the node that ran it is dead
    sweeper ───▶ queue     what is in the store and, by somebody's death or Redis', not in the queue

The queue says who should run a turn, and may say it twice. The claim in the store says who does: a turn that somebody
has claimed is never begun again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import msgspec
import structlog
from redis.exceptions import ResponseError

from gateway.clock import now
from gateway.errors import NodeUnavailable, StoreUnavailable
from gateway.eventlog.local import log_of
from gateway.eventlog.log import ThreadLog, until
from gateway.eventlog.stream import key_of
from gateway.eventlog.streamed import StreamedEventLog
from gateway.ids import new_id
from gateway.nodes.control import Control
from gateway.nodes.link import RETRY_SECONDS, Reader, RedisDown, RedisLink
from gateway.nodes.queue import Entry, TurnQueue
from gateway.runner.local import STORE_RETRY_SECONDS, LocalRunner
from gateway.runner.running import RunningTurn
from gateway.runner.sweeper import Sweeper
from gateway.store.base import Store
from gateway.store.records import Accepted, Claim, NewTurn, Turn

TURNS = 1000
"""At the same time on one node. What is beyond waits for another node, or for one to end."""
TAKEN_AT_ONCE = 32
GRACE_SECONDS = 1.5
"""After an outage of Redis, before anything is taken over: those who live say so first."""
TAKEOVER_SECONDS = 0.5
"""Between two looks for turns whose node is dead, at most; less where the lease is short."""
REFUSED_SECONDS = 1.0
"""Before another try when Redis answers, but refuses."""
ENDING_SECONDS = 15.0
"""How long the end of a turn may take that was told to stop, wherever it runs."""
STOPPING_SECONDS = 1.0
SETTLING_SECONDS = 2.0
"""How long a node that stops tries to tell Redis of the turns that it has ended. Else another node finds out."""

_log = structlog.get_logger(__name__)


class NodeRunner:
    """See `Runner`. `async with` it: leaving stops what still runs here; what waits is left to other nodes."""

    def __init__(
        self,
        local: LocalRunner,
        store: Store,
        logs: StreamedEventLog,
        link: RedisLink,
        control: Control,
        lease_seconds: float,
        takes_turns: bool,
    ) -> None:
        """`takes_turns`: whether turns run on this node at all."""
        self._local = local
        self._store = store
        self._logs = logs
        self._link = link
        self._control = control
        self._queue = TurnQueue(link)
        self._lease_seconds = lease_seconds
        self._takes_turns = takes_turns
        self._taken: dict[str, Entry] = {}
        """Turns that are this node's, from their entry in the queue to its end."""
        self._handling: set[asyncio.Task[None]] = set()
        self._fewer = asyncio.Event()
        self._apart = False
        """The store did not answer the last claim. Until it answers again, nothing more is taken."""
        self._sweeper = Sweeper(store, self._queue, link, self._show_cancelled_at_rest, self._cancel)
        self._taking: asyncio.Task[None] | None = None
        self._reader: Reader | None = None
        """That of `_taking`."""
        self._loops: list[asyncio.Task[None]] = []
        local.start_following = self.start
        logs.on_lost = self._lost
        control.on("cancel", self._asked_to_cancel)
        control.on("cancelled", self._asked_to_show)
        control.on("forget", self._asked_to_forget)

    @property
    def draining(self) -> bool:
        return self._local.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._local.draining = draining

    @property
    def count(self) -> int:
        return self._local.count

    @property
    def stuck(self) -> int:
        return self._local.stuck

    @property
    def _has_room(self) -> bool:
        return self._takes_turns and not self.draining and not self._apart and len(self._taken) < TURNS

    def in_thread(self, thread_key: int) -> RunningTurn | None:
        return self._local.in_thread(thread_key)

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

    def _handled(self, task: asyncio.Task[None]) -> None:
        self._handling.discard(task)
        self._fewer.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("turn_task_failed", task=task.get_name(), exc_info=error)

    async def _handle(self, turn_id: str, overdue: bool) -> None:
        """Everything about one entry of the queue. If this ends without `done`, the entry is overdue in a lease."""
        attempt = new_id("a")
        left: Entry | None = None
        try:
            try:
                claim = await self._claim(turn_id, attempt)
            except StoreUnavailable:  # or the queue gave it while this node was about to stop asking
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
        while not self.draining or doubt:
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

    def _lost(self, log: ThreadLog) -> None:
        if isinstance(log.running, RunningTurn):  # not the thread's next one, which may wait here for its end
            log.running.stop("interrupted")

    # What people ask for.

    async def cancel_running(self, thread_key: int, turn_id: str | None) -> None:
        for turn in await self._store.ask_cancel(thread_key, turn_id):
            if turn.attempt is not None or turn.turn_id in self._taken:
                await self._cancel(turn.turn_id)

    async def _cancel(self, turn_id: str) -> None:
        """Have the node that runs the turn stop it. The store knows that it shall: the sweeper repeats it until then.

        Raises: `NodeUnavailable`.
        """
        if turn_id in self._taken:
            self._local.stop(turn_id)
        elif self._link.up:
            await self._control.tell("cancel", turn_id=turn_id)
        else:
            raise NodeUnavailable

    async def _asked_to_cancel(self, asked: dict[str, Any]) -> None:
        if asked["turn_id"] in self._taken:
            self._local.stop(asked["turn_id"])

    async def show_cancelled(self, thread_key: int) -> None:
        if self._local.in_thread(thread_key) is not None:
            await self._local.show_cancelled(thread_key)
        elif not await self._show_cancelled_at_rest(thread_key):
            await self._control.tell("cancelled", thread_key=thread_key)

    async def _asked_to_show(self, asked: dict[str, Any]) -> None:
        if self._local.in_thread(asked["thread_key"]) is not None:
            await self._local.show_cancelled(asked["thread_key"])

    async def _show_cancelled_at_rest(self, thread_key: int) -> bool:
        """False if a turn runs in the thread: its node shows it, or the node that will run it."""
        thread = await self._store.thread_by_key(thread_key)
        if thread is None:
            return True
        log = log_of(thread)
        unshown = await self._store.unshown(thread_key)
        if not unshown:
            return True
        events = self._local.cancelled_events(log, unshown)
        checkpoint = self._logs.pending(log, events, shown=[turn.turn_id for turn in unshown])
        if not await self._store.append_at_rest(checkpoint):
            return False
        with contextlib.suppress(RedisDown):
            await self._logs.nudge(msgspec.structs.replace(thread, head=thread.head + len(events)))
        return True

    async def steer_elsewhere(self, new: NewTurn) -> Accepted | None:
        thread = await self._store.thread(new.user_id, new.thread_id)
        turns = [] if thread is None else await self._store.open_turns(thread.key)
        if not any(turn.status == "running" and turn.attempt is not None for turn in turns):
            return None
        try:
            answer = await self._control.ask("steer", new=msgspec.to_builtins(new))
        except ValueError:  # too long to be told: it waits for a turn of its own
            return None
        return msgspec.convert(answer["accepted"], Accepted | None)

    async def end_of(self, thread_key: int) -> None:
        try:
            async with asyncio.timeout(ENDING_SECONDS), self._logs.held(thread_key) as log:
                while True:
                    mark = log.turns_started
                    if not any(turn.status == "running" for turn in await self._store.open_turns(thread_key)):
                        return
                    await until(log, lambda: log.turns_started != mark)  # noqa: B023 - awaited at once
        except TimeoutError:
            raise NodeUnavailable from None

    async def forget_thread(self, thread_key: int) -> None:
        await self._local.forget_thread(thread_key)
        await self._control.tell("forget", thread_key=thread_key)
        with contextlib.suppress(RedisDown):  # then it expires
            await self._link.run("DEL", key_of(thread_key))

    async def _asked_to_forget(self, asked: dict[str, Any]) -> None:
        await self._local.forget_thread(asked["thread_key"])

    # The loops of a node.

    async def _take(self) -> None:
        async with self._link.reader() as reader:
            self._reader = reader
            while not self.draining:
                try:
                    if self._apart:
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
        """Have an entry for a turn whose own Redis has lost. If the turn has ended meanwhile, so has the new entry."""
        entry = await self._queue.keep(turn_id)
        old = self._taken.get(turn_id)
        if old not in (None, entry):  # Redis may know both: the old one would be overdue in a lease
            await self._queue.done(old)
        if turn_id in self._taken:
            self._taken[turn_id] = entry
        else:
            await self._queue.done(entry)

    async def _refused(self, what: str, error: Exception) -> None:
        """Redis refuses: perhaps it will when an operator has looked. Whatever it is, no loop ends for it."""
        if isinstance(error, ResponseError):
            _log.error("queue_refused", loop=what, reason=str(error).partition(" ")[0])
        else:
            _log.error("queue_failed", loop=what, exc_info=error)
        await asyncio.sleep(REFUSED_SECONDS)

    async def _take_over(self) -> None:
        while not self.draining:
            await asyncio.sleep(min(TAKEOVER_SECONDS, self._lease_seconds / 8))
            up_since = self._link.up_since
            if up_since is None or time.monotonic() - up_since < GRACE_SECONDS or self._apart or self.draining:
                continue
            try:
                for entry in await self._queue.overdue(round(self._lease_seconds * 1000)):
                    self._begin(entry, overdue=True)
            except RedisDown:
                pass
            except Exception as error:
                await self._refused("take over", error)

    async def drain(self, seconds: float) -> None:
        self.draining = True
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOPPING_SECONDS):
                while self._taking is not None and not self._taking.done():
                    if self._reader is not None:
                        await self._reader.interrupt()
                    await asyncio.wait({self._taking}, timeout=0.1)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        loops = [("beat", self._beat()), ("sweep", self._sweeper.run())]
        if self._takes_turns:
            self._taking = loop.create_task(self._take(), name="take turns")
            loops.append(("take over", self._take_over()))
        self._loops = [loop.create_task(coroutine, name=name) for name, coroutine in loops]
        for task in (self._taking, *self._loops):
            if task is not None:
                task.add_done_callback(_log_failure)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain(0)
        await self._local.__aexit__(None, None, None)
        tasks = [task for task in (self._taking, *self._loops, *self._handling) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    """Nothing awaits these loops while the node runs: if one fails, that must not stay unknown until the end."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("node_loop_failed", loop=task.get_name(), exc_info=error)
