"""What the fake Responses API is told to answer, and the events that follow from it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

JSON: TypeAlias = dict[str, Any]


class Fault(Enum):
    DROP = "the connection is reset"
    EOF = "the body ends properly, without a terminal event"
    STALL = "nothing more is sent until the client leaves"


DROP, EOF, STALL = Fault.DROP, Fault.EOF, Fault.STALL
Step: TypeAlias = str | asyncio.Event | Fault


class Cut(Exception):
    """The answer is to end here, in this way."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault)
        self.fault = fault


class Text:
    """A message of the assistant, in the given pieces."""

    def __init__(self, *pieces: Step, phase: str | None = None) -> None:
        self.pieces = pieces
        self.phase = phase


class Reasoning:
    """A reasoning item with one summary part, in the given pieces."""

    def __init__(self, *pieces: Step) -> None:
        self.pieces = pieces


@dataclass(frozen=True)
class FunctionCall:
    name: str
    arguments: Mapping[str, Any] | str
    call_id: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class CustomToolCall:
    """A call of a tool that takes free text, as `apply_patch` does."""

    name: str
    input: str
    call_id: str | None = None
    namespace: str | None = None


@dataclass(frozen=True)
class WebSearch:
    query: str


Part: TypeAlias = Text | Reasoning | FunctionCall | CustomToolCall | WebSearch | asyncio.Event | Fault


class Reply:
    """A streamed answer.

    `error` ends it with `response.failed` (code, message), `incomplete` with `response.incomplete` (reason).
    """

    def __init__(
        self,
        *parts: Part,
        input_tokens: int = 11,
        cached_tokens: int = 0,
        output_tokens: int = 7,
        reasoning_tokens: int = 0,
        error: tuple[str, str] | None = None,
        incomplete: str | None = None,
    ) -> None:
        self.parts = parts
        self.error = error
        self.incomplete = incomplete
        self.usage: JSON = {
            "input_tokens": input_tokens,
            "input_tokens_details": {"cached_tokens": cached_tokens},
            "output_tokens": output_tokens,
            "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
            "total_tokens": input_tokens + output_tokens,
        }


@dataclass(frozen=True)
class Refuse:
    """An error before the first byte of an answer."""

    status: int
    code: str | None = None
    message: str = "the fake refuses"
    retry_after: float | None = None


async def stream_events(reply: Reply, model: str, number: int) -> AsyncIterator[JSON]:
    """All events of one answer, without their numbers.

    Raises:
        Cut: at a fault.
    """
    response: JSON = {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": 0,
        "model": model,
        "status": "in_progress",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    yield {"type": "response.created", "response": dict(response)}
    yield {"type": "response.in_progress", "response": dict(response)}
    done: list[JSON] = []
    for part in reply.parts:
        if isinstance(part, asyncio.Event):
            await part.wait()
        elif isinstance(part, Fault):
            raise Cut(part)
        else:
            async for event in _item(part, f"{number}_{len(done)}", len(done)):
                yield event
                if event["type"] == "response.output_item.done":
                    done.append(event["item"])
    response |= {"output": done, "usage": reply.usage}
    if reply.error is not None:
        code, message = reply.error
        response |= {"status": "failed", "error": {"code": code, "message": message}}
        yield {"type": "response.failed", "response": response}
    elif reply.incomplete is not None:
        response |= {"status": "incomplete", "incomplete_details": {"reason": reply.incomplete}}
        yield {"type": "response.incomplete", "response": response}
    else:
        yield {"type": "response.completed", "response": response | {"status": "completed"}}


async def _pieces(pieces: tuple[Step, ...]) -> AsyncIterator[str]:
    for piece in pieces:
        if isinstance(piece, str):
            yield piece
        elif isinstance(piece, Fault):
            raise Cut(piece)
        else:
            await piece.wait()


async def _item(
    part: Text | Reasoning | FunctionCall | CustomToolCall | WebSearch, key: str, index: int
) -> AsyncIterator[JSON]:
    """The events of one output item, from added to done."""
    at: JSON = {"output_index": index}
    if isinstance(part, Text):
        item: JSON = {"id": f"msg_{key}", "type": "message", "role": "assistant", "status": "in_progress"}
        if part.phase:
            item["phase"] = part.phase
        where = at | {"item_id": item["id"], "content_index": 0}
        yield at | {"type": "response.output_item.added", "item": item | {"content": []}}
        content: JSON = {"type": "output_text", "text": "", "annotations": []}
        yield where | {"type": "response.content_part.added", "part": content}
        text = ""
        async for piece in _pieces(part.pieces):
            text += piece
            yield where | {"type": "response.output_text.delta", "delta": piece, "logprobs": []}
        content = content | {"text": text}
        yield where | {"type": "response.output_text.done", "text": text, "logprobs": []}
        yield where | {"type": "response.content_part.done", "part": content}
        item |= {"status": "completed", "content": [content]}
    elif isinstance(part, Reasoning):
        item = {"id": f"rs_{key}", "type": "reasoning"}
        where = at | {"item_id": item["id"], "summary_index": 0}
        yield at | {"type": "response.output_item.added", "item": item | {"summary": []}}
        yield where | {"type": "response.reasoning_summary_part.added", "part": {"type": "summary_text", "text": ""}}
        text = ""
        async for piece in _pieces(part.pieces):
            text += piece
            yield where | {"type": "response.reasoning_summary_text.delta", "delta": piece}
        yield where | {"type": "response.reasoning_summary_text.done", "text": text}
        yield where | {"type": "response.reasoning_summary_part.done", "part": {"type": "summary_text", "text": text}}
        item |= {"summary": [{"type": "summary_text", "text": text}], "encrypted_content": "opaque"}
    elif isinstance(part, FunctionCall):
        arguments = part.arguments if isinstance(part.arguments, str) else json.dumps(part.arguments)
        item = {"id": f"fc_{key}", "type": "function_call", "name": part.name, "status": "in_progress"}
        item["call_id"] = part.call_id or f"call_{key}"
        if part.namespace:
            item["namespace"] = part.namespace
        where = at | {"item_id": item["id"]}
        yield at | {"type": "response.output_item.added", "item": item | {"arguments": ""}}
        yield where | {"type": "response.function_call_arguments.delta", "delta": arguments}
        yield where | {"type": "response.function_call_arguments.done", "name": part.name, "arguments": arguments}
        item |= {"status": "completed", "arguments": arguments}
    elif isinstance(part, CustomToolCall):
        item = {"id": f"ctc_{key}", "type": "custom_tool_call", "name": part.name, "status": "in_progress"}
        item["call_id"] = part.call_id or f"call_{key}"
        if part.namespace:
            item["namespace"] = part.namespace
        where = at | {"item_id": item["id"]}
        yield at | {"type": "response.output_item.added", "item": item | {"input": ""}}
        yield where | {"type": "response.custom_tool_call_input.delta", "delta": part.input}
        yield where | {"type": "response.custom_tool_call_input.done", "input": part.input}
        item |= {"status": "completed", "input": part.input}
    else:
        item = {"id": f"ws_{key}", "type": "web_search_call", "status": "in_progress"}
        where = at | {"item_id": item["id"]}
        action = {"type": "search", "query": part.query}
        yield at | {"type": "response.output_item.added", "item": item | {"action": action}}
        yield where | {"type": "response.web_search_call.searching"}
        yield where | {"type": "response.web_search_call.completed"}
        item |= {"status": "completed", "action": action}
    yield at | {"type": "response.output_item.done", "item": item}
