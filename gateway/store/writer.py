"""The one writer of a SQLite file: what is asked for while it waits for the disk is committed together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine

from gateway.store.base import StoreUnavailable
from gateway.store.engine import translated, unavailable

T = TypeVar("T")

TOGETHER = 64
"""At most so many calls in one commit."""
BACKLOG = 10_000
"""At most so many calls wait; more are refused."""


@dataclass(slots=True, eq=False)
class _Job:
    work: Callable[[Connection], Any]
    done: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None

    def settle(self, failure: Exception | None) -> None:
        if self.done.done():  # its caller was cancelled
            return
        if failure is not None:
            again = type(failure)(*failure.args) if isinstance(failure, StoreUnavailable) else failure
            again.__cause__ = failure if again is not failure else failure.__cause__
            self.done.set_exception(again)  # its own object, because several tasks raise it
        elif self.error is not None:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(self.result)


class Writer:
    """Owns the writing connection through one thread and one task, made by `start` and ended by `close`.

    Every call is its own savepoint: one that raises undoes itself alone, and nobody is told of success before the
    common commit. With `synchronous=FULL` a commit costs a disk flush, whose price the calls share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._jobs: deque[_Job] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="store-writer")

    async def close(self) -> None:
        """Finish what was asked for, then stop; later calls raise `StoreUnavailable`."""
        self._closed = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Call `work` in a transaction and commit it.

        Cancelled while it waits its turn: nothing happens. Later: it may be committed all the same, never in part.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if len(self._jobs) >= BACKLOG:
            raise StoreUnavailable("too much waits to be written")
        job = _Job(work, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        self._wake.set()
        result: T = await job.done
        return result

    async def _run(self) -> None:
        batch: list[_Job] = []
        try:
            while True:
                while not self._jobs:
                    if self._closed:
                        return
                    self._wake.clear()
                    await self._wake.wait()
                batch = []
                while self._jobs and len(batch) < TOGETHER:
                    job = self._jobs.popleft()
                    if not job.done.done():
                        batch.append(job)
                if batch:
                    await self._commit(batch)
        finally:  # reached with work left only when this task is cancelled or broken
            self._closed = True
            for job in (*batch, *self._jobs):
                job.settle(StoreUnavailable("the store was closed"))
            self._jobs.clear()
            self._thread.shutdown(wait=False)  # idle, but for a batch that this task was cancelled in

    async def _commit(self, batch: list[_Job]) -> None:
        failure: Exception | None = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._attempt, batch)
        except Exception as error:
            failure = error
        for job in batch:
            job.settle(failure)

    def _attempt(self, batch: list[_Job]) -> None:
        with translated(), self._engine.begin() as connection:
            for job in batch:
                try:
                    with connection.begin_nested():
                        job.result = job.work(connection)
                except Exception as error:
                    if unavailable(error) is not None:
                        raise  # the whole transaction is lost
                    job.error = error
