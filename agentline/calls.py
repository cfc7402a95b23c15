"""The gateway's HTTP calls as values: what to ask, and how to read the answer. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec

from agentline.endings import refused_answer
from agentline.errors import ContractBroken
from agentline.events import ShownMessage
from agentline.records import Agent, Agents, Decided, Messages, Sent, Thread, ThreadPage, Turn

__all__ = [
    "Call",
    "agents",
    "cancel",
    "decide",
    "delete",
    "messages",
    "rename",
    "retry",
    "send",
    "thread",
    "threads",
    "turn",
]

Answer = TypeVar("Answer")
Shape = TypeVar("Shape")


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    method: str
    path: str
    read: Callable[[bytes], Answer]
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, Any] | None = field(default=None, repr=False)
    idempotent: bool = True
    """Whether it may be sent again when it is not known whether the first one arrived."""

    def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> Answer:
        """What the gateway answered.

        Raises:
            Refused, ContractBroken
        """
        if not 200 <= status < 300:
            raise refused_answer(status, headers, body)
        try:
            return self.read(body)
        except msgspec.DecodeError:
            raise ContractBroken(f"{self.method} {self.path} answered in a shape that is not the protocol's") from None


def _shaped(shape: type[Shape]) -> Callable[[bytes], Shape]:
    return msgspec.json.Decoder(shape).decode


def _segment(text: str) -> str:
    return quote(text, safe="")


def _given(**params: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value is not None}


_agents, _page, _thread, _messages = _shaped(Agents), _shaped(ThreadPage), _shaped(Thread), _shaped(Messages)
_turn, _sent, _decided = _shaped(Turn), _shaped(Sent), _shaped(Decided)


def agents() -> Call[list[Agent]]:
    return Call("GET", "/api/agents", lambda body: _agents(body).agents)


def threads(agent: str | None, before: int | None, limit: int | None) -> Call[ThreadPage]:
    return Call("GET", "/api/threads", _page, _given(agent=agent, before=before, limit=limit))


def thread(thread_id: str) -> Call[Thread]:
    return Call("GET", f"/api/threads/{_segment(thread_id)}", _thread)


def messages(thread_id: str, before: str | None, after: str | None, limit: int | None) -> Call[list[ShownMessage]]:
    params = _given(before=before, after=after, limit=limit)
    return Call("GET", f"/api/threads/{_segment(thread_id)}/messages", lambda body: _messages(body).messages, params)


def rename(thread_id: str, title: str) -> Call[Thread]:
    return Call("PATCH", f"/api/threads/{_segment(thread_id)}", _thread, body={"title": title})


def delete(thread_id: str) -> Call[None]:
    """Not sent again by itself: the second answer would be that there is no such thread."""
    return Call("DELETE", f"/api/threads/{_segment(thread_id)}", lambda body: None, idempotent=False)


def turn(turn_id: str) -> Call[Turn]:
    return Call("GET", f"/api/turns/{_segment(turn_id)}", _turn)


def send(agent: str, message: Mapping[str, Any]) -> Call[Sent]:
    return Call("POST", f"/api/{_segment(agent)}/messages", _sent, body=message)


def cancel(turn_id: str) -> Call[None]:
    return Call("POST", f"/api/turns/{_segment(turn_id)}/cancel", lambda body: None)


def retry(turn_id: str) -> Call[Sent]:
    """Each one is a new turn, so it is not sent again by itself."""
    return Call("POST", f"/api/turns/{_segment(turn_id)}/retry", _sent, idempotent=False)


def decide(approval_id: str, decision: str, text: str | None) -> Call[Decided]:
    body = {"decision": decision} if text is None else {"decision": decision, "text": text}
    return Call("POST", f"/api/approvals/{_segment(approval_id)}", _decided, body=body)
