"""A server that speaks OpenAI's Responses API: HTTP/1.1 with server-sent events, over a real socket.

It is strict: a request that the real API would refuse is answered with 400 and noted in `violations`, which
leaving the context manager turns into a failure. What it answers is scripted per request, or computed from it:

    async with ResponsesApi() as api:
        api.script(Reply(Text("Hel", gate, "lo")), Refuse(429, retry_after=1), Reply(Text("a"), DROP))
        api.answer = lambda call: Reply(Text(call.last_user_text.upper()))   # once the script is used up

The parts of a reply are sent in their order; `asyncio.Event`s among them are waited for, `DROP` cuts the
connection, `EOF` ends the stream without its terminal event and `STALL` says nothing until the client leaves.

Shapes: https://platform.openai.com/docs/api-reference/responses-streaming
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self, TypeAlias

__all__ = [
    "DROP",
    "EOF",
    "STALL",
    "Call",
    "CustomToolCall",
    "FunctionCall",
    "Reasoning",
    "Refuse",
    "Reply",
    "ResponsesApi",
    "Text",
    "WebSearch",
    "unused_port",
]

JSON: TypeAlias = dict[str, Any]


class Fault(Enum):
    DROP = "the connection is reset"
    EOF = "the body ends properly, without a terminal event"
    STALL = "nothing more is sent until the client leaves"


DROP, EOF, STALL = Fault.DROP, Fault.EOF, Fault.STALL
Step: TypeAlias = str | asyncio.Event | Fault


class _Cut(Exception):
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


@dataclass
class Call:
    """One request as it came in."""

    headers: Mapping[str, str]
    body: JSON
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the answer is over, or the client has left."""
    left: bool = False
    """The client closed the connection before the answer was over."""

    @property
    def input(self) -> list[JSON]:
        """The items of the conversation; a bare string counts as one user message."""
        given = self.body["input"]
        if isinstance(given, str):
            return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]
        return list(given)

    def texts(self, role: str) -> list[str]:
        """The texts of all messages of a role, oldest first."""
        found = []
        for item in self.input:
            if item.get("type", "message") == "message" and item["role"] == role:
                content = item["content"]
                found.append(content if isinstance(content, str) else "".join(c.get("text", "") for c in content))
        return found

    @property
    def last_user_text(self) -> str:
        return self.texts("user")[-1]

    def output(self, call_id: str) -> str:
        """What the client reports as the result of a tool call."""
        for item in reversed(self.input):
            if item.get("call_id") == call_id and str(item["type"]).endswith("_output"):
                output = item["output"]
                return output if isinstance(output, str) else "".join(part.get("text", "") for part in output)
        raise LookupError(call_id)

    @property
    def tools(self) -> set[str]:
        """The names of the tools on offer; some clients offer them as items of the input."""
        offered = list(self.body.get("tools") or [])
        for item in self.input:
            if item.get("type") == "additional_tools":
                offered += item["tools"]
        return {str(tool.get("name", tool["type"])) for tool in offered}


def unused_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _problem(body: Any) -> str | None:
    """Why the real API would refuse the body, or None."""
    if not isinstance(body, dict):
        return "the body is not an object"
    if not isinstance(body.get("model"), str) or not body["model"]:
        return "model is missing"
    if body.get("stream") is not True:
        return "stream is not true"
    given = body.get("input")
    if isinstance(given, str):
        return None if given else "input is empty"
    if not isinstance(given, list) or not given:
        return "input is neither text nor a list of items"
    for tool in body.get("tools") or []:
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            return "a tool has no type"
        if tool["type"] == "function" and not (isinstance(tool.get("name"), str) and "parameters" in tool):
            return "a function lacks name or parameters"
        if tool["type"] == "custom" and not isinstance(tool.get("name"), str):
            return "a custom tool lacks its name"
    return _items_problem(given)


_CONTENT = {
    "user": {"input_text", "input_image", "input_file", "input_audio"},
    "developer": {"input_text"},
    "system": {"input_text"},
    "assistant": {"output_text", "refusal"},
}
_CALLS = {
    "function_call": ("name", "arguments"),
    "custom_tool_call": ("name", "input"),
    "local_shell_call": ("action",),
    "tool_search_call": ("arguments",),
}


def _items_problem(items: Iterable[Any]) -> str | None:
    open_calls: dict[str, str] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            return f"input[{index}] is not an object"
        kind = item.get("type", "message")
        if kind == "message":
            if item.get("role") not in _CONTENT:
                return f"input[{index}].role is wrong"
            content = item.get("content")
            if isinstance(content, str):
                continue
            if not isinstance(content, list) or not content:
                return f"input[{index}].content is empty"
            for part in content:
                if part.get("type") not in _CONTENT[item["role"]]:
                    return f"input[{index}].content has a part that the role {item['role']} may not send"
        elif kind in _CALLS:
            if not isinstance(item.get("call_id"), str) or any(name not in item for name in _CALLS[kind]):
                return f"input[{index}] lacks a field of a {kind}"
            open_calls[item["call_id"]] = kind
        elif str(kind).endswith("_output"):
            expected = str(kind).removesuffix("_output")
            if open_calls.pop(item.get("call_id", ""), None) != expected + (
                "_call" if expected == "tool_search" else ""
            ):
                return f"input[{index}]: no {expected} for this output"
            if "output" not in item and "tools" not in item:
                return f"input[{index}].output is missing"
        elif kind == "reasoning":
            if not isinstance(item.get("summary"), list):
                return f"input[{index}].summary is missing"
        elif kind == "additional_tools":
            if item.get("role") != "developer" or not isinstance(item.get("tools"), list):
                return f"input[{index}] lacks a field of an additional_tools"
        elif kind not in {"web_search_call", "item_reference", "compaction", "image_generation_call"}:
            return f"input[{index}].type {kind!r} is unknown"
    if open_calls:
        return f"no output for {sorted(open_calls)}"
    return None


