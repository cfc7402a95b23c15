"""A strict client of the gateway's sockets, for tests.

    async with Client(gateway.url, token="token-alice") as phone:
        await phone.message("Hi", thread_id="t1")
        await phone.receive(until="done")
        assert phone.texts[turn_id] == ...

What a client keeps, `Client` keeps over several connections: the last cursor of each thread and the text of each turn.
It fails at the first frame that breaks the contract: a wrong shape, a gap or a double in the cursors of a thread, a
frame of a thread that is not followed, text that is not `done.content`, a tool call or an approval left open at `done`,
a frame behind it, a frame over the size limit.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.shapes import CURSOR, WrongShape, check_server_frame

Frame: TypeAlias = dict[str, Any]
Until: TypeAlias = "str | Callable[[Frame], bool]"

TEXT = ("message", "reasoning")
LOGGED = ("user_message", "message", "reset", "reasoning", "tool_call", "tool_result", "approval_request", "done")
DEADLINE = 10.0
"""Seconds; for every wait that is not given another."""


class BrokenContract(AssertionError):
    """The server did what the protocol rules out."""


class Closed(Exception):
    """The server closed the connection."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason}")
        self.code = code
        self.reason = reason


def place(cursor: str) -> tuple[int, int]:
    """Epoch and offset. Opaque to real clients; tests look inside."""
    match = CURSOR.fullmatch(cursor)
    assert match is not None, cursor
    return int(match[1]), int(match[2])


