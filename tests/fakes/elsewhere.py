"""A fake in a thread with a loop of its own: the conformance kit counts every task of its loop as the provider's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

__all__ = ["elsewhere"]

T = TypeVar("T")
SECONDS = 10.0


@contextmanager
def elsewhere(fake: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """Run the fake while the body runs. What its end raises, an assertion say, is raised here."""
    started: Future[tuple[T, Callable[[], None]]] = Future()
    ended: Future[None] = Future()

    async def serve() -> None:
        async with fake() as made:
            stop, loop = asyncio.Event(), asyncio.get_running_loop()
            started.set_result((made, lambda: loop.call_soon_threadsafe(stop.set) and None))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as failure:
            ended.set_exception(failure)
        else:
            ended.set_result(None)

    thread = threading.Thread(target=run, name="fake elsewhere")
    thread.start()
    made, stop = started.result(SECONDS)
    try:
        yield made
    finally:
        stop()
        thread.join(SECONDS)
    ended.result(SECONDS)
