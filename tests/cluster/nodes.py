"""Many nodes on one machine: real processes that share a real Postgres and a real Redis.

    async with Cluster(folder, database, redis, upstream, nodes=3) as cluster:
        await cluster.start()
        ... cluster.nodes[0].url ...
        await cluster.nodes[0].kill()

Every node keeps its port, its state directory and its upstream over all its lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tests.cluster.upstream import Upstream
from tests.process import reserved_port
from tests.redis_server import RedisServer
from tests.server import TOKENS, GatewayProcess
from tests.wire import Wire

__all__ = ["LEASE_SECONDS", "Cluster", "Node"]

LEASE_SECONDS = 3.0
"""Shorter than an operator would set it: the tests wait for it often."""
START_SECONDS = 60.0
"""All nodes of a test start at once, each with seconds of imports."""
ALARMS = (
    "application_failed",
    "background_task_failed",
    "control_handler_failed",
    "logs_not_written",
    "notice_not_shown",
    "queue_failed",
    "loop_exception",
    "request_failed",
    "turn_task_failed",
    "unraisable_exception",
)
"""Log lines that must not come, whatever dies."""


class Node(GatewayProcess):
    """One of many. `name` is that of the kit; the process chooses its own at each start."""

    def __init__(
        self,
        name: str,
        folder: Path,
        environment: Mapping[str, Any],
        *,
        worker: bool = False,
        sabotage: str | None = None,
    ) -> None:
        self.name = name
        self.worker = worker
        self._reservation = reserved_port()
        self.port: int = self._reservation.getsockname()[1]
        asked = ("worker",) if worker else ("serve", "--port", str(self.port))
        module = ("-m", "gateway") if sabotage is None else ("-m", "tests.cluster.sabotage", sabotage)
        ready = "running turns" if worker else f"listening on http://127.0.0.1:{self.port}"
        super().__init__(folder / name, environment, (*module, *asked), ready=ready, start_seconds=START_SECONDS)
        self._started = False
        self.wires: tuple[Wire, Wire] | None = None
        """The ways to its Postgres and to its Redis, where the kit was asked to put a proxy there."""

    @property
    def postgres(self) -> Wire:
        assert self.wires is not None, "made without wires"
        return self.wires[0]

    @property
    def redis(self) -> Wire:
        assert self.wires is not None, "made without wires"
        return self.wires[1]

    @property
    def healthy(self) -> bool:
        """It has started and is not frozen."""
        return self._started and self.frozen_since is None

    def _await_readiness(self) -> str:
        super()._await_readiness()
        self._started = True
        self.url = "" if self.worker else f"http://127.0.0.1:{self.port}"
        return self.url

    def _reaped(self, code: int) -> int:
        self._started = False
        return super()._reaped(code)

    def close(self) -> None:
        """End it by force, and give its port back."""
        super().close()
        self._reservation.close()

    @contextlib.asynccontextmanager
    async def logging(self, event: str, within: float = 15.0) -> AsyncIterator[None]:
        """Leave the block once it has logged this event since the block was entered."""
        before = len(self.events(event))
        yield
        async with asyncio.timeout(within):
            while len(self.events(event)) == before:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.02)

    @property
    def alarms(self) -> list[str]:
        """What it logged that must not come."""
        return [line for line in self.log.splitlines() if any(f'"{alarm}"' in line for alarm in ALARMS)]


class Cluster:
    """Nodes named `a`, `b`, …, and workers named `worker-a`, …; made here, started by `start`.

    `users` are the names of people with tokens beside alice and bob. `wires` puts a proxy before the Postgres and the
    Redis of every node. `front` are further settings of the nodes that serve, `sabotage` names what
    `tests.cluster.sabotage` breaks in every node, `environment` are further settings of all, `agents`
    further agents beside `claude` and `demo`.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        redis: RedisServer,
        upstream: Upstream,
        *,
        nodes: int = 3,
        workers: int = 0,
        lease: float = LEASE_SECONDS,
        users: Sequence[str] = (),
        wires: bool = False,
        sabotage: str | None = None,
        front: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        agents: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.database_url = database_url
        self.redis = redis
        self.upstream = upstream
        self.lease = lease
        self.tokens = {**TOKENS, **{user: f"token-of-{user}" for user in users}}
        self._front = dict(front or {})
        self._environment = dict(environment or {})
        self._agents = dict(agents or {})
        self._wires = wires
        self._sabotage = sabotage
        self._stack = contextlib.AsyncExitStack()
        letters = "abcdefghij"
        self._names = [(letters[i], False) for i in range(nodes)]
        self._names += [(f"worker-{letters[i]}", True) for i in range(workers)]
        self.all: list[Node] = []

    @property
    def nodes(self) -> list[Node]:
        """Those that serve."""
        return [node for node in self.all if not node.worker]

    @property
    def workers(self) -> list[Node]:
        return [node for node in self.all if node.worker]

    def node(self, name: str) -> Node:
        return next(node for node in self.all if node.name == name)

    async def start(self) -> None:
        """Start all that do not run, at once."""
        async with asyncio.TaskGroup() as group:
            for node in self.all:
                if not node.running:
                    group.create_task(node.start_soon())

    async def __aenter__(self) -> Self:
        for name, worker in self._names:
            self.all.append(await self._made(name, worker))
        return self

    async def _made(self, name: str, worker: bool) -> Node:
        wires = None
        database_url, redis_url = self.database_url, self.redis.url
        if self._wires:
            where = urlsplit(database_url).port
            assert where is not None
            postgres = await self._stack.enter_async_context(Wire(where))
            redis = await self._stack.enter_async_context(Wire(self.redis.port))
            wires = postgres, redis
            database_url = database_url.replace(f":{where}/", f":{postgres.port}/")
            redis_url = redis_url.replace(f":{self.redis.port}/", f":{redis.port}/")
        claude = {
            "provider": "claude",
            "base_url": f"http://127.0.0.1:{await self.upstream.port_of(name)}",
            "api_key": "sk-ant-test",
        }
        settings = {
            "AUTH__TOKENS": self.tokens,
            "AGENTS": {"codex": None, "demo": {"pace": 0}, "claude": claude, **self._agents},
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "LEASE_SECONDS": str(self.lease),
            "DRAIN_SECONDS": "10",
            **self._environment,
            **({} if worker else self._front),
        }
        node = Node(name, self.folder, settings, worker=worker, sabotage=self._sabotage)
        node.wires = wires
        return node

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            print(f"the logs of the nodes are in {self.folder}")
        for node in self.all:
            node.close()
        await self._stack.aclose()
