"""The servers that many nodes share."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.cluster.nodes import Cluster
from tests.cluster.upstream import Upstream
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

NewCluster: TypeAlias = Callable[..., Cluster]
"""`Cluster` but for the servers."""
_numbers = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One for all tests of this process; each has a database of its own."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database that nobody else uses."""
    name = f"cluster_{next(_numbers)}"
    url = postgres.create_database(name)
    yield url
    postgres.drop_database(name)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own, which runs."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
def new_cluster(tmp_path: Path, database: str, redis: RedisServer, upstream: Upstream) -> NewCluster:
    """Makes a cluster of nodes that share the test's own servers."""
    return partial(Cluster, tmp_path, database, redis, upstream)
