"""A bounded set of live agents, one per thread: the least recently used idle one makes room for the next."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, Protocol, TypeVar

from providers.errors import ProviderError

__all__ = ["Pool", "Resident"]


class Resident(Protocol):
    """What a pool keeps between turns."""

    @property
    def alive(self) -> bool:
        """Whether it can serve another turn."""

    async def close(self) -> None:
        """End it. Called once; must end within seconds and must not raise but `CancelledError`."""


R = TypeVar("R", bound=Resident)


class _Place(Generic[R]):
    """One of the pool's places. `busy` while a turn has it, or while its resident is being made or closed."""

    __slots__ = ("busy", "idle_since", "resident")

    def __init__(self) -> None:
        self.busy = True
        self.resident: R | None = None
        self.idle_since = 0.0
        """On the event loop's clock."""


class Pool(Generic[R]):
    """At most `most` residents live at any time, those being started and stopped included.

    One that has been idle for `idle_seconds` is closed; with 0 none outlives its turn.
    """

    def __init__(self, most: int, *, idle_seconds: float) -> None:
        if most < 1:
            raise ValueError("a pool needs at least one place")
        self._most = most
        self._idle_seconds = idle_seconds
        self._reaping: asyncio.Task[None] | None = None
        self._places: OrderedDict[Hashable, _Place[R]] = OrderedDict()
        self._waiting: list[asyncio.Future[None]] = []
        self._closed = False

    def __len__(self) -> int:
        return len(self._places)

    async def acquire(self, key: Hashable, make: Callable[[], Awaitable[R]], *, seconds: float) -> R:
        """The resident of `key`, made if there is none; the caller must `release` it.

        Raises:
            ProviderError: `overloaded`, no place became free within `seconds`. Or what `make` raises.
        """
        try:
            async with asyncio.timeout(seconds):
                place = await self._take(key)
        except TimeoutError:
            raise ProviderError(
                "overloaded",
                "All of this agent's processes are at work for other conversations.",
                retryable=True,
                refused=True,
            ) from None
        if place.resident is not None:
            if place.resident.alive:
                return place.resident
            try:
                await place.resident.close()
            except BaseException:
                self._give_up(key)
                raise
        try:
            place.resident = await make()
        except BaseException:
            self._give_up(key)
            raise
        return place.resident

    async def release(self, key: Hashable, *, keep: bool) -> None:
        """Give the resident of `key` back; it is closed unless `keep`, or when the pool is closed already."""
        place = self._places[key]
        resident = place.resident
        if keep and self._idle_seconds > 0 and not self._closed and resident is not None and resident.alive:
            place.busy = False
            place.idle_since = asyncio.get_running_loop().time()
            self._places.move_to_end(key)
            if self._reaping is None or self._reaping.done():
                self._reaping = asyncio.create_task(self._reap(), name="pool reaper")
            self._notify()
            return
        try:
            if resident is not None:
                await resident.close()
        finally:
            self._give_up(key)

    async def close(self) -> None:
        """Close every idle resident and let none come; those at work are closed when they are released."""
        self._closed = True
        if self._reaping is not None:
            self._reaping.cancel()
            await asyncio.gather(self._reaping, return_exceptions=True)
        idle = [(key, place) for key, place in self._places.items() if not place.busy]
        for _, place in idle:
            place.busy = True
        try:
            await asyncio.gather(*(place.resident.close() for _, place in idle if place.resident is not None))
        finally:
            for key, _ in idle:
                self._places.pop(key, None)
            self._notify()

    async def _take(self, key: Hashable) -> _Place[R]:
        """Mark the place of `key` busy, making room for it if need be."""
        while True:
            if self._closed:
                raise ProviderError("overloaded", "The agent is being stopped.", retryable=True, refused=True)
            place = self._places.get(key)
            if place is not None and not place.busy:
                place.busy = True
                self._places.move_to_end(key)
                return place
            if place is None and len(self._places) < self._most:
                place = self._places[key] = _Place()
                return place
            if place is None and (oldest := self._oldest_idle()) is not None:
                # Its place counts until it is gone, so that there are never more than `most`.
                await self._evict(oldest)
                continue
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    def _oldest_idle(self) -> Hashable | None:
        return next((key for key, place in self._places.items() if not place.busy), None)

    async def _evict(self, key: Hashable) -> None:
        place = self._places[key]
        place.busy = True
        try:
            if place.resident is not None:
                await place.resident.close()
        finally:
            self._give_up(key)

    async def _reap(self) -> None:
        """Close who has been idle for too long; ends when nobody is idle."""
        loop = asyncio.get_running_loop()
        while (oldest := self._oldest_idle()) is not None:
            pause = self._places[oldest].idle_since + self._idle_seconds - loop.time()
            if pause > 0:
                await asyncio.sleep(pause)
            else:
                await self._evict(oldest)

    def _give_up(self, key: Hashable) -> None:
        self._places.pop(key, None)
        self._notify()

    def _notify(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()
