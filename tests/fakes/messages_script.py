"""The script language of the fake Messages API: what one streamed answer consists of.

A script is a list of steps. The functions at the end make whole blocks and whole answers of them:

    [*answer(text("Hel", "lo"), stop_reason="end_turn")]
    [*start(), *text("Hel"), Cut()]
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = [
    "BlockDelta",
    "BlockStart",
    "BlockStop",
    "Cut",
    "EndEarly",
    "Gate",
    "Pause",
    "Pieces",
    "Raw",
    "Script",
    "Send",
    "Stall",
    "Status",
    "Step",
    "answer",
    "end",
    "failure",
    "mcp_tool",
    "server_tool",
    "start",
    "text",
    "thinking",
    "tool_input",
    "web_search",
]


@dataclass(frozen=True, slots=True)
class Send:
    """One server-sent event, named by its `type`."""

    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Raw:
    """These very bytes as the body's next chunk."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BlockStart:
    block: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BlockDelta:
    delta: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BlockStop:
    pass


@dataclass(frozen=True, slots=True)
class Pieces:
    """`count` text deltas, one every `interval` seconds by an absolute schedule, in a text block of their own."""

    count: int
    interval: float = 0.0
    text: str = "word "
    stamp: bool = False
    """Each piece is `time.monotonic_ns()` at its sending and a space, to measure latency between processes."""


@dataclass(frozen=True, slots=True)
class Pause:
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """Wait until the test sets it. `reached` is set when the answer has come this far."""

    opened: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with an HTTP error instead of a stream. Only as the first step."""

    code: int
    kind: str | None = None
    message: str = "upstream's own words about sk-secret"
    headers: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] | None = None
    body: bytes | None = None
    """Instead of the API's JSON, what a proxy in between would send."""


@dataclass(frozen=True, slots=True)
class Cut:
    """End the TCP connection here: FIN, or RST with `reset`. As the first step: before the headers."""

    reset: bool = False


@dataclass(frozen=True, slots=True)
class EndEarly:
    """End the body cleanly, as if all had been said."""


@dataclass(frozen=True, slots=True)
class Stall:
    """Send nothing more until the client goes away. As the first step: before the headers."""


Step: TypeAlias = (
    Send | Raw | BlockStart | BlockDelta | BlockStop | Pieces | Pause | Gate | Status | Cut | EndEarly | Stall
)
Script: TypeAlias = Sequence[Step]


def start(*, model: str = "claude-fake", **usage: Any) -> list[Step]:
    counts = {"input_tokens": 10, "output_tokens": 1, **usage}
    message: dict[str, Any] = {
        "id": "msg_fake",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": counts,
    }
    return [Send({"type": "message_start", "message": message}), Send({"type": "ping"})]


def end(stop_reason: str = "end_turn", **usage: Any) -> list[Step]:
    counts = {"output_tokens": 5, **usage}
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return [
        Send({"type": "message_delta", "delta": delta, "usage": counts}),
        Send({"type": "message_stop"}),
    ]


def answer(*parts: Sequence[Step] | Step, stop_reason: str = "end_turn", **usage: Any) -> list[Step]:
    """A whole answer made of these blocks."""
    steps = start()
    for part in parts:
        steps.extend(part if isinstance(part, Sequence) else [part])
    return [*steps, *end(stop_reason, **usage)]


def text(*pieces: str | Step) -> list[Step]:
    """A text block. Steps between the pieces stand as they are."""
    deltas = [BlockDelta({"type": "text_delta", "text": p}) if isinstance(p, str) else p for p in pieces]
    return [BlockStart({"type": "text", "text": ""}), *deltas, BlockStop()]


def thinking(*pieces: str, signature: str = "sig") -> list[Step]:
    deltas = [BlockDelta({"type": "thinking_delta", "thinking": piece}) for piece in pieces]
    return [
        BlockStart({"type": "thinking", "thinking": "", "signature": ""}),
        *deltas,
        BlockDelta({"type": "signature_delta", "signature": signature}),
        BlockStop(),
    ]


def tool_input(*pieces: str | Step) -> list[Step]:
    return [BlockDelta({"type": "input_json_delta", "partial_json": p}) if isinstance(p, str) else p for p in pieces]


def server_tool(name: str, *pieces: str | Step, call_id: str = "srvtoolu_1") -> list[Step]:
    block = {"type": "server_tool_use", "id": call_id, "name": name, "input": {}}
    return [BlockStart(block), *tool_input(*pieces), BlockStop()]


def web_search(*titles: str, call_id: str = "srvtoolu_1", error: str | None = None) -> list[Step]:
    content: Any = [
        {
            "type": "web_search_result",
            "title": title,
            "url": "https://example.org",
            "encrypted_content": "x",
            "page_age": None,
        }
        for title in titles
    ]
    if error is not None:
        content = {"type": "web_search_tool_result_error", "error_code": error}
    block = {"type": "web_search_tool_result", "tool_use_id": call_id, "content": content}
    return [BlockStart(block), BlockStop()]


def mcp_tool(
    name: str, *pieces: str, result: str, call_id: str = "mcptoolu_1", server: str = "files", failed: bool = False
) -> list[Step]:
    use = {"type": "mcp_tool_use", "id": call_id, "name": name, "server_name": server, "input": {}}
    back = {
        "type": "mcp_tool_result",
        "tool_use_id": call_id,
        "is_error": failed,
        "content": [{"type": "text", "text": result}],
    }
    return [BlockStart(use), *tool_input(*pieces), BlockStop(), BlockStart(back), BlockStop()]


def failure(kind: str = "overloaded_error", message: str = "upstream's own words about sk-secret") -> list[Step]:
    """An error inside the stream, after a status of 200."""
    return [Send({"type": "error", "error": {"type": kind, "message": message}}), EndEarly()]
