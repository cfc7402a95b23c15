"""The deadline on every send: one timer for all sockets, not one per frame."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class SendDeadline:
    """Of one sender. `since` is when its present send began, None between two."""

    __slots__ = ("expired", "scope", "since")

    def __init__(self, scope: asyncio.Timeout) -> None:
        self.scope = scope
        self.since: float | None = None
        self.expired = False


class SendDeadlines:
    """Ends sends whose peer takes nothing for `seconds`. A deadline may pass by a quarter more."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadlines: set[SendDeadline] = set()

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[SendDeadline]:
        """Watch the sends of this block. Raises `TimeoutError` in it when one takes too long."""
        async with asyncio.timeout(None) as scope:
            deadline = SendDeadline(scope)
            self._deadlines.add(deadline)
            try:
                yield deadline
            finally:
                self._deadlines.discard(deadline)

    async def keep(self) -> None:
        """Run until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._seconds / 4))
            now = loop.time()
            for deadline in self._deadlines:
                if deadline.since is not None and now - deadline.since > self._seconds and not deadline.expired:
                    deadline.expired = True
                    deadline.scope.reschedule(now)
