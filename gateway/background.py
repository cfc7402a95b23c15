"""Tasks that run beside everything else, owned by a block."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any

import structlog

from gateway.logs import log_failure

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def running(coroutines: Mapping[str, Coroutine[Any, Any, None]]) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    """Run these, by their names, until the block ends. One that fails stops nothing else, but is known at once."""
    tasks = {name: asyncio.create_task(coroutine, name=name) for name, coroutine in coroutines.items()}
    for task in tasks.values():
        task.add_done_callback(log_failure(_log, "background_task_failed", task=task.get_name()))
    try:
        yield tasks
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
