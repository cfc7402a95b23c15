"""What errors of Postgres, of asyncpg and of the network mean to the store."""

from __future__ import annotations

from typing import TypeGuard

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout

LOST_RACES = {"40001", "40P01"}
"""serialization_failure, deadlock_detected (https://www.postgresql.org/docs/current/errcodes-appendix.html)"""
UNIQUE_VIOLATION = "23505"
"""Somebody else inserted the row since we looked for it: a new try sees it."""
CLASSES = ("08", "28", "3D", "53", "57", "58", "F0", "XX")
"""Connection, authorization, no such database, resources, the operator (statement_timeout), system, files, internal."""
SINGLE = {"25006", "25P03", "25P04", "55P03"}
"""Read-only (a standby), transaction idle or open too long, lock_timeout."""


def state_of(error: BaseException) -> str:
    """The SQLSTATE; empty where there is none."""
    if isinstance(error, DBAPIError):
        return getattr(error.orig, "sqlstate", None) or ""
    return (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""


def is_undone(error: BaseException) -> bool:
    """Whether the server undid the transaction because of another one, and a new try may succeed."""
    return (state := state_of(error)) in LOST_RACES or state == UNIQUE_VIOLATION


def is_unavailable(error: BaseException) -> bool:
    """Whether the database does not answer, or not to us, or refuses to work."""
    if state := state_of(error):
        return state.startswith(CLASSES) or state in SINGLE or state in LOST_RACES
    if isinstance(error, DBAPIError):
        return isinstance(error, InterfaceError) or error.connection_invalidated
    # TimeoutError is an OSError. The driver's errors: the connection is closed, or was in the middle of something.
    return isinstance(error, OSError | PoolTimeout | DisconnectionError | asyncpg.InterfaceError | EOFError)


def reason_of(error: BaseException) -> str:
    """For the operator, in one line. No URL and no value is in it."""
    if isinstance(error, TimeoutError) and not error.strerror:
        return "the database does not answer in time"
    if isinstance(error, OSError):
        return f"the database cannot be reached: {error.strerror or type(error).__name__}"
    said = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"the database does not work: {str(said).partition(chr(10))[0].rpartition('>: ')[2]}"


def without_values(error: DBAPIError | asyncpg.PostgresError) -> Exception:
    """The error, without what its DETAIL or the driver's own words say of the values."""
    if (state := state_of(error)).startswith("22"):
        return ValueError(f"the database takes no such value (SQLSTATE {state})")
    if isinstance(error, DBAPIError) and error.orig is not None:
        error.orig.__cause__ = error.orig.__context__ = None
    return error


def is_database_error(error: BaseException) -> TypeGuard[DBAPIError | asyncpg.PostgresError]:
    return isinstance(error, DBAPIError | asyncpg.PostgresError)
