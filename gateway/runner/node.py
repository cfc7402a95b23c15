"""Turns on one of many nodes: what people ask for reaches the turn wherever it runs.

store.accept → queue ────▶ Consumer      of some node, perhaps of this one
sweeper ─────▶ queue                     what is in the store and, by somebody's death or Redis', not in the queue
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

import msgspec

from gateway.background import running
from gateway.errors import NodeUnavailable
from gateway.eventlog.local import log_of
from gateway.eventlog.log import ThreadLog, until
from gateway.eventlog.stream import key_of
from gateway.eventlog.streamed import StreamedEventLog
from gateway.nodes.control import Control
from gateway.nodes.link import RedisDown, RedisLink
from gateway.nodes.queue import TurnQueue
from gateway.runner.consumer import Consumer
from gateway.runner.local import LocalRunner
from gateway.runner.running import RunningTurn
from gateway.runner.sweeper import Sweeper
from gateway.store.base import Store
from gateway.store.records import Accepted, NewTurn, Turn

ENDING_SECONDS = 15.0
"""How long the end of a turn may take that was told to stop, wherever it runs."""


class NodeRunner:
    """See `Runner`. `async with` it: leaving stops what still runs here; what waits is left to other nodes."""

    def __init__(
        self,
        local: LocalRunner,
        consumer: Consumer,
        queue: TurnQueue,
        store: Store,
        logs: StreamedEventLog,
        link: RedisLink,
        control: Control,
    ) -> None:
        self._local = local
        self._consumer = consumer
        self._store = store
        self._logs = logs
        self._link = link
        self._control = control
        self._sweeper = Sweeper(store, queue, link, self._show_cancelled_at_rest, self._cancel)
        self._begun = contextlib.AsyncExitStack()
        logs.on_lost = self._lost
        control.on("cancel", self._asked_to_cancel)
        control.on("cancelled", self._asked_to_show)

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

    def in_thread(self, thread_key: int) -> RunningTurn | None:
        return self._local.in_thread(thread_key)

    async def start(self, turn: Turn) -> None:
        await self._consumer.start(turn)

    def _lost(self, log: ThreadLog) -> None:
        if isinstance(log.running, RunningTurn):  # not the thread's next one, which may wait here for its end
            log.running.stop("interrupted")

    async def cancel_running(self, thread_key: int, turn_id: str | None) -> None:
        for turn in await self._store.ask_cancel(thread_key, turn_id):
            if turn.attempt is not None or self._consumer.has(turn.turn_id):
                await self._cancel(turn.turn_id)

    async def _cancel(self, turn_id: str) -> None:
        """Have the node that runs the turn stop it. The store knows that it shall: the sweeper repeats it until then.

        Raises: `NodeUnavailable`.
        """
        if self._consumer.has(turn_id):
            self._local.stop(turn_id)
        elif self._link.up:
            await self._control.tell("cancel", turn_id=turn_id)
        else:
            raise NodeUnavailable

    async def _asked_to_cancel(self, asked: dict[str, Any]) -> None:
        if self._consumer.has(asked["turn_id"]):
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
        self._local.count_cancelled(unshown)
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
        with contextlib.suppress(RedisDown):  # then it expires
            await self._link.run("DEL", key_of(thread_key))

    async def drain(self, seconds: float) -> None:
        await self._consumer.drain(seconds)

    async def __aenter__(self) -> Self:
        await self._begun.enter_async_context(self._local)
        await self._begun.enter_async_context(self._consumer)
        await self._begun.enter_async_context(running({"sweep": self._sweeper.run()}))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._begun.aclose()
