"""What concerns all tests."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.store.sql import SqlStore
from tests.postgres_server import PostgresServer

REAL_PROGRAMS = ("codex", "claude_code", "opencode")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need more than Python: the real program of an agent, a browser, or
    the machine for themselves. Each is a set apart."""
    for item in items:
        if "chromium_path" in getattr(item, "fixturenames", ()):
            item.add_marker("web")
        if any(name in item.nodeid for name in REAL_PROGRAMS):
            item.add_marker("agents")
        if item.nodeid.startswith("tests/cluster/"):
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for all tests of this process. Who stops or freezes one starts one of his own."""
    with PostgresServer() as server:
        server.create_database("template_store")
        with ThreadPoolExecutor(1) as thread:  # here a loop may run already
            thread.submit(asyncio.run, _migrate(server.url("template_store"))).result()
        yield server


async def _migrate(url: str) -> None:
    async with SqlStore.open(url):
        pass


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A database of the test's own, migrated and empty. One that an earlier test has left with its schema intact is
    emptied and used again: making one costs more than most tests."""
    name = _spare.pop() if _spare else f"test_{secrets.token_hex(6)}"
    if name not in _intact:
        postgres_server.create_database(name, "template_store")
        _intact[name] = postgres_server.sql(SCHEMA, database=name)
    yield postgres_server.url(name)
    if postgres_server.sql(END_OTHERS, EMPTY, SCHEMA, database=name).splitlines()[-1] == _intact[name]:
        _spare.append(name)
    else:
        postgres_server.drop_database(name)


_spare: list[str] = []
_intact: dict[str, str] = {}
"""Databases, and what SCHEMA says of each as it was made."""
END_OTHERS = """
    SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
EMPTY = """
    DO $$
    DECLARE name text; used boolean; wanted text[] := '{}';
    BEGIN
        FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
            EXECUTE format('SELECT EXISTS (SELECT FROM %I)', name) INTO used;
            IF used THEN wanted := wanted || quote_ident(name); END IF;
        END LOOP;
        IF cardinality(wanted) > 0 THEN
            EXECUTE 'TRUNCATE ' || array_to_string(wanted, ', ') || ' RESTART IDENTITY CASCADE';
        END IF;
    END $$
"""
SCHEMA = """
    SELECT md5(string_agg(line, ';' ORDER BY line)) FROM (
        SELECT indexdef AS line FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT format('%s %s %s', table_name, column_name, data_type) FROM information_schema.columns
            WHERE table_schema = 'public'
        UNION ALL SELECT version_num FROM alembic_version
    ) AS lines
"""
