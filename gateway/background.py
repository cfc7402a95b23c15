"""Tasks that run beside everything else, owned by a block."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import structlog

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def running(coroutines: Mapping[str, Coroutine[Any, Any, None]]) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    """Run these, by their names, until the block ends. One that fails stops nothing else, but is known at once."""
    tasks = {name: asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()}
    for task in tasks.values():
        task.add_done_callback(_log_failure)
    try:
        yield tasks
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("background_task_failed", task=task.get_name(), exc_info=error)
