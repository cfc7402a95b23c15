"""A strict fake of Anthropic's Messages API over a real socket.

    async with MessagesApi() as api:
        api.script = answer(text("Hel", gate, "lo"))
        ... base_url=api.url ...
        assert api.calls[0].body["model"] == "claude-sonnet-5-5"

`api.queue` holds scripts for the next calls, `api.script` answers all others: a script, or a function of the `Call`.
A request that the real API would refuse is refused, and noted in `api.refusals`.

As a process: `python -m tests.fakes.messages_api --port 0 --pieces 20 --interval 0.2` prints its URL. There the text of
the last user message may choose the script, as JSON: `{"pieces": 20, "interval": 0.2}`; see `script_of`. `GET /calls`
tells how many calls came.

The socket is driven directly, without an HTTP library, so that every fault is exact.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec

from tests.fakes.messages_rules import Refusal, error_body, error_type, validate
from tests.fakes.messages_script import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Cut,
    EndEarly,
    Gate,
    Pause,
    Pieces,
    Raw,
    Script,
    Send,
    Stall,
    Status,
    Step,
    answer,
    end,
    failure,
    start,
    text,
)

__all__ = ["Call", "MessagesApi", "main", "script_of"]

MAX_BODY = 32 * 1024 * 1024
"""The real API's own limit of a request."""

_STREAM_HEADERS = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"request-id: req_fake\r\ntransfer-encoding: chunked\r\n\r\n"
)


