"""What a provider yields: one turn is a stream of these events, with exactly one `Completed`, last.

Events are immutable values and do no I/O. Text may be of any size and cut anywhere; the gateway
joins and splits it as the wire needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

__all__ = [
    "Completed",
    "Event",
    "Progress",
    "ReasoningDelta",
    "SessionUpdated",
    "TextDelta",
    "TextReset",
    "ToolCall",
    "ToolResult",
    "Usage",
]


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """The next piece of the answer's text. An empty one is allowed and shows nothing."""

    item_id: str
    """Names the text item (a content block, say); a new id begins a new paragraph of the answer."""
    text: str


class TextReset(msgspec.Struct, frozen=True, gc=False):
    """Text already yielded is void, because the backend began it anew.

    Tool calls without a result are void too: the gateway reports them as failed.
    """

    item_id: str | None = None
    """The item to forget; None forgets all text of the turn."""


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """The next piece of the model's visible reasoning; never part of the answer."""

    item_id: str
    text: str


class ToolCall(msgspec.Struct, frozen=True):
    """The agent begins to use a tool."""

    call_id: str
    """Unique within the turn."""
    name: str
    """The tool's own name, `shell` or `web_search`."""
    title: str = ""
    """One line for a person, `ls -la /srv`; empty shows the name."""
    arguments: Mapping[str, Any] = {}
    """Made of JSON values."""


class ToolResult(msgspec.Struct, frozen=True, gc=False):
    """The tool of an earlier `ToolCall` came back. A call left without one is reported as failed."""

    call_id: str
    status: Literal["completed", "failed"] = "completed"
    summary: str = ""
    """What a person needs to see of the result, as plain text."""


class SessionUpdated(msgspec.Struct, frozen=True):
    """Keep this for the thread: the next turn gets it as `Turn.session`. The last one counts."""

    session: Any
    """A JSON value, a map as a rule; not None, and at most 64 KiB encoded."""


class Usage(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Tokens of the whole turn so far, not of one step. A later one replaces an earlier one."""

    input_tokens: int = 0
    """All of the input, whether it came from a cache or went into one or not."""
    output_tokens: int = 0
    """All of the output, reasoning included."""
    cache_read_tokens: int = 0
    """Of the input, how many came from the backend's prompt cache."""
    cache_write_tokens: int = 0
    """Of the input, how many went into the backend's prompt cache."""
    reasoning_tokens: int = 0
    """Of the output, how many were reasoning, where the backend tells."""


class Progress(msgspec.Struct, frozen=True, gc=False):
    """The backend is at work but has nothing to show: the idle deadline starts anew."""


class Completed(msgspec.Struct, frozen=True, gc=False):
    """The backend said itself that the answer is complete. Nothing may follow."""

    stop_reason: str = "end_turn"
    """`end_turn`, `max_tokens`, `refusal`, `stop_sequence`, or the backend's own word."""


Event: TypeAlias = (
    TextDelta | TextReset | ReasoningDelta | ToolCall | ToolResult | SessionUpdated | Usage | Progress | Completed
)
