"""Postgres as a `Database`, through asyncpg in the event loop.

    slot → connection of the pool → BEGIN → the statements of `work` → COMMIT

SQLAlchemy builds the statements and keeps the pool; transactions are ours, so that it is known at each moment whether
one may have been committed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import msgspec
from sqlalchemy import AdaptedConnection, Connection, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, NullPool

from gateway.store.base import StoreUnavailable
from gateway.store.migrate import migrate
from gateway.store.pgerrors import is_database_error, is_unavailable, is_undone, reason_of, without_values

T = TypeVar("T")

CONNECTIONS = 10
"""At most so many per process."""
SEARCHES = 2
"""At most so many of them search."""
CONNECT_SECONDS = 3.0
CALL_SECONDS = 10.0
"""For a whole call: the wait for its turn, the transaction, and its repetitions."""
WORK_SECONDS = 5.0
"""For the transaction and its repetitions: behind a server that hangs, nobody waits longer."""
MIGRATE_SECONDS = 600.0
"""A step may have to rewrite a large table; other processes wait for it."""
BACKLOG = 2_000
"""At most so many calls wait for a connection; more are refused."""
TRIES = 4
"""Of a transaction that lost a race against another one."""
STATEMENTS = 500
"""Kept prepared on each connection. There are about a hundred, some in several lengths."""
SERVER_SETTINGS = {
    # What a node that has died leaves behind holds no lock longer than this.
    "statement_timeout": "8s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
    "client_connection_check_interval": "1s",
    "jit": "off",  # it takes longer than the statements
    "application_name": "agentline",
}
OURS = frozenset(
    (
        "application_name",
        "connect_timeout",
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "tcp_user_timeout",
    )
)
"""Parameters of libpq about what is decided here: deadlines, the name, no GSSAPI."""
WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def driver_url(url: str) -> str:
    """The URL as asyncpg reads it: libpq's own form, with its parameters (`sslmode`, `target_session_attrs`, …).

    What asyncpg does not know it gives to the server, which refuses it.
    """
    rest, mark, query = url.partition(":")[2].partition("?")
    kept = [one for one in query.split("&") if one.partition("=")[0] not in OURS]
    return f"postgresql:{rest}{mark if kept else ''}{'&'.join(kept)}"


def _engine(url: str, settings: dict[str, str], **pool: Any) -> AsyncEngine:
    """Without the URL: the password is nowhere but in the closure."""

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(driver_url(url), timeout=CONNECT_SECONDS, server_settings=settings)

    def create() -> Any:
        return engine.dialect.loaded_dbapi.connect(async_creator_fn=connect, prepared_statement_cache_size=STATEMENTS)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        creator=create,
        hide_parameters=True,
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        **pool,
    )
    return engine


async def _migrate(url: str) -> None:
    settings = SERVER_SETTINGS | {"statement_timeout": "0", "lock_timeout": "0"}
    engine = _engine(url, settings, poolclass=NullPool)
    try:
        async with asyncio.timeout(MIGRATE_SECONDS), engine.begin() as connection:
            await connection.run_sync(migrate)
    finally:
        await engine.dispose()


class _Doubt:
    """Of one call: whether its transaction may have been committed although nobody said so."""

    def __init__(self) -> None:
        self.committing = False


class PostgresDatabase:
    """A pool of connections, each of which is dropped at the first doubt.

    A connection that the server closed is found by looking, not by asking. One on which a call ran out of time is
    closed at once, and with it, when they are next wanted, all that were open at the time: if the network swallows what
    is sent, each of them would cost such a wait.

    Not through PgBouncer in transaction mode: statements stay prepared on a connection.
    """

    shared = True

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._searches = asyncio.Semaphore(SEARCHES)
        self._waiting = 0
        self._age = 0
        """Connections made before this was last counted up are not used again."""
        self._drivers: set[asyncpg.Connection] = set()
        """Those that are open."""
        self._closed = False
        event.listen(engine.sync_engine, "connect", self._made)
        event.listen(engine.sync_engine, "checkout", self._taken)

    def _made(self, adapted: AdaptedConnection, record: ConnectionPoolEntry) -> None:
        record.info["age"] = self._age
        driver: asyncpg.Connection = adapted.driver_connection
        self._drivers.add(driver)
        driver.add_termination_listener(self._drivers.discard)

    def _taken(self, adapted: AdaptedConnection, record: ConnectionPoolEntry, proxy: object) -> None:
        driver: asyncpg.Connection = adapted.driver_connection
        if record.info["age"] != self._age:
            driver.terminate()
        if driver.is_closed():
            raise DisconnectionError  # the pool makes a new one in its place

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[PostgresDatabase]:
        """Migrate the database, which must be there, and use it until the block ends.

        Raises:
            ValueError: the URL cannot be read.
            StoreUnavailable: it cannot be opened; `DatabaseTooNew` if a newer program wrote it.
        """
        try:
            await asyncio.to_thread(asyncio.run, _migrate(url))  # in a loop of its own: Alembic takes a while
        except ValueError:
            raise ValueError("the database URL cannot be read") from None
        except Exception as error:
            said = error.orig if isinstance(error, DBAPIError) else None
            if said is not None and isinstance(said.__cause__, asyncpg.exceptions.ClientConfigurationError):
                raise ValueError("the database URL cannot be read") from None
            if is_unavailable(error) or is_database_error(error):
                raise StoreUnavailable(reason_of(error)) from None
            raise
        engine = _engine(
            url,
            SERVER_SETTINGS,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_use_lifo=True,
            isolation_level="AUTOCOMMIT",  # says SQLAlchemy; the transactions are begun below
        )
        database = cls(engine)
        try:
            yield database
        finally:
            await database._close()

    async def read(self, work: Callable[[Connection], T]) -> T:
        return await self._call(work, SNAPSHOT)

    async def write(self, work: Callable[[Connection], T]) -> T:
        return await self._call(work, WRITE)

    async def search(self, work: Callable[[Connection], T]) -> T:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._searches.acquire()
        except TimeoutError:
            raise StoreUnavailable("too many searches wait for the database") from None
        try:
            return await self._call(work, SNAPSHOT)
        finally:
            self._searches.release()

    async def _call(self, work: Callable[[Connection], T], begin: str) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed", undone=True)
        if self._waiting >= BACKLOG:
            raise StoreUnavailable("too many calls wait for the database", undone=True)
        self._waiting += 1
        begun = False
        doubt = _Doubt()
        try:
            async with asyncio.timeout(CALL_SECONDS), self._slots:
                begun = True
                async with asyncio.timeout(WORK_SECONDS):
                    return await self._repeated(work, begin, doubt)
        except Exception as error:
            if begun and isinstance(error, TimeoutError):
                self._age += 1
            if is_unavailable(error):
                raise StoreUnavailable(reason_of(error), undone=not doubt.committing) from None
            if is_database_error(error):
                raise without_values(error) from None
            raise
        finally:
            self._waiting -= 1

    async def _repeated(self, work: Callable[[Connection], T], begin: str, doubt: _Doubt) -> T:
        """A transaction that lost a race was undone by the server: it is tried anew."""
        for left in reversed(range(TRIES)):
            try:
                return await self._transaction(work, begin, doubt)
            except Exception as error:
                if not left or not is_undone(error):
                    raise
            await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - to part those that met
        raise AssertionError

    async def _transaction(self, work: Callable[[Connection], T], begin: str, doubt: _Doubt) -> T:
        connection = await self._engine.connect()
        sync = connection.sync_connection
        if sync is None:
            raise AssertionError
        driver: asyncpg.Connection = sync.connection.driver_connection
        at_rest = False
        try:
            await driver.execute(begin)
            try:
                result = await connection.run_sync(work)
            except Exception:
                await driver.execute("ROLLBACK")
                at_rest = True
                raise
            doubt.committing = True
            if await driver.execute("COMMIT") != "COMMIT":
                raise RuntimeError("the transaction was undone")
            at_rest = True
            return result
        finally:
            # Cancelled, out of time, or broken: dropped without waiting, and the server undoes what it began.
            if not at_rest:
                driver.terminate()
                sync.invalidate()
            sync.close()

    async def _close(self) -> None:
        """End once the calls under way have ended, or have run out of time."""
        self._closed = True
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CALL_SECONDS):
                    for _ in range(CONNECTIONS):
                        await self._slots.acquire()
            with suppress(OSError, DBAPIError, asyncpg.PostgresError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await self._engine.dispose()
        finally:
            for driver in list(self._drivers):
                driver.terminate()
