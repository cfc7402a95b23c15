"""A strict fake of a server of OpenAI's Responses API, over a real socket.

A test hands it one script per expected request. What the client sends is checked against the SDK's own parameter
types, and what a script sends against its event types, so neither side of a test can drift from the API.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from openai.types.responses import ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import ConfigDict, TypeAdapter, with_config

__all__ = ["Call", "Hangup", "Refusal", "ResponsesFake", "function_call", "response", "serving", "text_answer"]

Script = Callable[["Call"], Awaitable[None]]


class Hangup(Exception):
    """Raised by a script: the connection is reset here and now."""


class Refusal(Exception):
    """What a client did that the real API refuses; reported when the test ends."""


@functools.cache
def _requests() -> TypeAdapter[Any]:
    return TypeAdapter(with_config(ConfigDict(extra="forbid"))(ResponseCreateParamsStreaming))


@functools.cache
def _events() -> TypeAdapter[Any]:
    return TypeAdapter(ResponseStreamEvent)


def response(status: str = "completed", **fields: Any) -> dict[str, Any]:
    """A response object as the API sends it."""
    whole: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "model": "test-model",
        "status": status,
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 2},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 4},
            "total_tokens": 18,
        },
    }
    return whole | fields


class Call:
    """One request, and what a script can do about it."""

    def __init__(
        self, head: str, headers: Mapping[str, str], body: dict[str, Any], writer: asyncio.StreamWriter
    ) -> None:
        self.head = head
        self.headers = headers
        self.body = body
        self.gone = asyncio.Event()
        """Set when the client closed the connection."""
        self._writer = writer
        self._sequence = 0
        self._begun = False

    async def status(self, status: int, body: object = None, **headers: str) -> None:
        """Answer with a whole JSON body instead of a stream."""
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write("\r\n".join((*lines, "", "")).encode() + data)
        await self._writer.drain()

    async def begin(self) -> None:
        """Send the head of a stream."""
        self._begun = True
        head = ("HTTP/1.1 200 OK", "content-type: text/event-stream; charset=utf-8", "transfer-encoding: chunked")
        self._writer.write("\r\n".join((*head, "", "")).encode())
        await self._writer.drain()

    async def raw(self, data: bytes) -> None:
        """Send bytes of the body as they are."""
        if not self._begun:
            await self.begin()
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._writer.drain()

    async def send(self, kind: str, *, strict: bool = True, **fields: Any) -> None:
        """Send one event. `strict=False` is for servers that do not keep to the API."""
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        if strict:
            _events().validate_python(event)
        await self.raw(f"event: {kind}\ndata: {json.dumps(event)}\n\n".encode())

    async def text(self, delta: str, item: str = "msg_1", index: int = 0) -> None:
        await self.send(
            "response.output_text.delta",
            item_id=item,
            content_index=index,
            output_index=0,
            delta=delta,
            logprobs=[],
        )

    async def message(self, *deltas: str, item: str = "msg_1") -> dict[str, Any]:
        """Send a whole message as the real API does; returns the finished item."""
        at: dict[str, Any] = {"output_index": 0}
        place = at | {"item_id": item, "content_index": 0}
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        whole = part | {"text": "".join(deltas)}
        message: dict[str, Any] = {
            "type": "message",
            "id": item,
            "role": "assistant",
            "status": "in_progress",
            "content": [],
        }
        await self.send("response.output_item.added", **at, item=message)
        await self.send("response.content_part.added", **place, part=part)
        for delta in deltas:
            await self.text(delta, item)
        await self.send("response.output_text.done", **place, text=whole["text"], logprobs=[])
        await self.send("response.content_part.done", **place, part=whole)
        message = message | {"status": "completed", "content": [whole]}
        await self.send("response.output_item.done", **at, item=message)
        return message

    async def item_done(self, strict: bool = True, **item: Any) -> None:
        await self.send("response.output_item.done", strict=strict, output_index=0, item=item)

    async def completed(self, **fields: Any) -> None:
        await self.send("response.completed", response=response(**fields))

    async def end(self) -> None:
        """End the body as HTTP wants it."""
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()


def text_answer(*deltas: str) -> Script:
    """A whole, ordinary answer in `deltas`, with every event that the real API sends around them."""

    async def script(call: Call) -> None:
        await call.send("response.created", response=response("in_progress", usage=None))
        item = await call.message(*deltas)
        await call.completed(output=[item])
        await call.end()

    return script


def function_call(name: str, **arguments: Any) -> Script:
    """An answer that calls a function of the client."""

    async def script(call: Call) -> None:
        await call.send("response.created", response=response("in_progress", usage=None))
        item: dict[str, Any] = {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": name,
            "arguments": "",
        }
        whole = item | {"arguments": json.dumps(arguments), "status": "completed"}
        at: dict[str, Any] = {"output_index": 0}
        await call.send("response.output_item.added", **at, item=item | {"status": "in_progress"})
        place = at | {"item_id": "fc_1"}
        await call.send("response.function_call_arguments.delta", **place, delta=whole["arguments"])
        await call.send("response.function_call_arguments.done", **place, name=name, arguments=whole["arguments"])
        await call.send("response.output_item.done", **at, item=whole)
        await call.completed(output=[whole])
        await call.end()

    return script


class ResponsesFake:
    """The server. `calls` holds every request in order; `refusals` what was wrong with any of them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.refusals: list[str] = []
        self.connections = 0
        self.open = 0
        self.port = 0
        self.expects_key: str | None = "test-key"
        self.checks_parameters = True
        """Off for clients that are not ours."""
        self.changed = asyncio.Condition()
        """Notified when a request arrives and when a connection ends."""
        self._scripts: deque[Script] = deque()
        self._default: Script | None = None
        self._serving: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, *scripts: Script) -> None:
        """Play these scripts, one per request."""
        self._scripts.extend(scripts)

    def answer_always(self, script: Script) -> None:
        self._default = script

    async def call(self, number: int = 0) -> Call:
        """The request of that number, as soon as it is there."""
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: len(self.calls) > number)
            return self.calls[number]

    async def deserted(self) -> None:
        """Returns when no connection is open any more."""
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: self.open == 0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        task = asyncio.current_task()
        assert task is not None
        self._serving[task] = writer
        try:
            while await self._one(reader, writer):
                pass
        except Hangup:
            writer.transport.abort()
        except Refusal as error:
            self.refusals.append(str(error))
            writer.transport.abort()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            del self._serving[task]
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            async with self.changed:
                self.changed.notify_all()

    async def stop(self) -> None:
        """Break every connection and wait for its end."""
        for task, writer in tuple(self._serving.items()):
            writer.transport.abort()
            task.cancel()
        async with asyncio.timeout(5):
            await asyncio.gather(*self._serving, return_exceptions=True)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.strip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        self._check(first, headers, body)
        call = Call(first, headers, body, writer)
        async with self.changed:
            self.calls.append(call)
            self.changed.notify_all()
        if not self._scripts and self._default is None:
            raise Refusal("a request that no script expects")
        script = self._scripts.popleft() if self._scripts else self._default
        assert script is not None
        playing = asyncio.ensure_future(script(call))
        watching = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait((playing, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                call.gone.set()
                if not playing.done():
                    async with asyncio.timeout(5):
                        await asyncio.wait((playing,))
        finally:
            for task in (playing, watching):
                task.cancel()
            outcomes = await asyncio.gather(playing, watching, return_exceptions=True)
        if isinstance(outcomes[0], Exception) and not isinstance(outcomes[0], ConnectionError):
            raise outcomes[0]
        return not call.gone.is_set()

    def _check(self, first: str, headers: Mapping[str, str], body: object) -> None:
        if first != "POST /v1/responses HTTP/1.1":
            raise Refusal(f"not the Responses API: {first}")
        expected = f"Bearer {self.expects_key}" if self.expects_key else None
        if headers.get("authorization") != expected:
            raise Refusal("wrong or unwanted Authorization")
        if headers.get("content-type") != "application/json":
            raise Refusal("wrong content type")
        if not self.checks_parameters:
            return
        try:
            _requests().validate_python(body)
        except ValueError as error:
            raise Refusal(f"not a request of the API: {error}") from None


@asynccontextmanager
async def serving() -> AsyncIterator[ResponsesFake]:
    """A fake on a free port; fails at its end if the client broke a rule of the API."""
    fake = ResponsesFake()
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    fake.port = server.sockets[0].getsockname()[1]
    try:
        yield fake
    finally:
        server.close()
        await fake.stop()
        await server.wait_closed()
    assert fake.refusals == []