class Client:
    """One device. Connect it as often as needed; the frames of all its connections are in `frames`.

    `url` is that of the server, or tells it at each connection. `receive_buffer` makes the kernel take only so many
    bytes ahead, and the library only one frame.
    """

    def __init__(
        self,
        url: str | Callable[[], str],
        *,
        token: str | None = None,
        agent: str = "demo",
        device_id: str | None = None,
        browser: bool = False,
        origin: str | None = None,
        receive_buffer: int | None = None,
        check_text: bool = True,
    ) -> None:
        self._url = url
        self._token = token
        self._agent = agent
        self._device_id = device_id
        self._browser = browser
        self._origin: Any = origin
        self._receive_buffer = receive_buffer
        self._check_text = check_text
        self._socket: ClientConnection | None = None
        self._following: dict[str, str] = {}
        self._waits: dict[str, str] = {}
        """By thread: the cursor of the frame before the next."""
        self._open: dict[str, set[str]] = {}
        """By turn: tool calls and approvals that are not resolved."""
        self._partial: set[str] = set()
        """Turns whose beginning this client was not shown."""
        self.frames: list[Frame] = []
        self.arrivals: list[float] = []
        """When each frame was received, as `time.monotonic()`."""
        self.ready: Frame = {}
        self.cursors: dict[str, str] = {}
        """The last cursor of each thread: all that is needed to resume."""
        self.texts: dict[str, str] = {}
        """The answer of each turn, joined as the protocol says."""
        self.done: dict[str, Frame] = {}
        self.messages: dict[str, list[str]] = {}
        """The ids of each turn's user messages: its own, then those that were handed to it while it ran."""

    # --- the connection ---

    async def connect(self, *, wait_ready: bool = True) -> Frame:
        """Open a connection and read `ready`. What was followed on the last one is followed no more.

        Raises:
            websockets.exceptions.InvalidStatus: the upgrade was refused.
        """
        assert self._socket is None, "connected already"
        self._following.clear()
        self._waits.clear()
        parts = urlsplit(self._url if isinstance(self._url, str) else self._url())
        query = f"?device_id={quote(self._device_id)}" if self._device_id is not None else ""
        headers, subprotocols = {}, None
        if self._token is not None and self._browser:
            encoded = base64.urlsafe_b64encode(self._token.encode()).decode().rstrip("=")
            subprotocols = ["agentline.v1", f"bearer.{encoded}"]
        elif self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        own: dict[str, Any] = {}
        if self._receive_buffer is not None:
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            raw.setblocking(False)
            async with asyncio.timeout(DEADLINE):
                await asyncio.get_running_loop().sock_connect(raw, (parts.hostname, parts.port))
            own = {"sock": raw, "max_queue": (1, 0)}
        self._socket = await connect(
            f"ws://{parts.netloc}/api/{self._agent}/ws{query}",
            additional_headers=headers,
            subprotocols=subprotocols,  # type: ignore[arg-type]  # a NewType of str
            origin=self._origin,
            compression=None,
            proxy=None,
            open_timeout=DEADLINE,
            close_timeout=2,
            ping_interval=None,
            max_size=2**20,
            **own,
        )
        return await self.expect_ready() if wait_ready else {}

    async def expect_ready(self) -> Frame:
        """The first frame, which must be `ready`."""
        self.ready = await self.next()
        if self.ready["type"] != "ready":
            raise BrokenContract(f"the first frame is {self.ready}")
        return self.ready

    @property
    def socket(self) -> ClientConnection:
        assert self._socket is not None, "not connected"
        return self._socket

    @property
    def connected(self) -> bool:
        return self._socket is not None

    async def abort(self) -> None:
        """Cut the TCP connection as a lost network does: no close frame, and nothing is read any more."""
        connection, self._socket = self.socket, None
        connection.transport.abort()
        async with asyncio.timeout(DEADLINE):
            await connection.wait_closed()

    async def close(self) -> None:
        """Close in order."""
        if self._socket is not None:
            connection, self._socket = self._socket, None
            await connection.close()

    async def closed(self, within: float = DEADLINE) -> Closed:
        """Read until the server closes the connection."""
        try:
            async with asyncio.timeout(within):
                while True:
                    await self.next(within=within)
        except Closed as closed:
            return closed

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ConnectionClosed):
            if error is None:
                await self.close()
            elif self._socket is not None:
                await self.abort()

    # --- to the server ---

    async def send(self, type: str, /, **fields: Any) -> None:
        await self.send_text(json.dumps({"type": type, **fields}))

    async def send_text(self, text: str) -> None:
        async with asyncio.timeout(DEADLINE):
            await self.socket.send(text)

    async def message(self, content: str, within: float = DEADLINE, **fields: Any) -> Frame:
        """Send a message; the `accepted` that answers it."""
        await self.send("message", content=content, **fields)
        return (await self.receive(until="accepted", within=within))[-1]

    async def attach(self, thread_id: str, cursor: str | None = None, within: float = DEADLINE) -> Frame:
        """Follow a thread; the `attached` that answers."""
        fields = {} if cursor is None else {"cursor": cursor}
        await self.send("attach", thread_id=thread_id, **fields)
        return (await self.receive(until="attached", within=within))[-1]

    async def resume(self, thread_id: str, within: float = DEADLINE) -> Frame:
        """Connect again and go on behind the last frame."""
        await self.connect()
        return await self.attach(thread_id, self.cursors[thread_id], within)

    def forget(self) -> None:
        """Keep nothing of what was shown, as an app that was installed anew; the connection stays."""
        for kept in (self.frames, self.arrivals, self.cursors, self.texts, self.done, self.messages):
            kept.clear()
        self._open.clear()
        self._partial.clear()

    # --- from the server ---

    async def next(self, within: float = DEADLINE) -> Frame:
        """The next frame, checked.

        Raises:
            Closed, TimeoutError, BrokenContract
        """
        try:
            async with asyncio.timeout(within):
                text = await self.socket.recv()
        except ConnectionClosed as error:
            self._socket = None
            received = error.rcvd
            raise Closed(received.code if received else 1006, received.reason if received else "") from None
        except TimeoutError:
            raise TimeoutError(f"no frame within {within} s; the last were {self.frames[-3:]}") from None
        self.arrivals.append(time.monotonic())
        assert isinstance(text, str), "a binary frame"
        frame: Frame = json.loads(text)
        self.frames.append(frame)
        try:
            self._check(frame, len(text.encode()))
        except WrongShape as error:
            raise BrokenContract(f"{error}: {_short(frame)}") from None
        return frame

    async def receive(self, until: Until, within: float = DEADLINE) -> list[Frame]:
        """Frames up to the first that `until` (a type, or a predicate) takes, which is the last of the list."""
        received: list[Frame] = []
        async with asyncio.timeout(within):
            while True:
                try:
                    frame = await self.next(within=within)
                except TimeoutError:
                    raise TimeoutError(f"waited {within} s for {until!r} behind {received[-3:]}") from None
                received.append(frame)
                if frame["type"] == until if isinstance(until, str) else until(frame):
                    return received

    async def finish(self, turn_id: str, within: float = DEADLINE) -> Frame:
        """The `done` of the turn."""
        if turn_id not in self.done:
            await self.receive(until=lambda f: f["type"] == "done" and f["turn_id"] == turn_id, within=within)
        return self.done[turn_id]

    async def quiet(self) -> list[Frame]:
        """Frames that came before the answer to a ping: all that the server had to say until it read that."""
        nonce = time.monotonic_ns()
        await self.send("ping", nonce=nonce)
        return (await self.receive(until=lambda f: f["type"] == "pong" and f["nonce"] == nonce))[:-1]

    # --- the contract ---

    def _check(self, frame: Frame, size: int) -> None:
        check_server_frame(frame)
        kind = frame["type"]
        limit = self.ready.get("limits", {}).get("server_frame_bytes")
        if limit is not None and size > limit:
            raise BrokenContract(f"a {kind} of {size} bytes")
        if kind in LOGGED or (kind == "approval_resolved" and "cursor" in frame):
            self._moved(frame)
            self._applied(frame)
        elif kind == "accepted":
            self._accepted(frame)
        elif kind == "attached":
            self._following[frame["thread_id"]] = frame["cursor"]
        elif kind == "snapshot":
            self._shown(frame)
        elif kind == "detached":
            self._following.pop(frame["thread_id"], None)
        elif kind == "typing" and frame["thread_id"] not in self._following:
            raise BrokenContract(f"typing in a thread that is not followed: {frame}")

    def _moved(self, frame: Frame) -> None:
        thread_id = frame["thread_id"]
        if thread_id not in self._following:
            raise BrokenContract(f"a frame of a thread that is not followed: {_short(frame)}")
        before, here = place(self._following[thread_id]), place(frame["cursor"])
        step = here[1] - before[1]
        if thread_id in self._waits:  # what other turns say before the one that waits is passed over
            if frame["turn_id"] != self._waits.pop(thread_id) or frame["type"] != "user_message" or step < 1:
                raise BrokenContract(f"a turn that waits does not begin with {_short(frame)}")
        elif here[0] != before[0] or step < 1 or (step > 1 and frame["type"] not in TEXT):
            raise BrokenContract(f"behind {before} came {_short(frame)}")
        self._following[thread_id] = self.cursors[thread_id] = frame["cursor"]

    def _applied(self, frame: Frame) -> None:
        turn_id, kind = frame["turn_id"], frame["type"]
        if turn_id in self.done:
            raise BrokenContract(f"a frame of a turn that is done: {_short(frame)}")
        if kind == "user_message":
            asked = self.messages.setdefault(turn_id, [])
            if frame["message_id"] in asked:
                raise BrokenContract(f"a user_message of a turn twice: {_short(frame)}")
            asked.append(frame["message_id"])
            self.texts.setdefault(turn_id, "")
            self._open.setdefault(turn_id, set())
            return
        if turn_id not in self.texts:
            self._partial.add(turn_id)
            self.texts[turn_id] = ""
        unresolved = self._open.setdefault(turn_id, set())
        if kind == "message":
            self.texts[turn_id] += frame["content"]
        elif kind == "reset":
            self.texts[turn_id] = frame["content"]
            self._partial.discard(turn_id)
        elif kind in ("tool_call", "approval_request"):
            unresolved.add(frame["approval_id" if kind == "approval_request" else "call_id"])
        elif kind in ("tool_result", "approval_resolved"):
            resolved = frame["approval_id" if kind == "approval_resolved" else "call_id"]
            if resolved not in unresolved and turn_id not in self._partial:
                raise BrokenContract(f"resolves what was not open: {_short(frame)}")
            unresolved.discard(resolved)
        elif kind == "done":
            self._finished(frame, unresolved)

    def _finished(self, frame: Frame, unresolved: set[str]) -> None:
        turn_id = frame["turn_id"]
        self.done[turn_id] = frame
        if unresolved:
            raise BrokenContract(f"done with {sorted(unresolved)} open")
        if not self._check_text or turn_id in self._partial:
            return
        joined, content = self.texts[turn_id], frame["content"]
        if frame.get("truncated"):
            if frame["length"] != len(joined) or not joined.startswith(content):
                raise BrokenContract(f"done says {frame['length']} code points, {len(joined)} came")
        elif joined != content:
            raise BrokenContract(f"joined text is not done.content: {joined[-80:]!r} / {content[-80:]!r}")

    def _accepted(self, frame: Frame) -> None:
        thread_id = frame["thread_id"]
        if thread_id in self._following and self._following[thread_id] != frame["cursor"]:
            raise BrokenContract(f"stands at {self._following[thread_id]}, but was accepted: {frame}")
        if thread_id not in self._following and frame["queued"]:
            self._waits[thread_id] = frame["turn_id"]
        self._following[thread_id] = frame["cursor"]

    def _shown(self, frame: Frame) -> None:
        thread_id, turn = frame["thread_id"], frame["turn"]
        if self._following.get(thread_id) != frame["cursor"]:
            raise BrokenContract(f"a snapshot of another place than attached: {_short(frame)}")
        self.cursors[thread_id] = frame["cursor"]
        for message in frame["messages"]:
            if message["role"] == "assistant":
                self.texts[message["turn_id"]] = message["content"]
        if turn is None:
            return
        self.texts[turn["turn_id"]] = turn["content"]
        self._partial.discard(turn["turn_id"])
        if turn.get("truncated"):
            self._partial.add(turn["turn_id"])
        running = {tool["call_id"] for tool in turn["tools"] if tool["status"] == "running"}
        self._open[turn["turn_id"]] = running | {approval["approval_id"] for approval in frame["approvals"]}


def _short(frame: Frame) -> str:
    text = json.dumps(frame, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}…"
