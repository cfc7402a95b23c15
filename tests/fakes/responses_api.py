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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.fakes.responses_rules import problem
from tests.fakes.responses_script import (
    DROP,
    EOF,
    JSON,
    STALL,
    CustomToolCall,
    Cut,
    FunctionCall,
    Reasoning,
    Refuse,
    Reply,
    Text,
    WebSearch,
    stream_events,
)

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


class ResponsesApi:
    """The server; listens from entering the context until leaving it, on a port of its own unless `port` names one."""

    def __init__(self, key: str | None = "test-key", models: Iterable[str] = ("test-model",), *, port: int = 0) -> None:
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
        self.port = port

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
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
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
        wrong = problem(body)
        if wrong is not None:
            self.violations.append(wrong)
            return _error(writer, Refuse(400, "invalid_request_error", wrong))
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
            async for event in stream_events(reply, call.body["model"], next(self._numbers)):
                event["sequence_number"] = next(numbers)
                payload = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
                writer.write(b"%x\r\n%b\r\n" % (len(payload), payload))
                await writer.drain()
        except Cut as cut:
            await writer.drain()
            if cut.fault is STALL:
                await asyncio.Event().wait()
            if cut.fault is DROP:
                writer.transport.abort()
                return
        writer.write(b"0\r\n\r\n")
        await writer.drain()


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
