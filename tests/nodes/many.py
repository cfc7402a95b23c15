"""Many nodes in one process: everything of them but their ports, on one store and one Redis."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.agents import Agent, Agents
from gateway.approvals import Approvals
from gateway.attachments import Attachments
from gateway.connection import Connection
from gateway.eventlog.streamed import StreamedEventLog
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.nodes.control import RedisControl
from gateway.nodes.link import RedisLink
from gateway.nodes.queue import TurnQueue
from gateway.notices import Notices
from gateway.protocol import MessageBody
from gateway.pushing import Pushing
from gateway.resume import Resume
from gateway.runner.consumer import Consumer
from gateway.runner.local import LocalRunner
from gateway.runner.node import NodeRunner
from gateway.settings import Settings
from gateway.store.base import Store
from gateway.store.records import Accepted
from gateway.store.records import Turn as StoredTurn
from gateway.turns import TurnEngine
from tests.gateway.engine import Scripted, Stream
from tests.redis_server import RedisServer

LEASE_SECONDS = 3.0
"""Of which tests that need another one say so."""


@dataclass(frozen=True)
class Whole:
    """One node. `tasks` are its background loops, none of which may end."""

    store: Store
    link: RedisLink
    control: RedisControl
    logs: StreamedEventLog
    local: LocalRunner
    queue: TurnQueue
    consumer: Consumer
    runner: NodeRunner
    turns: TurnEngine
    resume: Resume
    agents: dict[str, Scripted]
    tasks: dict[str, asyncio.Task[None]]

    async def submit(self, content: str = "Hi", agent: str = "a", **fields: Any) -> Accepted:
        return await self.turns.submit("alice", agent, MessageBody(content=content, **fields))

    async def ended(self, accepted: Accepted, within: float = 15.0) -> StoredTurn:
        async with asyncio.timeout(within):
            while True:
                found = await self.store.turn(accepted.thread.user_id, accepted.turn.turn_id)
                assert found is not None
                if found[1].finished_at is not None:
                    return found[1]
                await asyncio.sleep(0.01)

    def connection(self) -> Connection:
        return Connection(
            connection_id="c", user_id="alice", agent="a", device_id=None, logs=self.logs, frame_bytes=2**16
        )


@contextlib.asynccontextmanager
async def whole_node(
    redis: RedisServer,
    store: Store,
    folder: Path,
    streams: dict[str, Stream],
    *,
    lease: float = LEASE_SECONDS,
    takes_turns: bool = True,
) -> AsyncIterator[Whole]:
    """A node with one agent per stream."""
    made = Settings(state_dir=folder)
    scripted = {name: Scripted(stream) for name, stream in streams.items()}
    agents = Agents({n: Agent(n, "scripted", p, None, {}, made.turn) for n, p in scripted.items()}, made.turn)
    hub, metrics, frame_bytes = Hub(), Metrics(), made.limits.server_frame_bytes
    async with RedisLink(redis.url) as link, Pushing.open(made, store) as pushing:
        control, logs = RedisControl(link), StreamedEventLog(store, link)
        await link.run("PING")
        approvals = Approvals(store, logs, pushing, made.approval.timeout_seconds, control)
        attachments = Attachments(store, folder / "attachments", 2**20, 2**22)
        notices = Notices(store, hub, pushing, control)
        local = LocalRunner(store, logs, agents, attachments, approvals, notices, pushing, metrics, frame_bytes)
        queue = TurnQueue(link)
        consumer = Consumer(local, queue, store, logs, link, lease, takes_turns)
        runner = NodeRunner(local, consumer, queue, store, logs, link, control)
        turns = TurnEngine(made, store, agents, attachments, notices, runner, control)
        running = {"logs": logs.run(), "control": control.run(), "checkpoints": logs.keep_checkpointing()}
        tasks = {name: asyncio.create_task(coroutine, name=name) for name, coroutine in running.items()}
        try:
            async with runner, turns:
                loops = consumer._loops
                resume = Resume(store, logs, metrics, frame_bytes)
                yield Whole(
                    store, link, control, logs, local, queue, consumer, runner, turns, resume, scripted, tasks | loops
                )
                ended = [task for task in (tasks | loops).values() if task.done()]
                assert runner.draining or not ended, ended
            await logs.checkpoint()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
