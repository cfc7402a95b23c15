"""Ending something properly although whoever waits for it may be cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["to_the_end"]


async def to_the_end(work: Coroutine[Any, Any, None], *, hurry: Callable[[], None] | None = None) -> None:
    """Do `work` to its end, however often the caller is cancelled meanwhile, and only then let the cancellation pass.

    `work` must end by itself within a bounded time. `hurry` is called at each cancellation, to make that sooner.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
            if hurry is not None:
                hurry()
    if cancelled is not None:
        raise cancelled
    task.result()
