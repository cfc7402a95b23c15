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
    """Mark the tests that need more than Python: the real program of an agent, a browser. Each is a set apart."""
    for item in items:
        if "chromium_path" in getattr(item, "fixturenames", ()):
            item.add_marker("web")
        if any(name in item.nodeid for name in REAL_PROGRAMS):
            item.add_marker("agents")


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
    """A database of the test's own, migrated and empty."""
    name = f"test_{secrets.token_hex(6)}"
    yield postgres_server.create_database(name, "template_store")
    postgres_server.drop_database(name)
