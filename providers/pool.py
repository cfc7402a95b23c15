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

    __slots__ = ("busy", "resident")

    def __init__(self) -> None:
        self.busy = True
        self.resident: R | None = None


class Pool(Generic[R]):
    """At most `most` residents live at any time, those being started and stopped included."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError("a pool needs at least one place")
        self._most = most
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
        if keep and not self._closed and resident is not None and resident.alive:
            place.busy = False
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

    def _give_up(self, key: Hashable) -> None:
        self._places.pop(key, None)
        self._notify()

    def _notify(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()
