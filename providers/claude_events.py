"""The stream of the Messages API, read into our events; no I/O.

Read from plain JSON and not from the SDK's models: building them costs more per piece than all the rest of
the way, and an event or a block of a type that is not known yet must do no harm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from providers.claude_errors import error, from_event
from providers.errors import ProviderError
from providers.events import Event, Progress, ReasoningDelta, TextDelta, ToolCall, ToolResult, Usage
from providers.sse import ServerSentEvents

__all__ = ["AnswerReader"]

SUMMARY_LIMIT = 500
"""Characters of a tool's result that a person gets to see."""
TITLE_LIMIT = 200
_TITLE_KEYS = ("query", "url", "command", "path", "code")

_KNOWN = frozenset(
    (
        b"message_start",
        b"message_delta",
        b"message_stop",
        b"content_block_start",
        b"content_block_delta",
        b"content_block_stop",
        b"error",
    )
)
"""Events of any other name, `ping` among them, are not even parsed."""

_decode = msgspec.json.Decoder().decode
_PROGRESS = Progress()


class _Block:
    """One content block while it streams. The pieces of its text, thinking or input are joined once, at its end."""

    __slots__ = ("citations", "data", "item_id", "pieces", "signature")

    def __init__(self, item_id: str, data: dict[str, Any]) -> None:
        self.item_id = item_id
        self.data = data
        self.pieces: list[str] = []
        self.signature: list[str] = []
        self.citations: list[Any] = []


class AnswerReader:
    """Reads one answer: feed it the body's bytes until `complete`.

    A turn may take several answers (`pause_turn`): each has a reader of its own that goes on counting where the
    one before ended.
    """

    def __init__(self, before: AnswerReader | None = None) -> None:
        self.complete = False
        """The API said itself that the answer is over (`message_stop`)."""
        self.failure: ProviderError | None = None
        self.stop_reason: str | None = None
        self.content: list[dict[str, Any]] = []
        """The finished blocks, as the API wants them back when it paused."""
        self._events = ServerSentEvents()
        self._blocks: dict[int, _Block] = {}
        self._first: int = before._next if before else 0
        self._next: int = self._first
        self._calls: set[str] = before._calls if before else set()
        self._spent: Usage = before.usage if before else Usage()
        self._counts: dict[str, int] = {}

    @property
    def usage(self) -> Usage:
        """Tokens of the turn so far, the answers before this one included."""
        counts, spent = self._counts, self._spent
        read = counts.get("cache_read_input_tokens", 0)
        write = counts.get("cache_creation_input_tokens", 0)
        return Usage(
            input_tokens=spent.input_tokens + counts.get("input_tokens", 0) + read + write,
            output_tokens=spent.output_tokens + counts.get("output_tokens", 0),
            cache_read_tokens=spent.cache_read_tokens + read,
            cache_write_tokens=spent.cache_write_tokens + write,
            reasoning_tokens=spent.reasoning_tokens + counts.get("thinking_tokens", 0),
        )

    def feed(self, chunk: bytes) -> list[Event]:
        """What these bytes say. What shows nothing is at least a `Progress`.

        An error that the API reports, or that reading makes, is kept in `failure`: what came before it still counts.
        """
        found: list[Event] = []
        try:
            for name, payload in self._events.feed(chunk):
                if name and name not in _KNOWN:
                    continue
                data = _loaded(payload)
                self._read(data.get("type") or name.decode(), data, found)
        except ProviderError as failure:
            self.failure = failure
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.failure = error("upstream_error")
        return found or [_PROGRESS]

    def _read(self, kind: str, data: dict[str, Any], found: list[Event]) -> None:
        if kind == "content_block_delta":
            block = self._blocks.get(data["index"])
            if block is None and data["delta"].get("type") == "text_delta":
                self._start(data["index"], {"type": "text"}, found)  # its beginning was not announced
                block = self._blocks[data["index"]]
            if block is not None:
                _delta(block, data["delta"], found)
        elif kind == "content_block_start":
            self._start(data["index"], data["content_block"], found)
        elif kind == "content_block_stop":
            block = self._blocks.pop(data["index"], None)
            if block is not None:
                self._stop(block, found)
        elif kind == "message_start":
            self._count(data["message"].get("usage"), found)
        elif kind == "message_delta":
            reason = data["delta"].get("stop_reason")
            if isinstance(reason, str):
                self.stop_reason = reason
            self._count(data.get("usage"), found)
        elif kind == "message_stop":
            self.complete = True
        elif kind == "error":
            raise from_event(data)

    def _count(self, usage: Any, found: list[Event]) -> None:
        """Counts are cumulative within an answer; an absent or null one keeps what an earlier event said."""
        if not isinstance(usage, Mapping):
            return
        details = usage.get("output_tokens_details")
        for name, value in (*usage.items(), *(details.items() if isinstance(details, Mapping) else ())):
            if isinstance(value, int):
                self._counts[name] = value
        found.append(self.usage)

    def _start(self, index: int, data: dict[str, Any], found: list[Event]) -> None:
        number = self._first + index
        self._next = max(self._next, number + 1)
        block = self._blocks[index] = _Block(f"b{number}", data)
        if data["type"] == "text" and data.get("text"):
            block.pieces.append(data["text"])
            found.append(TextDelta(block.item_id, data["text"]))

    def _stop(self, block: _Block, found: list[Event]) -> None:
        data = block.data
        kind = data["type"]
        if kind == "text":
            data = {"type": "text", "text": "".join(block.pieces)}
            if block.citations:
                data["citations"] = block.citations
            if not data["text"].strip():
                return
        elif kind == "thinking":
            data = {**data, "thinking": "".join(block.pieces)}
            if block.signature:
                data["signature"] = "".join(block.signature)
            if not data.get("signature"):
                return
        elif kind.endswith("tool_use"):
            data = {**data, "input": _input(block)}
            self._call(data, found)
        elif kind.endswith("tool_result"):
            self._result(data, found)
        self.content.append(data)

    def _call(self, data: dict[str, Any], found: list[Event]) -> None:
        call_id, name = data["id"], data["name"]
        if call_id in self._calls:
            return
        self._calls.add(call_id)
        found.append(ToolCall(call_id=call_id, name=name, title=_title(data), arguments=data["input"]))

    def _result(self, data: dict[str, Any], found: list[Event]) -> None:
        call_id = data["tool_use_id"]
        if call_id not in self._calls:
            return
        content = data.get("content")
        failed = bool(data.get("is_error")) or _is_error(content)
        found.append(
            ToolResult(
                call_id=call_id,
                status="failed" if failed else "completed",
                summary=_cut(_summary(content), SUMMARY_LIMIT),
            )
        )


