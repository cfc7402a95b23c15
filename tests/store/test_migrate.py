"""The migrated schema is the one that the statements are written for, from every starting point."""

import asyncio
import re
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from gateway.store.engine import sqlite_engine, sqlite_url
from gateway.store.migrate import SCRIPTS, DatabaseTooNew, migrate
from gateway.store.sql import SqlStore
from gateway.store.tables import metadata

CLAUSE = re.compile(r"\n|, (?=[a-z_]+ [A-Z])")


def revisions() -> list[str]:
    """Oldest first."""
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


def schema(path: Path) -> dict[str, str]:
    """Tables and indexes as SQLite keeps them, the order of a table's clauses aside."""
    database = sqlite3.connect(path)
    try:
        rows = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'"
        )
        # An added column stands in the line of the one before it.
        return {name: "\n".join(sorted(line.strip(" ,\t") for line in CLAUSE.split(sql))) for name, sql in rows}
    finally:
        database.close()


async def test_the_migrated_schema_equals_the_tables(tmp_path: Path) -> None:
    async with SqlStore.open(f"sqlite:///{tmp_path}/migrated.db"):
        pass
    engine = create_engine(f"sqlite:///{tmp_path}/migrated.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()
    engine = create_engine(f"sqlite:///{tmp_path}/made.db")
    metadata.create_all(engine)
    engine.dispose()
    assert schema(tmp_path / "migrated.db") == schema(tmp_path / "made.db")


@pytest.mark.parametrize("revision", revisions())
async def test_a_database_of_each_older_revision_is_brought_up_to_date(tmp_path: Path, revision: str) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    engine = sqlite_engine(sqlite_url(url), writes=True)
    with engine.begin() as connection:
        migrate(connection, to=revision)
    engine.dispose()
    async with SqlStore.open(url) as store:
        await store.ping()
    engine = create_engine(url)
    with engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_heads() == (revisions()[-1],)
    engine.dispose()


async def test_a_database_of_a_newer_program_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with SqlStore.open(url):
        pass
    database = sqlite3.connect(tmp_path / "store.db")
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.commit()
    with pytest.raises(DatabaseTooNew) as caught:
        async with SqlStore.open(url):
            pass
    assert "'9999'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert database.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    database.close()


async def test_a_migration_that_is_undone_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = sqlite_engine(sqlite_url(f"sqlite:///{tmp_path}/store.db"), writes=True)
    with engine.begin() as connection:
        migrate(connection)
        connection.rollback()
    engine.dispose()
    assert schema(tmp_path / "store.db") == {}


async def test_several_that_open_a_new_database_at_once_all_succeed(tmp_path: Path) -> None:
    async def use(n: int) -> None:
        async with SqlStore.open(f"sqlite:///{tmp_path}/{n}.db") as store:
            await store.ping()

    async with asyncio.timeout(30):
        for n in range(5):
            await asyncio.gather(*(use(n) for _ in range(6)))


async def test_opening_needs_no_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    async with SqlStore.open(f"sqlite:///{tmp_path}/100%.db") as store:
        await store.ping()
    assert not list((tmp_path / "elsewhere").iterdir())
