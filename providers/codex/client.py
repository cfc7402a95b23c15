"""JSON lines over two pipes: requests and their answers, notifications, and the server's own requests.

Messages are JSON-RPC 2.0 without the `jsonrpc` member. The server's request ids are its own and start at 0.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from collections import deque
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

__all__ = ["Client", "Disconnected", "Inbox", "Incoming", "Overflow", "RpcError"]

JSON: TypeAlias = dict[str, Any]
log = logging.getLogger(__name__)

LINE_BYTES = 64 * 2**20
"""The longest line that the server may send; a session's whole history comes in one."""
INBOX_MESSAGES = 20_000
"""How far a turn may fall behind the server before it fails."""
BURST = 50
"""After how many messages in a row, all there already, the event loop gets its turn."""
OVERLOADED = -32001
METHOD_NOT_FOUND = -32601


class RpcError(Exception):
    """The server refused a request. Its text may hold anything: not for logs or people."""

    def __init__(self, method: str, code: int, message: str) -> None:
        super().__init__(method, code)
        self.method = method
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.method} refused with {self.code}"


class Disconnected(Exception):
    """The process is gone."""


class Overflow(Exception):
    """A turn fell too far behind."""


class Incoming(msgspec.Struct, frozen=True):
    """A notification, or with an `id` a request that waits for an answer."""

    method: str
    params: JSON
    id: int | str | None = None


class _Line(msgspec.Struct):
    id: int | str | None = None
    method: str | None = None
    params: JSON | None = None
    result: Any = None
    error: JSON | None = None


class Inbox:
    """What the server has to say about one thread, in order. Bounded; used by one turn at a time."""

    def __init__(self, thread_id: str) -> None:
        self.thread_id = thread_id
        self._waiting: deque[Incoming | Exception] = deque()
        self._some = asyncio.Event()
        self._taken = 0

    def __bool__(self) -> bool:
        """Whether `get` need not wait."""
        return bool(self._waiting)

    def put(self, item: Incoming | Exception) -> bool:
        """False if there is no room; an exception always finds some, and is raised in its turn."""
        if len(self._waiting) >= INBOX_MESSAGES and isinstance(item, Incoming):
            return False
        self._waiting.append(item)
        self._some.set()
        return True

    async def get(self) -> Incoming:
        """
        Raises:
            Disconnected: the process is gone.
            Overflow: messages were lost, because nobody took them.
        """
        self._taken += 1
        if self._waiting and self._taken % BURST == 0:
            await asyncio.sleep(0)
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        item = self._waiting.popleft()
        if isinstance(item, Exception):
            raise item
        return item