def _loaded(payload: bytes) -> dict[str, Any]:
    try:
        data = _decode(payload)
    except msgspec.DecodeError:
        # msgspec refuses half a surrogate pair, which a piece cut in the wrong place may hold.
        loose = json.dumps(json.loads(payload), ensure_ascii=False)
        data = json.loads(loose.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    if not isinstance(data, dict):
        raise TypeError("an event is not a JSON object")
    return data


def _delta(block: _Block, delta: dict[str, Any], found: list[Event]) -> None:
    kind = delta["type"]
    if kind == "text_delta":
        text = delta["text"]
        if text:
            block.pieces.append(text)
            found.append(TextDelta(block.item_id, text))
    elif kind == "thinking_delta":
        thinking = delta["thinking"]
        if thinking:
            block.pieces.append(thinking)
            found.append(ReasoningDelta(block.item_id, thinking))
    elif kind == "input_json_delta":
        block.pieces.append(delta["partial_json"])
    elif kind == "signature_delta":
        block.signature.append(delta["signature"])
    elif kind == "citations_delta":
        block.citations.append(delta["citation"])


def _input(block: _Block) -> dict[str, Any]:
    """The tool's arguments; what is no JSON object (an answer cut by `max_tokens`) counts as none."""
    try:
        value = _loaded("".join(block.pieces).encode()) if block.pieces else block.data.get("input")
    except (ValueError, TypeError):
        return {}
    return value if isinstance(value, dict) else {}


def _title(data: dict[str, Any]) -> str:
    arguments = data["input"]
    said = next((arguments[key] for key in _TITLE_KEYS if isinstance(arguments.get(key), str)), "")
    server = data.get("server_name")
    if isinstance(server, str):
        said = f"{server}: {said}" if said else f"{server}: {data['name']}"
    return _cut(" ".join(said.split()), TITLE_LIMIT)


def _is_error(content: Any) -> bool:
    return isinstance(content, Mapping) and (str(content.get("type", "")).endswith("error") or "error_code" in content)


def _summary(content: Any) -> str:
    """What a tool gave back, in as many words as a person wants: a text, titles of pages, or why it failed."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        words = (content.get(key) for key in ("error_code", "stdout", "stderr", "title", "url"))
        return next((word for word in words if isinstance(word, str) and word), "")
    if isinstance(content, list):
        parts = (part.get("text") or part.get("title") for part in content if isinstance(part, Mapping))
        return "\n".join(part for part in parts if isinstance(part, str))
    return ""


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
