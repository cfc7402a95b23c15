"""A SQLite file as a `Database`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine

from gateway.store.base import StoreUnavailable
from gateway.store.engine import READERS, create_file, sqlite_engine, sqlite_url, translated
from gateway.store.migrate import migrate
from gateway.store.writer import Writer

T = TypeVar("T")


def _prepare(url: URL, writing: Engine) -> None:
    create_file(url)
    with translated(), writing.begin() as connection:
        migrate(connection)


def _end(pools: Sequence[ThreadPoolExecutor], *engines: Engine) -> None:
    for pool in pools:
        pool.shutdown(cancel_futures=True)  # reads under way are short
    for engine in engines:
        engine.dispose()  # the last connection to close copies the log into the file


class SqliteDatabase:
    """Writes go one after another through the one writing connection; reads wait for no write."""

    shared = False

    def __init__(
        self, writer: Writer, reading: Engine, readers: ThreadPoolExecutor, searcher: ThreadPoolExecutor
    ) -> None:
        self._writer = writer
        self._reading = reading
        self._readers = readers
        self._searcher = searcher
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[SqliteDatabase]:
        """Make the file (its directory must be there), migrate it, and use it until the block ends.

        Raises:
            ValueError: `url` names no SQLite file.
            StoreUnavailable: it cannot be opened; `DatabaseTooNew` if a newer program wrote it.
        """
        parsed = sqlite_url(url)
        writing, reading = sqlite_engine(parsed, writes=True), sqlite_engine(parsed, writes=False)
        readers = ThreadPoolExecutor(READERS, thread_name_prefix="store-reader")
        searcher = ThreadPoolExecutor(1, thread_name_prefix="store-search")
        try:
            await asyncio.get_running_loop().run_in_executor(readers, _prepare, parsed, writing)
            writer = Writer(writing)
            writer.start()
            database = cls(writer, reading, readers, searcher)
            try:
                yield database
            finally:
                database._closed = True
                await writer.close()
        finally:
            await asyncio.to_thread(_end, (readers, searcher), reading, writing)

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._look(work, self._readers)

    async def search(self, work: Callable[[Connection], T]) -> T:
        return await self._look(work, self._searcher)

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._writer.run(work)

    async def _look(self, work: Callable[[Connection], T], pool: ThreadPoolExecutor) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(pool, self._snapshot, work)

    def _snapshot(self, work: Callable[[Connection], T]) -> T:
        with translated(), self._reading.connect() as connection:
            return work(connection)
