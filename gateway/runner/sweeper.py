"""Finds what is in the store and should be in the queue, but is not: somebody died, or Redis did, or forgot.

One node sweeps at a time; that two do is no harm, for a turn is queued once however often it is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog
from redis.exceptions import ResponseError

from gateway.clock import now
from gateway.errors import NodeUnavailable, StoreUnavailable
from gateway.nodes.link import RETRY_SECONDS, RedisDown, RedisLink
from gateway.nodes.queue import TurnQueue
from gateway.store.base import Store

SWEEP_SECONDS = 1.0
RARELY = 10
"""Every so many sweeps what is claimed is looked at as well, which is queued unless Redis has lost it."""
EVER = 2**62
"""A time that no node's clock has reached."""
TURNS_AT_ONCE = 1000
TURNS_IN_ALL = 20_000
"""More than all nodes run at the same time."""
SWEEPER = "{agentline}:sweeper"

_RESIGN = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end return 1"

_log = structlog.get_logger(__name__)


class Sweeper:
    """Run it on every node."""

    def __init__(
        self,
        store: Store,
        queue: TurnQueue,
        link: RedisLink,
        show_cancelled: Callable[[int], Awaitable[bool]],
        cancel: Callable[[str], Awaitable[None]],
    ) -> None:
        self._store = store
        self._queue = queue
        self._link = link
        self._show_cancelled = show_cancelled
        self._cancel = cancel
        self._unclaimed: set[str] = set()
        """At the last sweep. One that was not is perhaps just being queued by whoever accepted it; that is not
        told by times, for nodes' clocks differ."""

    async def run(self) -> None:
        """Run until cancelled."""
        count = 0
        while True:
            try:
                if await self._elected():
                    await self.sweep(thorough=count % RARELY == 0)
                    count += 1
                else:
                    count = 0
            except RedisDown:
                count = 0  # it may have lost something: look thoroughly once it is back
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except StoreUnavailable as error:
                _log.warning("not_swept", reason=str(error))
                await self._resign()
            except (NodeUnavailable, ResponseError) as error:
                _log.warning("not_swept", reason=str(error))
            except Exception:  # whatever it is, what can be swept is swept
                _log.exception("sweep_failed")
            await asyncio.sleep(SWEEP_SECONDS)

    async def _elected(self) -> bool:
        """Whether this node is the one that sweeps; it stays so while it does."""
        until = round(SWEEP_SECONDS * 3000)
        if await self._link.run("SET", SWEEPER, self._link.node_id, "NX", "PX", until) is not None:
            return True
        if await self._link.run("GET", SWEEPER) != self._link.node_id.encode():
            return False
        await self._link.run("PEXPIRE", SWEEPER, until)
        return True

    async def _resign(self) -> None:
        """Let another node sweep: perhaps this one alone does not reach the store."""
        with contextlib.suppress(RedisDown, ResponseError):
            await self._link.run("EVAL", _RESIGN, 1, SWEEPER, self._link.node_id)

    async def sweep(self, *, thorough: bool) -> None:
        """Queue what nobody runs. Raises `RedisDown`, `StoreUnavailable`."""
        unclaimed = await self._store.unclaimed(EVER, TURNS_AT_ONCE)
        await self._queue.enqueue(unclaimed if thorough else [turn for turn in unclaimed if turn in self._unclaimed])
        self._unclaimed = set(unclaimed)
        for thread in await self._store.waiting():
            following = await self._store.start_next(thread.key, now())
            if following is not None:
                await self._queue.enqueue([following.turn_id])
        for thread_key in await self._store.with_unshown():
            await self._show_cancelled(thread_key)
        for turn_id in await self._store.cancel_asked(TURNS_AT_ONCE):
            await self._cancel(turn_id)  # again: whoever runs it may not have heard
        if thorough:
            await self._queue.enqueue(await self._store.claimed(TURNS_IN_ALL))
            await self._queue.forget_nodes()
