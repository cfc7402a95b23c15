"""The time between the wish to stop and the stop: the listeners still accept, and the application says its goodbyes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias

import structlog

__all__ = ["Drain", "DrainResult", "drain_within"]

Drain: TypeAlias = Callable[[], Awaitable[None]]
"""Makes `ready` answer 503, says goodbye, waits for running turns. It keeps a deadline of its own, `drain_seconds`."""

DrainResult: TypeAlias = Literal["drained", "forced", "timeout", "failed"]

_GIVE_UP_SECONDS = 2.0

log = structlog.get_logger(__name__)


async def drain_within(drain: Drain, seconds: float, forced: asyncio.Event) -> DrainResult:
    """Run `drain` until it is done, `seconds` have passed or `forced` is set, whichever comes first.

    A drain that is cut short is cancelled and gets two seconds to clean up. What it raises is logged and does not
    stop the shutdown. Cancelling this cancels the drain.
    """
    draining = asyncio.ensure_future(drain())
    forcing = asyncio.create_task(forced.wait(), name="drain-forced")
    try:
        await asyncio.wait((draining, forcing), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            draining.cancel()
            await asyncio.wait((draining,), timeout=_GIVE_UP_SECONDS)
            return "forced" if forced.is_set() else "timeout"
    finally:
        draining.cancel()
        forcing.cancel()
    if draining.cancelled():
        return "failed"
    if (error := draining.exception()) is not None:
        log.error("drain_failed", exc_info=error)
        return "failed"
    return "drained"
