"""Parts of a gateway for tests of one part: a store of its own, and logs in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.eventlog.local import LocalEventLog
from gateway.store.sql import SqlStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqlStore]:
    """An empty database."""
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


@pytest.fixture
def logs(store: SqlStore) -> LocalEventLog:
    return LocalEventLog(store)
