"""SQLAlchemy engines as the store needs them, and what their errors mean."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    DisconnectionError,
    InternalError,
    OperationalError,
)
from sqlalchemy.exc import (
    TimeoutError as PoolTimeout,
)

from gateway.store.base import StoreUnavailable

BUSY_MS = 5_000
"""How long SQLite waits for another process's write before it gives up."""
READERS = 4


def sqlite_url(url: str) -> URL:
    """Raises: ValueError: not the URL of a SQLite file; its text does not repeat the URL."""
    try:
        parsed = make_url(url)
    except Exception:
        raise ValueError("the database URL cannot be read") from None
    if parsed.get_backend_name() != "sqlite":
        raise ValueError("the database URL does not name SQLite")
    if not parsed.database or parsed.database == ":memory:":
        raise ValueError("the database URL names no file")
    return parsed.set(drivername="sqlite+pysqlite")


def create_file(url: URL) -> None:
    """Make the file readable by its owner only; SQLite gives its side files the same mode."""
    if not url.database or url.database.startswith("file:"):
        return
    try:
        os.close(os.open(url.database, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"the database file cannot be opened: {error.strerror}") from error


def sqlite_engine(url: URL, *, writes: bool) -> Engine:
    """One connection that writes, or a few that only read; for use in threads, never in the event loop.

    A whole transaction runs in one thread. Through aiosqlite it takes four hops between threads per statement and
    builds every statement in the event loop: 4.8 ms of the loop's time for one `accept`.

    The writer's transactions begin IMMEDIATE: one that began by reading could not be upgraded once another process
    wrote in between. `synchronous=FULL` makes each commit wait for the disk; in WAL mode, NORMAL
    would lose the last commits with the power (https://www.sqlite.org/pragma.html#pragma_synchronous).
    """
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=1 if writes else READERS + 1,  # and one that searches
        max_overflow=0,
        pool_timeout=BUSY_MS / 1_000,
        pool_reset_on_return="rollback",
        connect_args={"timeout": BUSY_MS / 1_000},
        json_serializer=lambda value: msgspec.json.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    begin = "BEGIN IMMEDIATE" if writes else "BEGIN"

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")
        if writes:
            _use_wal(cursor)
        else:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _use_wal(cursor: Any) -> None:
    """The one statement for which SQLite does not wait by itself while another process makes the same switch."""
    deadline = time.monotonic() + BUSY_MS / 1_000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def unavailable(error: BaseException) -> StoreUnavailable | None:
    """What the store raises in place of an error that says the database does not work; None for other errors."""
    if isinstance(error, (PoolTimeout, DisconnectionError)):
        return StoreUnavailable("no free connection to the database")
    if isinstance(error, DBAPIError) and (
        isinstance(error, (OperationalError, InternalError))
        or type(error) is DatabaseError
        or error.connection_invalidated
    ):
        reason = str(error.orig).partition("\n")[0]
        return StoreUnavailable(f"the database does not work: {reason}")
    return None


@contextmanager
def translated() -> Iterator[None]:
    """Raises `StoreUnavailable` for errors of the database; others pass."""
    try:
        yield
    except Exception as error:
        translation = unavailable(error)
        if translation is None:
            raise
        raise translation from error
