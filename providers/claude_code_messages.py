"""Reading what Claude Code says about a turn, as the contract's events. No I/O.

Two descriptions of the same text arrive: the Messages API's own stream events, as they come, and each finished block
once more as a whole. The first is shown at once; the second decides. When a stream breaks, Claude Code ends the message
as if nothing were wrong and asks the model again: what it never sent as a whole block is void (seen with 2.1.327).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from claude_agent_sdk import (
    AssistantMessage,
    ResultMessage,
    StreamEvent,
    SystemMessage,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserMessage,
)

from providers.errors import ErrorCode, ProviderError
from providers.events import (
    Completed,
    Event,
    Progress,
    ReasoningDelta,
    SessionUpdated,
    TextDelta,
    TextReset,
    ToolCall,
    ToolResult,
    Usage,
)

__all__ = ["MessageReader", "title_of"]

_LONGEST_SUMMARY = 2000
_SYNTHETIC = "<synthetic>"
"""The model of a message that Claude Code wrote itself; its text is an error's, never the model's."""

_ERRORS: dict[str, ErrorCode] = {
    "authentication_failed": "authentication",
    "billing_error": "payment_required",
    "rate_limit": "rate_limited",
    "invalid_request": "invalid_request",
    "server_error": "upstream_error",
}
_STATUSES: dict[int, ErrorCode] = {
    400: "invalid_request",
    401: "authentication",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    413: "too_large",
    429: "rate_limited",
    529: "overloaded",
}
_SENTENCES: dict[ErrorCode, str] = {
    "authentication": "Claude Code is not logged in, or its API key is not accepted.",
    "permission_denied": "Claude Code's account may not do this.",
    "payment_required": "The credit of Claude Code's account is used up.",
    "invalid_request": "The model does not accept the request as it stands.",
    "not_found": "The model server does not know the model.",
    "too_large": "The conversation is longer than the model accepts.",
    "rate_limited": "The model server gets too many requests from Claude Code's account.",
    "overloaded": "The model server has no capacity at the moment.",
    "connection_failed": "Claude Code could not reach the model server.",
    "upstream_error": "Claude Code could not complete the answer.",
}
_RETRYABLE: frozenset[ErrorCode] = frozenset(("rate_limited", "overloaded", "connection_failed", "upstream_error"))


class MessageReader:
    """The state of one turn."""

    def __init__(self, cwd: str) -> None:
        self._cwd = cwd
        self.ended = False
        """The turn's own result has come."""
        self._message = 0
        self._wholes = 0
        self._texts: dict[str, list[str]] = {}
        """Text shown and not yet confirmed by a whole block, by item."""
        self._thought = False
        """Reasoning of this message was streamed."""
        self._shown = False
        self._calls: set[str] = set()
        self._error: str | None = None
        self._answered = False
        """The model server has said something to the request that is under way."""

    def read(self, message: object) -> Iterator[Event]:
        """The events that `message` stands for.

        Raises:
            ProviderError: the turn failed.
        """
        if getattr(message, "parent_tool_use_id", None) is not None:
            yield Progress()  # a sub-agent at work; its own answer comes as a tool's result
        elif isinstance(message, StreamEvent):
            self._answered = True
            yield from self._stream(message.event)
        elif isinstance(message, AssistantMessage):
            yield from self._assistant(message)
        elif isinstance(message, UserMessage):
            self._answered = False
            yield from self._results(message)
        elif isinstance(message, ResultMessage):
            self.ended = True
            yield from self._result(message)
        elif isinstance(message, SystemMessage):
            if message.subtype == "init" and isinstance(message.data.get("session_id"), str):
                yield SessionUpdated({"session_id": message.data["session_id"], "cwd": self._cwd})
            elif message.subtype == "api_retry":
                self._answered = False
                yield from self._void()  # and no progress: the idle deadline must see that it only tries again
            else:
                yield Progress()

    def call(self, call_id: str, name: str, arguments: Mapping[str, Any]) -> Iterator[Event]:
        """Show a tool call, once."""
        if call_id not in self._calls:
            self._calls.add(call_id)
            yield ToolCall(call_id, name, title=title_of(name, arguments), arguments=dict(arguments))

    def _stream(self, event: Mapping[str, Any]) -> Iterator[Event]:
        kind = event.get("type")
        if kind == "message_start":
            yield from self._void()
            self._message += 1
            self._thought = False
        elif kind == "content_block_delta":
            item = f"m{self._message}.{event.get('index')}"
            delta = event.get("delta") or {}
            if delta.get("type") == "text_delta" and isinstance(delta.get("text"), str):
                self._texts.setdefault(item, []).append(delta["text"])
                self._shown = True
                yield TextDelta(item, delta["text"])
                return
            if delta.get("type") == "thinking_delta" and isinstance(delta.get("thinking"), str):
                self._thought = True
                yield ReasoningDelta(item, delta["thinking"])
                return
        yield Progress()

    def _void(self) -> Iterator[Event]:
        """Forget what was shown and never came as a whole block."""
        for item in self._texts:
            yield TextReset(item)
        self._texts.clear()

    def _assistant(self, message: AssistantMessage) -> Iterator[Event]:
        if message.error is not None or message.model == _SYNTHETIC:
            self._error = message.error or self._error
            yield Progress()
            return
        for block in message.content:
            self._wholes += 1
            if isinstance(block, TextBlock):
                yield from self._whole(f"w{self._wholes}", block.text)
            elif isinstance(block, ThinkingBlock) and not self._thought:
                yield ReasoningDelta(f"w{self._wholes}", block.thinking)
            elif isinstance(block, ToolUseBlock):
                yield from self.call(block.id, block.name, block.input)
            else:
                yield Progress()

    def _whole(self, item: str, text: str) -> Iterator[Event]:
        """A finished text block: confirm what was shown of it, or show it instead."""
        for shown, pieces in self._texts.items():
            if "".join(pieces) == text:
                del self._texts[shown]
                yield Progress()
                return
        yield from self._void()
        self._shown = True
        yield TextDelta(item, text)

    def _results(self, message: UserMessage) -> Iterator[Event]:
        for block in message.content if isinstance(message.content, list) else ():
            if isinstance(block, ToolResultBlock) and block.tool_use_id in self._calls:
                status = "failed" if block.is_error else "completed"
                yield ToolResult(block.tool_use_id, status, _short(_plain(block.content)))  # type: ignore[arg-type]  # one of two literals
        yield Progress()

    def _result(self, result: ResultMessage) -> Iterator[Event]:
        if result.subtype == "error_max_turns":
            yield from self._end(result, "max_turns")
            return
        if result.is_error or result.subtype != "success":
            code = _STATUSES.get(result.api_error_status or 0) or _ERRORS.get(self._error or "", "upstream_error")
            if code == "upstream_error" and self._error and not self._answered and result.api_error_status is None:
                code = "connection_failed"  # Claude Code calls it a server error too; no status says otherwise
            raise ProviderError(code, _SENTENCES[code], retryable=code in _RETRYABLE, refused=False)
        yield from self._void()
        if not self._shown and result.result:
            yield TextDelta("result", result.result)  # a command of Claude Code's own answers only here
        yield from self._end(result, result.stop_reason or "end_turn")

    def _end(self, result: ResultMessage, reason: str) -> Iterator[Event]:
        usage = result.usage or {}
        read, written = _count(usage, "cache_read_input_tokens"), _count(usage, "cache_creation_input_tokens")
        yield Usage(
            input_tokens=_count(usage, "input_tokens") + read + written,
            output_tokens=_count(usage, "output_tokens"),
            cache_read_tokens=read,
            cache_write_tokens=written,
        )
        yield Completed(reason)


def title_of(name: str, arguments: Mapping[str, Any]) -> str:
    """One line for a person about a tool call."""
    for key in ("command", "file_path", "notebook_path", "path", "pattern", "query", "url", "description"):
        value = arguments.get(key)
        if isinstance(value, str) and value.strip():
            line = value.strip().splitlines()[0]
            return line if len(line) <= 200 else line[:199] + "…"
    return name


def _plain(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SUMMARY else text[: _LONGEST_SUMMARY - 1] + "…"


def _count(usage: Mapping[str, Any], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) and value > 0 else 0