class Client:
    """The gateway's end of one process. `run` reads until the pipe ends; everything else needs it running."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._pending: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._roots: dict[str, str] = {}
        """Turn id → thread id of the turns that are followed."""
        self._children: dict[str, tuple[str, str | None]] = {}
        """A sub-agent's thread id → the thread that is followed for it, and its running turn."""
        self.closed = False
        self.over = asyncio.Event()
        """Retired, and nobody follows a thread any more."""
        self.retired = False
        """Nobody may begin anything here any more."""

    @contextlib.contextmanager
    def follow(self, thread_id: str) -> Iterator[Inbox]:
        """Collect what the server says about a thread."""
        inbox = self._inboxes[thread_id] = Inbox(thread_id)
        if self.closed:
            inbox.put(Disconnected())
        try:
            yield inbox
        finally:
            del self._inboxes[thread_id]
            self._roots = {turn: root for turn, root in self._roots.items() if root != thread_id}
            self._children = {child: known for child, known in self._children.items() if known[0] != thread_id}
            self._note_over()

    def retire(self) -> None:
        """Let the process end once nobody follows a thread."""
        self.retired = True
        self._note_over()

    def _note_over(self) -> None:
        if self.retired and not self._inboxes:
            self.over.set()

    async def request(self, method: str, params: JSON, *, within: float = 20.0) -> Any:
        """Ask and wait for the result; while the server says that it is overloaded, ask again with back-off.

        Raises:
            RpcError: refused.
            Disconnected: the process went away first.
            TimeoutError: no answer `within` so many seconds.
        """
        async with asyncio.timeout(within):
            delay = 0.05
            while True:
                try:
                    return await self._ask(method, params)
                except RpcError as error:
                    if error.code != OVERLOADED:
                        raise
                await asyncio.sleep(delay * random.uniform(0.5, 1.5))  # noqa: S311 - spreads load, guards nothing
                delay = min(delay * 2, 2.0)

    async def _ask(self, method: str, params: JSON) -> Any:
        number = next(self._numbers)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending[number] = (method, answer)
        try:
            self._send({"id": number, "method": method, "params": params})
            await self._drain()
            return await answer
        finally:
            self._pending.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, also when the wait was cancelled

    def notify(self, method: str) -> None:
        self._send({"method": method})

    def respond(self, request_id: int | str, result: JSON) -> None:
        """Answer a request of the server; does nothing once the process is gone."""
        with contextlib.suppress(Disconnected):
            self._send({"id": request_id, "result": result})

    def refuse(self, request_id: int | str, code: int = METHOD_NOT_FOUND) -> None:
        """Answer a request of the server with an error, which approves nothing."""
        with contextlib.suppress(Disconnected):
            self._send({"id": request_id, "error": {"code": code, "message": "not supported by this client"}})

    def _send(self, message: JSON) -> None:
        if self.closed or self._writer.is_closing():
            raise Disconnected
        self._writer.write(msgspec.json.encode(message) + b"\n")

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError:
            raise Disconnected from None

    async def run(self) -> None:
        """Read until the pipe ends; then everybody who waits gets `Disconnected`."""
        lines = 0
        try:
            while line := await self._reader.readline():
                try:
                    self._take(msgspec.json.decode(line, type=_Line))
                except msgspec.MsgspecError:
                    log.warning("codex: a line of %d bytes is not a message", len(line))
                lines += 1
                if lines % BURST == 0:
                    await asyncio.sleep(0)
        except ValueError:
            log.error("codex: a line is longer than %d bytes", LINE_BYTES)
        except ConnectionError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        self.closed = True
        for _, answer in self._pending.values():
            if not answer.done():
                answer.set_exception(Disconnected())
        for inbox in self._inboxes.values():
            inbox.put(Disconnected())

    def _take(self, line: _Line) -> None:
        if line.method is None:
            method, answer = self._pending.get(line.id, (None, None)) if isinstance(line.id, int) else (None, None)
            if method is None or answer is None or answer.done():
                return
            if line.error is not None:
                answer.set_exception(RpcError(method, line.error.get("code", 0), str(line.error.get("message", ""))))
            else:
                answer.set_result(line.result)
            return
        incoming = Incoming(line.method, line.params or {}, line.id)
        if line.method in ("turn/started", "turn/completed"):
            self._note_turn(line.method, incoming.params)
        inbox = self._inbox(incoming.params.get("threadId"))
        if inbox is None:
            if incoming.id is not None:
                self.refuse(incoming.id)
        elif not inbox.put(incoming):
            if incoming.id is not None:
                self.refuse(incoming.id)
            inbox.put(Overflow())

    def children(self, thread_id: str) -> dict[str, str | None]:
        """The sub-agents of a followed thread: their threads, and the turn that each is in."""
        return {child: turn for child, (root, turn) in self._children.items() if root == thread_id}

    def _note_turn(self, method: str, params: JSON) -> None:
        """A sub-agent works in a thread of its own, told by the turn at the root of its turns.

        What it asks goes to whoever follows that root.
        """
        turn = params.get("turn") or {}
        thread_id, turn_id, root = params.get("threadId"), turn.get("id"), turn.get("rootTurnId")
        if not isinstance(thread_id, str) or not isinstance(turn_id, str):
            return
        if thread_id in self._inboxes:
            self._roots[turn_id] = thread_id
        elif root in self._roots:
            self._children[thread_id] = (self._roots[root], turn_id if method == "turn/started" else None)

    def _inbox(self, thread_id: Any) -> Inbox | None:
        if not isinstance(thread_id, str):
            return None
        root, _ = self._children.get(thread_id, (thread_id, None))
        return self._inboxes.get(root)
