"""Holding a context for a generator that may be closed or cancelled at any moment.

What a generator does in its own `finally` ends when it is cancelled a second time. So a task of the provider's
own enters the context, waits, and leaves it: the generator waits for that, and if it may wait no longer, the
leaving goes on without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

from providers.codex.errors import disconnected

__all__ = ["Lease", "Leases"]

T = TypeVar("T")
log = logging.getLogger(__name__)


class Lease(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value
        self.before_leaving: Callable[[], Awaitable[None]] | None = None
        """Runs in the owning task, with the context still open."""


class Leases:
    """Owns the tasks; `end` before the task group ends."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._owners: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def hold(self, context: contextlib.AbstractAsyncContextManager[T]) -> AsyncIterator[Lease[T]]:
        """Enter `context` in a task of its own; what entering raises is raised here."""
        entered: asyncio.Future[Lease[T]] = asyncio.get_running_loop().create_future()
        leave = asyncio.Event()
        owner = self._group.create_task(_own(context, entered, leave))
        self._owners.add(owner)
        owner.add_done_callback(self._owners.discard)
        try:
            yield await asyncio.shield(entered)
        finally:
            leave.set()
            if not entered.done():
                owner.cancel()
            await asyncio.wait((owner,))

    async def end(self) -> None:
        for owner in tuple(self._owners):
            owner.cancel()
        if self._owners:
            await asyncio.wait(tuple(self._owners))


async def _own(
    context: contextlib.AbstractAsyncContextManager[T], entered: asyncio.Future[Lease[T]], leave: asyncio.Event
) -> None:
    """Raises nothing but CancelledError: a failure here must not end the other turns."""
    try:
        async with context as value:
            lease = Lease(value)
            if not entered.cancelled():
                entered.set_result(lease)
            try:
                await leave.wait()
            finally:
                if lease.before_leaving is not None:
                    await lease.before_leaving()
    except Exception as error:
        if entered.done():
            log.error("codex: leaving a thread failed: %s", type(error).__name__)
        else:
            entered.set_exception(error)
            entered.exception()  # seen, also if nobody waits any more
    finally:
        if not entered.done():
            entered.set_exception(disconnected())
            entered.exception()
