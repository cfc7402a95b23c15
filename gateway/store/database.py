"""Where the store's transactions run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from sqlalchemy import Connection

if TYPE_CHECKING:
    from gateway.store.postgres import PostgresDatabase
    from gateway.store.sqlite import SqliteDatabase

T = TypeVar("T")


class Database(Protocol):
    """Each call is one transaction: `work` gets the connection, and nothing that it did stays if it raises.

    `work` may be called again from the beginning, on another connection, if the database undid the first try: it must
    change nothing but the database. Cancelling a call leaves the transaction either committed or undone.

    All raise `StoreUnavailable` when the database does not answer.
    """

    @property
    def shared(self) -> bool:
        """Whether processes on several machines may use it."""
        ...

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Look at one state of the database, in which is all that was committed before."""
        ...

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Return once what `work` did is committed."""
        ...

    async def search(self, work: Callable[[Connection], T]) -> T:
        """A `read` that may look at much: others do not wait behind it."""
        ...


def is_postgres(url: str) -> bool:
    """Whether the URL names Postgres, as people write it."""
    return url.partition(":")[0].partition("+")[0] in ("postgres", "postgresql")


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    """Make and migrate what is missing, and use the database until the block ends.

    Raises:
        ValueError: `url` is of no use; its text does not repeat it.
        StoreUnavailable: it cannot be opened; `DatabaseTooNew` if a newer program wrote it.
    """
    # Only the one that is used is loaded, and beside the event loop: it takes a while.
    load: Callable[[], type[PostgresDatabase | SqliteDatabase]] = _postgres if is_postgres(url) else _sqlite
    kind = await asyncio.to_thread(load)
    async with kind.open(url) as database:
        yield database


def _postgres() -> type[PostgresDatabase]:
    from gateway.store.postgres import PostgresDatabase

    return PostgresDatabase


def _sqlite() -> type[SqliteDatabase]:
    from gateway.store.sqlite import SqliteDatabase

    return SqliteDatabase
