"""What the gateway's HTTP interface tells: agents, threads, turns."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from agentline.events import Failure, ShownMessage

__all__ = ["Agent", "Decided", "Sent", "Thread", "ThreadPage", "Turn"]


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    provider: str = ""
    configured: bool = True
    reason: str | None = None
    """What is missing, if it is not configured."""
    capabilities: list[str] = []


class Thread(msgspec.Struct, frozen=True, kw_only=True):
    thread_id: str
    agent: str
    title: str
    status: str = "idle"
    unread: int = 0
    read_message_id: str | None = None
    last_message: ShownMessage | None = None
    created_at: str = ""
    updated_at: str = ""


class ThreadPage(msgspec.Struct, frozen=True):
    """Threads, newest first. `before` asks for the next page; None: this was the last."""

    threads: list[Thread]
    before: int | None = None


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    turn_id: str
    thread_id: str
    agent: str
    status: str
    """`queued`, `running`, or how it ended."""
    message_id: str
    content: str = ""
    """The whole answer; of a running turn, what there is of it."""
    stop_reason: str | None = None
    usage: Mapping[str, int] = {}
    error: Failure | None = None
    duration_ms: int | None = None
    retry_of: str | None = None
    created_at: str = ""
    started_at: str | None = None
    finished_at: str | None = None


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A message was accepted; its turn runs in the background."""

    thread_id: str
    turn_id: str
    message_id: str
    id: str | None = None
    duplicate: bool = False
    queued: int = 0
    retry_of: str | None = None


class Decided(msgspec.Struct, frozen=True, kw_only=True):
    """The decision that stands: the first one, from whichever device."""

    approval_id: str
    decision: str
    thread_id: str = ""
    turn_id: str = ""
    by: str | None = None


class Agents(msgspec.Struct, frozen=True):
    agents: list[Agent]


class Messages(msgspec.Struct, frozen=True):
    messages: list[ShownMessage]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str
    retryable: bool = False
    retry_after: float | None = None
    field: str | None = None


class Problems(msgspec.Struct, frozen=True):
    error: Problem
