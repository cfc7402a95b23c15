"""The stores that the contract is held against: one parameter each."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.store.base import Store
from gateway.store.sql import SqlStore


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    async with SqlStore.open(store_url) as store:
        yield store