class ResponsesApi:
    """The server; listens on a port of its own from entering the context until leaving it."""

    def __init__(self, key: str | None = "test-key", models: Iterable[str] = ("test-model",)) -> None:
        self.key = key
        """The bearer token that requests must carry; None accepts any or none."""
        self.models = tuple(models)
        self.calls: list[Call] = []
        self.violations: list[str] = []
        self.answer: Callable[[Call], Reply | Refuse] = lambda call: Reply(Text("ok"))
        self._script: deque[Reply | Refuse] = deque()
        self._arrived = asyncio.Condition()
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def open(self) -> int:
        """Answers under way."""
        return sum(not call.ended.is_set() for call in self.calls)

    def script(self, *replies: Reply | Refuse) -> None:
        """Answer the next requests with these, in order; afterwards `answer` decides."""
        self._script.extend(replies)

    async def called(self, count: int = 1, within: float = 20.0) -> Call:
        """Wait until `count` requests have come in all in all; returns the `count`-th."""
        async with asyncio.timeout(within), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) >= count)
        return self.calls[count - 1]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in tuple(self._open):
            writer.transport.abort()
        await self._server.wait_closed()
        if kind is None:
            assert not self.violations, self.violations

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            request_line, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = request_line.split(" ", 2)
            headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
            raw = await reader.readexactly(int(headers.get("content-length", "0")))
            await self._route(method, target.partition("?")[0], headers, raw, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _route(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        raw: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if self.key is not None and headers.get("authorization") != f"Bearer {self.key}":
            return _error(writer, Refuse(401, "invalid_api_key", "Incorrect API key provided"))
        if (method, path) == ("GET", "/v1/models"):
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "fake"} for name in self.models]
            return _whole(writer, 200, {"object": "list", "data": data})
        if (method, path) != ("POST", "/v1/responses"):
            self.violations.append(f"{method} {path}")
            return _error(writer, Refuse(404, None, f"{method} {path}"))
        if not headers.get("content-type", "").startswith("application/json"):
            self.violations.append("content-type is not application/json")
            return _error(writer, Refuse(415))
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        problem = _problem(body)
        if problem is not None:
            self.violations.append(problem)
            return _error(writer, Refuse(400, "invalid_request_error", problem))
        call = Call(headers, body)
        async with self._arrived:
            self.calls.append(call)
            self._arrived.notify_all()
        reply = self._script.popleft() if self._script else self.answer(call)
        if isinstance(reply, Refuse):
            call.ended.set()
            return _error(writer, reply)
        return await self._stream(call, reply, reader, writer)

    async def _stream(
        self, call: Call, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send the reply; stops at once when the client leaves."""
        sending = asyncio.ensure_future(self._send(call, reply, writer))
        leaving = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            call.left = not sending.done()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            call.ended.set()
        if sending.done() and not sending.cancelled() and (failure := sending.exception()) is not None:
            raise failure

    async def _send(self, call: Call, reply: Reply, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n"
        )
        numbers = itertools.count()
        try:
            async for event in self._events(call, reply):
                event["sequence_number"] = next(numbers)
                payload = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
                writer.write(b"%x\r\n%b\r\n" % (len(payload), payload))
                await writer.drain()
        except _Cut as cut:
            await writer.drain()
            if cut.fault is STALL:
                await asyncio.Event().wait()
            if cut.fault is DROP:
                writer.transport.abort()
                return
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _events(self, call: Call, reply: Reply) -> AsyncIterator[JSON]:
        number = next(self._numbers)
        response: JSON = {
            "id": f"resp_{number}",
            "object": "response",
            "created_at": 0,
            "model": call.body["model"],
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
                raise _Cut(part)
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
            raise _Cut(piece)
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


def _whole(writer: asyncio.StreamWriter, status: int, body: JSON, extra: str = "") -> None:
    payload = json.dumps(body).encode()
    writer.write(
        f"HTTP/1.1 {status} Fake\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
        f"{extra}Connection: close\r\n\r\n".encode()
        + payload
    )


def _error(writer: asyncio.StreamWriter, refusal: Refuse) -> None:
    extra = f"Retry-After: {refusal.retry_after:g}\r\n" if refusal.retry_after is not None else ""
    error = {"message": refusal.message, "type": refusal.code or "error", "code": refusal.code, "param": None}
    _whole(writer, refusal.status, {"error": error}, extra)
