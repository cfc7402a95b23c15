"""Reading one response of the Responses API: its stream events in, the contract's events out. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast, get_args

from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent, ResponseUsage

from providers.events import Event, Progress, ReasoningDelta, TextDelta, TextReset, ToolCall, ToolResult, Usage
from providers.openai_errors import from_code

__all__ = ["ResponseReader", "warm_up"]

_LONGEST_SUMMARY = 2000

_ANNOUNCED_AT_ONCE = {
    "web_search_call": "web_search",
    "file_search_call": "file_search",
    "image_generation_call": "image_generation",
    "computer_call": "computer",
    "tool_search_call": "tool_search",
}
"""Tools whose item says all there is to say when it begins."""

_FOREIGN = frozenset(
    ("function_call", "custom_tool_call", "local_shell_call", "shell_call", "apply_patch_call", "computer_call")
)
"""Calls that the client would have to run. None is offered to the model, so nobody does."""


class ResponseReader:
    """What has been read of one response, and what its end said.

    Servers other than OpenAI's leave events out: some send no deltas but only whole parts, some only the final
    response. Every form is read, and none of them twice.
    """

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        """Set by the response's own terminal event; None until then."""
        self.usage: Usage | None = None
        self.output: list[ResponseOutputItem] = []
        """The finished items, as the next request of the same turn needs them."""
        self._texts: dict[str, list[str]] = {}
        self._reasoning: set[str] = set()
        self._refused = False
        self._announced: set[str] = set()
        self._pending: dict[str, ResponseOutputItem] = {}

    def read(self, data: Mapping[str, Any]) -> Iterator[Event]:
        """The events that the decoded stream event `data` stands for; one `Progress` when there is nothing to show.

        A text delta, which is nearly all there is, is read as it stands: with the SDK's object made of it, an event
        costs 146 µs of CPU, without 58.

        Raises:
            ProviderError: the response failed.
            AttributeError, TypeError: the server left out a field that the API requires, or sent it with another type
                (the SDK does not validate; what is missing is None).
        """
        kind = data.get("type")
        if kind == "response.output_text.delta" or kind == "response.refusal.delta":
            self._refused |= kind == "response.refusal.delta"
            name = f"{data.get('item_id')}.{data.get('content_index')}"
            delta = _text(data.get("delta"))
            self._texts.setdefault(name, []).append(delta)
            yield TextDelta(name, delta)
        elif (event := _typed(data)) is None:
            yield Progress()
        elif event.type == "response.output_text.done":
            yield from self._settle(event.item_id, event.content_index, event.text)
        elif event.type == "response.refusal.done":
            self._refused = True
            yield from self._settle(event.item_id, event.content_index, event.refusal)
        elif event.type == "response.reasoning_summary_text.delta":
            yield self._reason(f"{event.item_id}.s{event.summary_index}", _text(event.delta))
        elif event.type == "response.reasoning_text.delta":
            yield self._reason(f"{event.item_id}.r{event.content_index}", _text(event.delta))
        elif event.type == "response.output_item.added":
            yield from self._begin(event.item)
        elif event.type == "response.mcp_call_arguments.done":
            yield from self._announce(event.item_id, {"arguments": event.arguments})
        elif event.type == "response.code_interpreter_call_code.done":
            yield from self._announce(event.item_id, {"code": event.code})
        elif event.type == "response.output_item.done":
            self.output.append(event.item)
            yield from self._finish(event.item)
        elif event.type == "response.completed" or event.type == "response.incomplete":
            yield from self._end(event.response)
        elif event.type == "response.failed":
            error = event.response.error
            raise from_code(error.code if error else None, error.type if error else None)
        elif event.type == "error":
            raise from_code(event.code)
        else:
            yield Progress()

    def _reason(self, item: str, text: str) -> Event:
        self._reasoning.add(item.rpartition(".")[0])
        return ReasoningDelta(item, text)

    def _settle(self, item_id: str, index: int, whole: str | None) -> Iterator[Event]:
        """Make what was shown of a part what the server says it is."""
        name = f"{item_id}.{index}"
        if not whole:
            yield Progress()
            return
        whole = _text(whole)
        shown = "".join(self._texts.get(name, ()))
        self._texts[name] = [whole]
        if not whole.startswith(shown):
            yield TextReset(name)
            yield TextDelta(name, whole)
        else:
            yield TextDelta(name, whole[len(shown) :]) if len(whole) > len(shown) else Progress()

    def _begin(self, item: ResponseOutputItem) -> Iterator[Event]:
        if item.type in _ANNOUNCED_AT_ONCE and item.id:
            self._announced.add(item.id)
            yield ToolCall(item.id, _ANNOUNCED_AT_ONCE[item.type])
            return
        if (item.type == "mcp_call" or item.type == "code_interpreter_call") and item.id:
            self._pending[item.id] = item
        yield Progress()

    def _announce(self, item_id: str, known: Mapping[str, str]) -> Iterator[Event]:
        """Yield the tool call of `item_id` as soon as its arguments are whole, before it runs."""
        item = self._pending.pop(item_id, None)
        if item is None or item_id in self._announced:
            yield Progress()
            return
        self._announced.add(item_id)
        if item.type == "mcp_call":
            arguments = _arguments(known["arguments"])
            yield ToolCall(item_id, item.name, title=f"{item.server_label}: {item.name}", arguments=arguments)
        else:
            yield ToolCall(item_id, "code_interpreter", arguments=dict(known))

    def _finish(self, item: ResponseOutputItem) -> Iterator[Event]:
        if item.type == "message":
            yield from self._message(item)
        elif item.type == "reasoning":
            if item.id not in self._reasoning:
                texts = [part.text for part in item.summary or ()] or [part.text for part in item.content or ()]
                for index, text in enumerate(texts):
                    yield self._reason(f"{item.id}.s{index}", text)
        elif item.type == "mcp_call":
            if item.id not in self._announced:
                self._pending[item.id] = item
                yield from self._announce(item.id, {"arguments": item.arguments})
            failed = bool(item.error) or item.status in ("failed", "incomplete")
            yield ToolResult(item.id, "failed" if failed else "completed", _short(_text(item.output or "")))
        elif item.type == "code_interpreter_call":
            if item.id not in self._announced:
                self._pending[item.id] = item
                yield from self._announce(item.id, {"code": item.code or ""})
            logs = "\n".join(output.logs for output in item.outputs or () if output.type == "logs")
            yield ToolResult(item.id, "completed" if item.status == "completed" else "failed", _short(logs))
        elif item.type in _FOREIGN or item.type in _ANNOUNCED_AT_ONCE:
            yield from self._tool(item)
        else:
            yield Progress()

    def _tool(self, item: Any) -> Iterator[Event]:
        """A finished tool item of any other type. The types differ in all but their id and status."""
        call_id = str(item.id or item.call_id)
        foreign = item.type in _FOREIGN
        if call_id not in self._announced:
            self._announced.add(call_id)
            name = getattr(item, "name", None) or _ANNOUNCED_AT_ONCE.get(item.type, item.type.removesuffix("_call"))
            yield ToolCall(call_id, name, arguments=_arguments(getattr(item, "arguments", None)))
        if foreign:
            yield ToolResult(call_id, "failed", "This agent has no such tool.")
            return
        status = getattr(item, "status", None) or "completed"
        yield ToolResult(call_id, "completed" if status == "completed" else "failed", _short(_looked_for(item)))

    def _message(self, item: Any) -> Iterator[Event]:
        for index, part in enumerate(item.content or ()):
            refusal = part.type == "refusal"
            self._refused |= refusal
            yield from self._settle(item.id, index, part.refusal if refusal else part.text)

    def _end(self, response: Response) -> Iterator[Event]:
        if response.status in ("failed", "cancelled"):
            raise from_code(response.error.code if response.error else None)
        if not any(self._texts.values()):
            for item in response.output or ():
                if item.type == "message":
                    yield from self._message(item)
        if response.usage is not None:
            self.usage = _usage(response.usage)
        if response.status == "incomplete" or response.incomplete_details is not None:
            reason = response.incomplete_details.reason if response.incomplete_details else None
            self.stop_reason = "max_tokens" if reason == "max_output_tokens" else reason or "max_tokens"
        else:
            self.stop_reason = "refusal" if self._refused else "end_turn"


