"""A Postgres, a Redis, an upstream and nodes on this machine, and what each of them has used."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.processes import process, upstream
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

HEADERS = {"Authorization": "Bearer bench"}
PATH = "/api/claude/ws"
_numbers = itertools.count()


@dataclass(frozen=True, slots=True)
class Node:
    pid: int
    host: str

    @property
    def port(self) -> int:
        return int(self.host.partition(":")[2])

    @property
    def memory(self) -> int:
        """Bytes that it has in memory now."""
        return int(psutil.Process(self.pid).memory_info().rss)


def cpu_of(pid: int) -> float:
    """Seconds that a process, its children and those of them that have ended have used so far."""
    first = psutil.Process(pid)
    own = first.cpu_times()
    used = own.user + own.system + own.children_user + own.children_system
    for child in first.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            used += times.user + times.system
    return float(used)


@contextlib.contextmanager
def gateway(upstream_url: str, **settings: str) -> Iterator[Node]:
    """A gateway with these settings, which calls that upstream; on SQLite if none of them says otherwise."""
    with tempfile.TemporaryDirectory() as state:
        environment = {
            "ANTHROPIC_BASE_URL": upstream_url,
            "ANTHROPIC_API_KEY": "bench",
            "AGENTLINE_STATE_DIR": state,
            "AGENTLINE_AUTH__TOKENS": '{"bench": "bench"}',
            "AGENTLINE_LOG_LEVEL": "warning",
            "AGENTLINE_AGENTS": '{"codex": null}',
            **{f"AGENTLINE_{name}": value for name, value in settings.items()},
        }
        with process(["-m", "gateway", "serve", "--port", "0"], environment) as (pid, url):
            yield Node(pid, url.removeprefix("http://"))


@dataclass(frozen=True, slots=True)
class Servers:
    """What the nodes share."""

    postgres: PostgresServer
    redis: RedisServer
    upstream_url: str
    database: str

    def node(self, **settings: str) -> contextlib.AbstractContextManager[Node]:
        """One more node."""
        shared = {"DATABASE_URL": self.postgres.url(self.database), "REDIS_URL": self.redis.url}
        return gateway(self.upstream_url, **shared, **settings)

    def alone(self, **settings: str) -> contextlib.AbstractContextManager[Node]:
        """A gateway on SQLite that calls the same upstream."""
        return gateway(self.upstream_url, **settings)

    def redis_info(self, section: str) -> dict[str, str]:
        said = self.redis.command("INFO", section)
        assert isinstance(said, bytes)
        lines = (line.partition(":") for line in said.decode().splitlines() if ":" in line)
        return {name: value for name, _, value in lines}

    def redis_calls(self) -> dict[str, int]:
        """Commands so far by name; those that scripts called among them."""
        stats = self.redis_info("commandstats")
        return {
            name.removeprefix("cmdstat_"): int(said.partition("calls=")[2].partition(",")[0])
            for name, said in stats.items()
        }

    def wal(self) -> int:
        """Bytes that Postgres has written to its log."""
        return int(self.postgres.sql("SELECT pg_current_wal_lsn() - '0/0'", database=self.database).partition(".")[0])


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """A Postgres and a Redis that keep what they have answered for (fsync, an append-only file), and an upstream."""
    with (
        tempfile.TemporaryDirectory() as folder,
        PostgresServer(durable=True) as postgres,
        RedisServer(Path(folder)) as redis,
        upstream() as upstream_url,
    ):
        name = f"bench_{next(_numbers)}"
        postgres.create_database(name)
        yield Servers(postgres, redis, upstream_url, name)


class Meter:
    """CPU by name: of nodes, and of the servers."""

    def __init__(self, shared: Servers, nodes: Mapping[str, Node]) -> None:
        self._pids = {name: node.pid for name, node in nodes.items()}
        self._pids |= {"Redis": shared.redis.pid, "Postgres": shared.postgres.pid}
        self._begin: dict[str, float] = {}
        self.begin()

    def _now(self) -> dict[str, float]:
        return {name: cpu_of(pid) for name, pid in self._pids.items()}

    def begin(self) -> None:
        self._begin = self._now()

    def used(self) -> dict[str, float]:
        """Seconds since `begin`."""
        return {name: used - self._begin[name] for name, used in self._now().items()}
