"""A turn engine around providers written in a test, on a real store, and followers of its logs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.agents import Agent, Agents
from gateway.approvals import Approvals
from gateway.attachments import Attachments
from gateway.connection import Connection
from gateway.eventlog.local import LocalEventLog
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.nodes.control import Control, Solo
from gateway.notices import Notices
from gateway.protocol import MessageBody
from gateway.pushing import Pushing
from gateway.resume import Resume
from gateway.runner.local import LocalRunner
from gateway.settings import Settings
from gateway.store.base import Store
from gateway.store.records import Accepted
from gateway.store.records import Turn as StoredTurn
from gateway.turns import TurnEngine
from providers import Event, Turn
from providers.base import Capability

Stream = Callable[[Turn], AsyncGenerator[Event]]


class Scripted:
    """A provider whose stream is a function of the test's."""

    name = "scripted"
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.turns: list[Turn] = []
        """What it was called with."""

    def stream(self, turn: Turn, /) -> AsyncGenerator[Event]:
        self.turns.append(turn)
        return self._stream(turn)


@dataclass(frozen=True)
class Parts:
    settings: Settings
    store: Store
    logs: LocalEventLog
    approvals: Approvals
    notices: Notices
    runner: LocalRunner
    turns: TurnEngine
    resume: Resume
    hub: Hub
    metrics: Metrics
    agents: dict[str, Scripted]

    async def submit(self, content: str = "Hi", agent: str = "a", user_id: str = "alice", **fields: Any) -> Accepted:
        return await self.turns.submit(user_id, agent, MessageBody(content=content, **fields))

    async def ended(self, accepted: Accepted, within: float = 10.0) -> StoredTurn:
        """The turn as stored, once it has ended."""
        async with asyncio.timeout(within):
            while True:
                running = self.runner.in_thread(accepted.thread.key)
                if running is not None and running.turn_id == accepted.turn.turn_id:
                    await running.ended.wait()
                found = await self.store.turn(accepted.thread.user_id, accepted.turn.turn_id)
                assert found is not None
                if found[1].finished_at is not None:
                    return found[1]
                await asyncio.sleep(0.005)

    async def run(self, content: str = "Hi", agent: str = "a", within: float = 10.0, **fields: Any) -> StoredTurn:
        return await self.ended(await self.submit(content, agent, **fields), within)

    async def answer(self, turn: StoredTurn) -> str:
        message = await self.store.message(turn.thread_key, turn.answer_id)
        assert message is not None
        return message.content

    def client(self, user_id: str = "alice") -> Watcher:
        return Watcher(self, user_id)


class Watcher:
    """A client of the engine without a socket."""

    def __init__(self, parts: Parts, user_id: str) -> None:
        self._parts = parts
        self.connection = Connection(
            connection_id="c",
            user_id=user_id,
            agent="a",
            device_id=None,
            logs=parts.logs,
            frame_bytes=parts.settings.limits.server_frame_bytes,
        )
        self.frames: list[dict[str, Any]] = []

    async def send(self, content: str = "Hi", **fields: Any) -> Accepted:
        accepted = await self._parts.submit(content, user_id=self.connection.user_id, **fields)
        await self._parts.resume.follow_turn(self.connection, accepted)
        return accepted

    async def attach(self, thread_id: str, cursor: str | None = None) -> None:
        await self._parts.resume.attach(self.connection, thread_id, cursor)

    async def until(self, kind: str, within: float = 10.0) -> dict[str, Any]:
        """Read up to the next frame of that type."""
        async with asyncio.timeout(within):
            while True:
                taken = self.connection.next_frame()
                if taken is not None:
                    self.frames.append(frame := json.loads(taken))
                    if frame["type"] == kind:
                        return frame
                elif (follow := self.connection.behind) is not None:
                    assert await follow.load(self._parts.logs)
                else:
                    await self.connection.news()

    @property
    def kinds(self) -> list[str]:
        return [frame["type"] for frame in self.frames if frame["type"] not in ("thread_updated", "typing")]

    @property
    def text(self) -> str:
        joined = ""
        for frame in self.frames:
            if frame["type"] == "reset":
                joined = frame["content"]
            elif frame["type"] == "message":
                joined += frame["content"]
        return joined


@contextlib.asynccontextmanager
async def engine(
    store: Store,
    tmp_path: Path,
    settings: dict[str, Any] | None = None,
    control: Control | None = None,
    **streams: Stream,
) -> AsyncIterator[Parts]:
    """An engine with one agent per stream; its logs are checkpointed as in the gateway.

    With `control` it is one node among many; the caller runs that.
    """
    made = Settings(state_dir=tmp_path, **(settings or {}))
    scripted = {name: Scripted(stream) for name, stream in streams.items()}
    agents = Agents({n: Agent(n, "scripted", p, None, {}, made.turn) for n, p in scripted.items()}, made.turn)
    logs, hub, metrics = LocalEventLog(store), Hub(), Metrics()
    checkpoints = asyncio.create_task(logs.keep_checkpointing())
    try:
        async with Pushing.open(made, store) as pushing:
            approvals = Approvals(store, logs, pushing, made.approval.timeout_seconds, control)
            attachments = Attachments(store, tmp_path / "attachments", 2**20, 2**22)
            notices, frame_bytes = Notices(store, hub, pushing, control), made.limits.server_frame_bytes
            runner = LocalRunner(store, logs, agents, attachments, approvals, notices, pushing, metrics, frame_bytes)
            async with (
                runner,
                TurnEngine(made, store, agents, attachments, notices, runner, control or Solo()) as turns,
            ):
                resume = Resume(store, logs, metrics, frame_bytes)
                yield Parts(made, store, logs, approvals, notices, runner, turns, resume, hub, metrics, scripted)
                assert not checkpoints.done(), checkpoints
            await logs.checkpoint()
    finally:
        checkpoints.cancel()
        await asyncio.gather(checkpoints, return_exceptions=True)