_EVENTS: dict[str, type[Any]] = {
    get_args(member.model_fields["type"].annotation)[0]: member for member in get_args(get_args(ResponseStreamEvent)[0])
}
"""The SDK's event classes by their type."""


def _typed(data: Mapping[str, Any]) -> ResponseStreamEvent | None:
    """`data` as the SDK's own object, None for an event that it does not know."""
    kind = data.get("type")
    known = _EVENTS.get(kind) if isinstance(kind, str) else None
    return None if known is None else cast("ResponseStreamEvent", known.construct(**data))


def warm_up() -> None:
    """Read one answer of every kind of item, for the SDK builds the validators of its classes when it first needs them.

    In the first turn that took 210 ms of the event loop; after this the whole turn takes 6.
    """
    text = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    message = {"type": "message", "id": "i", "role": "assistant", "status": "completed", "content": [text]}
    reasoning = {"type": "reasoning", "id": "i", "summary": [{"type": "summary_text", "text": ""}], "content": []}
    items = [message, reasoning, *({"type": kind, "id": "i"} for kind in ("mcp_call", "mcp_approval_request"))]
    items += [{"type": kind, "id": "i"} for kind in (*_ANNOUNCED_AT_ONCE, "code_interpreter_call", "mcp_list_tools")]
    usage = {"input_tokens": 1, "input_tokens_details": {}, "output_tokens": 1, "output_tokens_details": {}}
    response = {"id": "r", "object": "response", "status": "completed", "output": items, "usage": usage}
    for kind in _EVENTS:
        _typed({"type": kind, "response": response, "item": message, "part": text})
    for item in items:
        _typed({"type": "response.output_item.done", "item": item})


def _usage(usage: ResponseUsage) -> Usage:
    # Servers other than OpenAI's leave the details out, in whole or in part.
    read = getattr(usage, "input_tokens_details", None)
    written = getattr(usage, "output_tokens_details", None)
    return Usage(
        input_tokens=_count(usage, "input_tokens"),
        output_tokens=_count(usage, "output_tokens"),
        cache_read_tokens=_count(read, "cached_tokens"),
        cache_write_tokens=_count(read, "cache_write_tokens"),
        reasoning_tokens=_count(written, "reasoning_tokens"),
    )


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise TypeError


def _count(holder: object, name: str) -> int:
    value = getattr(holder, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def _arguments(text: object) -> Mapping[str, Any]:
    if isinstance(text, Mapping):
        return text
    if not isinstance(text, str) or not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {"input": text}
    return value if isinstance(value, dict) else {"input": value}


def _looked_for(item: Any) -> str:
    """What a search looked for, the one thing of its item worth a line."""
    action = getattr(item, "action", None)
    queries: Sequence[Any] = getattr(item, "queries", None) or getattr(action, "queries", None) or ()
    single = getattr(action, "query", None) or getattr(action, "url", None)
    return "; ".join(str(query) for query in queries) or str(single or "")


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SUMMARY else text[: _LONGEST_SUMMARY - 1] + "…"