@dataclass(slots=True, eq=False)
class Call:
    """One request that was accepted."""

    headers: dict[str, str]
    body: dict[str, Any]
    target: str
    sent: list[float] = field(default_factory=list)
    """When each chunk of the answer was sent, as `time.monotonic()`."""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """The client closed its connection while the answer was still going on."""
    finished: asyncio.Event = field(default_factory=asyncio.Event)
    """The script is over, in whatever way."""

    @property
    def question(self) -> str:
        """The text of the last user message."""
        content = self.body["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return "".join(block.get("text", "") for block in content)


ScriptSource: TypeAlias = "Script | Callable[[Call], Script]"


class _Gone(Exception):
    """The connection is over; nothing can be sent."""


class MessagesApi:
    """The server. Make as many as needed; each has its own port on 127.0.0.1."""

    def __init__(self, script: ScriptSource | None = None, *, api_key: str | None = None, port: int = 0) -> None:
        self.script: ScriptSource = script if script is not None else answer(text("Hello", " there"))
        self.queue: deque[Script] = deque()
        self.calls: list[Call] = []
        self.refusals: list[Refusal] = []
        self.deaf = False
        """Accept connections and never read from them."""
        self.keep_alive = True
        self.connections = 0
        """How many connections were opened."""
        self.connected = asyncio.Event()
        self._api_key = api_key
        self._port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._call_made = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self._port, limit=2**20, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def called(self, number: int = 1, *, deadline: float = 5.0) -> Call:
        """Wait for the call of this number, counted from one."""
        async with asyncio.timeout(deadline), self._call_made:
            await self._call_made.wait_for(lambda: len(self.calls) >= number)
        return self.calls[number - 1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.connected.set()
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.deaf:
                await asyncio.Event().wait()
            early: bytes | None = b""
            while early is not None:
                early = await self._exchange(early, reader, writer)
                if not self.keep_alive:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, _Gone):
            pass
        except asyncio.CancelledError:
            writer.transport.abort()  # the server is closing; nothing waits for this task's outcome
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, early: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes | None:
        """One request and its answer. `early` is what was already read of the request.

        Returns what was already read of the next one; None when the connection carries no other.
        """
        head = early + await reader.readuntil(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        method, target, _ = request_line.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if length > MAX_BODY:
            self._plain(writer, 413, error_body("request_too_large", "Request exceeds the maximum size"))
            return None
        body = await reader.readexactly(length)
        if (method, target) == ("GET", "/calls"):
            self._plain(writer, 200, msgspec.json.encode({"calls": len(self.calls), "refusals": len(self.refusals)}))
            return b""
        try:
            data = validate(method, target, headers, body, self._api_key)
        except Refusal as refusal:
            self.refusals.append(refusal)
            self._plain(writer, refusal.status, error_body(error_type(refusal.status), refusal.message))
            return b""
        call = Call(headers, data, target)
        script = self.queue.popleft() if self.queue else self.script
        async with self._call_made:
            self.calls.append(call)
            self._call_made.notify_all()
        return await _Answer(call, reader, writer).play(script(call) if callable(script) else script)

    @staticmethod
    def _plain(writer: asyncio.StreamWriter, status: int, body: bytes, **headers: str) -> None:
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = (
            f"HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{extra}content-length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)


class _Answer:
    """One streamed answer: plays a script on one connection while watching whether the client goes away."""

    def __init__(self, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._call = call
        self._reader = reader
        self._writer = writer
        self._index = -1

    async def play(self, script: Script) -> bytes:
        """Returns what the client has already sent of its next request."""
        playing = asyncio.ensure_future(self._play(script))
        watching = asyncio.ensure_future(self._reader.read(1))
        try:
            await asyncio.wait((playing, watching), return_when=asyncio.FIRST_COMPLETED)
            if watching.done() and not playing.done():
                if watching.exception() is not None or not watching.result():
                    self._call.closed.set()
                    raise _Gone
                await playing
            playing.result()
            return watching.result() if watching.done() else b""
        finally:
            for task in (playing, watching):
                task.cancel()
            await asyncio.gather(playing, watching, return_exceptions=True)
            self._call.finished.set()

    async def _play(self, script: Script) -> None:
        match script[0]:
            case Status() as status:
                kind = status.kind or error_type(status.code)
                body = status.body if status.body is not None else error_body(kind, status.message, status.details)
                MessagesApi._plain(self._writer, status.code, body, **status.headers)
                return
            case Stall():
                await asyncio.Event().wait()
            case Cut(reset=reset):
                self._cut(reset)
        self._writer.write(_STREAM_HEADERS)
        for step in script:
            if not await self._step(step):
                break
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def _step(self, step: Step) -> bool:
        """Returns whether the script goes on."""
        match step:
            case Send(data=data):
                self._event(data)
            case Raw(data=data):
                self._chunk(data)
            case BlockStart(block=block):
                self._index += 1
                self._event({"type": "content_block_start", "index": self._index, "content_block": block})
            case BlockDelta(delta=delta):
                self._event({"type": "content_block_delta", "index": self._index, "delta": delta})
            case BlockStop():
                self._event({"type": "content_block_stop", "index": self._index})
            case Pieces():
                await self._pieces(step)
            case Pause(seconds=seconds):
                await asyncio.sleep(seconds)
            case Gate(opened=opened, reached=reached):
                await self._writer.drain()
                reached.set()
                await opened.wait()
            case Stall():
                await asyncio.Event().wait()
            case Cut(reset=reset):
                self._cut(reset)
            case EndEarly():
                return False
            case Status():
                raise AssertionError("Status is only possible as the first step")
        return True

    async def _pieces(self, step: Pieces) -> None:
        await self._step(BlockStart({"type": "text", "text": ""}))
        quoted = msgspec.json.encode(step.text)
        head = (
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,' % self._index
            + b'"delta":{"type":"text_delta","text":'
        )
        first = time.monotonic()
        for number in range(step.count):
            delay = first + number * step.interval - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
            elif number % 50 == 0:
                await self._writer.drain()
                await asyncio.sleep(0)  # drain alone does not yield while the buffer is small
            piece = b'"%d "' % time.monotonic_ns() if step.stamp else quoted
            self._chunk(head + piece + b"}}\n\n")
        await self._step(BlockStop())

    def _event(self, data: Any) -> None:
        name = str(data["type"]).encode()
        self._chunk(b"event: " + name + b"\ndata: " + msgspec.json.encode(data) + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self._call.sent.append(time.monotonic())
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _cut(self, reset: bool) -> None:
        if reset:
            linger = struct.pack("ii", 1, 0)
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._writer.transport.abort()
        else:
            self._writer.close()
        raise _Gone


def script_of(call: Call, pieces: int, interval: float) -> Script:
    """The script that the last user message chooses, else so many pieces.

    Keys: `pieces`, `interval` (seconds), `text` and `stamp`; after the pieces `error` (an error type in the stream) or
    `end` (`cut`, `reset`, `early` or `stall`); or, instead of it all, `status` and `retry_after`.
    """
    wish: dict[str, Any] = {}
    with contextlib.suppress(msgspec.DecodeError):
        decoded = msgspec.json.decode(call.question)
        wish = decoded if isinstance(decoded, dict) else {}
    if "status" in wish:
        headers = {"retry-after": str(wish["retry_after"])} if "retry_after" in wish else {}
        return [Status(int(wish["status"]), headers=headers)]
    body: list[Step] = [
        *start(),
        Pieces(
            int(wish.get("pieces", pieces)),
            float(wish.get("interval", interval)),
            str(wish.get("text", "word ")),
            bool(wish.get("stamp", False)),
        ),
    ]
    if "error" in wish:
        return [*body, *failure(str(wish["error"]))]
    last: dict[str, Step] = {"cut": Cut(), "reset": Cut(reset=True), "early": EndEarly(), "stall": Stall()}
    if wish.get("end") in last:
        return [*body, last[wish["end"]]]
    return [*body, *end()]


async def _serve(port: int, pieces: int, interval: float) -> None:
    async with MessagesApi(lambda call: script_of(call, pieces, interval), port=port) as api:
        print(api.url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A fake of the Messages API.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--pieces", type=int, default=20)
    parser.add_argument("--interval", type=float, default=0.02, help="seconds between pieces")
    options = parser.parse_args()
    with contextlib.suppress(ImportError):
        import uvloop

        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(_serve(options.port, options.pieces, options.interval))
        return
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.port, options.pieces, options.interval))


if __name__ == "__main__":
    main()
