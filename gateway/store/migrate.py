"""Bring a database to the schema of this program: Alembic without `alembic.ini`, from any working directory."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from gateway.store.base import StoreUnavailable

SCRIPTS = Path(__file__).parent / "migrations"
POSTGRES_LOCK = 0x6167656E74  # any number that nothing else in the database locks


class DatabaseTooNew(StoreUnavailable):
    """A newer program has migrated the database to a schema that this one does not know."""

    def __init__(self, revision: str) -> None:
        super().__init__(revision)
        self.revision = revision

    def __str__(self) -> str:
        return (
            f"the database has schema revision {self.revision!r}, which this version of the program does not know: "
            "start the version that wrote it, or restore a backup from before the upgrade"
        )


def migrate(connection: Connection, to: str = "head") -> None:
    """Run the missing steps inside the caller's transaction: all of them or none.

    Processes that start together wait for each other: SQLite's transaction was begun IMMEDIATE, Postgres
    takes a lock here.

    Raises:
        DatabaseTooNew: nothing was changed.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRES_LOCK})
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for revision in MigrationContext.configure(connection).get_current_heads():
        if revision not in known:
            raise DatabaseTooNew(revision)
    command.upgrade(config, to)
