"""What nodes tell and ask each other, over one stream that all of them read.

tell → hints: whoever misses one finds out by itself, later
ask  → questions: the first node that has an answer gives it
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

import msgspec
import structlog
from redis.exceptions import ResponseError

from gateway.errors import NodeUnavailable
from gateway.ids import new_id
from gateway.nodes.link import BLOCK_MS, REFUSED_SECONDS, RETRY_SECONDS, RedisDown, RedisLink

__all__ = ["ASK_SECONDS", "STREAM", "Control", "Entry", "Handler", "RedisControl", "Solo"]

STREAM = "agentline:control"
KEPT = 10_000
"""Entries in the stream, about. A node that falls further behind misses some."""
KEPT_MS = 3600 * 1000
"""After the last message, all go: some hold words of a conversation."""
MESSAGE_BYTES = 64 * 1024
ASK_SECONDS = 3.0
OUTGOING = 1000
"""Messages that may wait to be sent; further ones are dropped."""
BATCH = 100
HANDLERS = 256
"""At work at the same time; the next entry is not read before one of them has ended."""
HANDLER_SECONDS = 30.0
FLUSH_SECONDS = 1.0
"""What still waits when the node stops may take so long to be sent."""
FIELD = b"message"

Handler: TypeAlias = Callable[[dict[str, Any]], Awaitable[Any]]
"""Given the payload. What it returns to a question, if it is not None, is the answer: values of msgpack."""
Entry: TypeAlias = tuple[bytes, Mapping[bytes, bytes] | None]
"""An entry of the stream: its id, and its fields, or None if it was deleted."""

_log = structlog.get_logger(__name__)


class _Message(msgspec.Struct, array_like=True):
    node: str
    """Whose it is."""
    kind: str
    payload: Any
    question: str | None = None
    """The id of a question, of which this is the text, or with an empty `kind` the answer."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Message)


class Control(Protocol):
    """The other nodes."""

    def on(self, kind: str, handler: Handler) -> None:
        """Have `handler` called with what other nodes tell and ask of this kind. One per kind, before `run`."""
        ...

    async def tell(self, kind: str, /, **payload: Any) -> None:
        """Tell all other nodes, in the order of the calls. Only a hint: dropped when Redis is down.

        Waits for nothing. Raises ValueError for more than `MESSAGE_BYTES`.
        """
        ...

    async def ask(self, kind: str, /, *, within: float = ASK_SECONDS, **payload: Any) -> Any:
        """The first answer that another node gives.

        Raises:
            NodeUnavailable: there was none within so many seconds, or Redis is down. A node may have acted on it.
            ValueError: it has more than `MESSAGE_BYTES`.
        """
        ...

    async def run(self) -> None:
        """Send and hear, until cancelled."""
        ...


class Solo:
    """`Control` of the only node."""

    def on(self, kind: str, handler: Handler) -> None:
        """Nobody will ever call."""

    async def tell(self, kind: str, /, **payload: Any) -> None:
        """There is nobody."""

    async def ask(self, kind: str, /, *, within: float = ASK_SECONDS, **payload: Any) -> Any:
        """Nobody answers."""
        raise NodeUnavailable

    async def run(self) -> None:
        """Nothing happens."""
        await asyncio.Event().wait()


class RedisControl:
    """`Control` of one of many nodes.

    Handlers begin in the order of the entries and run side by side; one that takes longer than `HANDLER_SECONDS` is
    cancelled. What came while Redis did not answer is read once it does.
    """

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._handlers: dict[str, Handler] = {}
        self._questions: dict[str, asyncio.Future[Any]] = {}
        self._outgoing: deque[tuple[bytes, asyncio.Future[Any] | None]] = deque()
        self._wanted = asyncio.Event()
        self._slots = asyncio.Semaphore(HANDLERS)
        self._group: asyncio.TaskGroup | None = None
        self._dropped = 0
        self._closing = False
        self.position: bytes | None = None
        """Id of the last entry that was read; None before `begin`."""

    def on(self, kind: str, handler: Handler) -> None:
        """As in `Control`."""
        if not kind or kind in self._handlers:
            raise ValueError(f"a second handler for {kind!r}, or none can be")
        self._handlers[kind] = handler

    async def tell(self, kind: str, /, **payload: Any) -> None:
        """As in `Control`."""
        self._send(_Message(self._link.node_id, kind, payload), None)

    async def ask(self, kind: str, /, *, within: float = ASK_SECONDS, **payload: Any) -> Any:
        """As in `Control`."""
        question = new_id("q")
        message = _Message(self._link.node_id, kind, payload, question)
        if not self._link.up:
            raise NodeUnavailable
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._questions[question] = answered
        try:
            self._send(message, answered)
            async with asyncio.timeout(within):
                return await answered
        except TimeoutError:
            raise NodeUnavailable from None
        finally:
            del self._questions[question]

    async def run(self) -> None:
        """As in `Control`."""
        async with self.working(), self._link.reader() as reader:
            while True:
                try:
                    if self.position is None:
                        await self.begin()
                    command = ("XREAD", "COUNT", BATCH, "BLOCK", BLOCK_MS, "STREAMS", STREAM, self.position)
                    for _, entries in await reader.read(*command) or ():
                        await self.take(entries)
                except RedisDown:
                    await asyncio.sleep(RETRY_SECONDS)
                    await self._look_back()
                except ResponseError as error:
                    _log.error("control_not_read", reason=str(error).partition(" ")[0])
                    await asyncio.sleep(REFUSED_SECONDS)
                except Exception:  # whatever it is, this node goes on hearing the others
                    _log.exception("control_not_read")
                    await asyncio.sleep(REFUSED_SECONDS)

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """The block in which `take` may be called, and messages are sent: `run` without the reading."""
        async with asyncio.TaskGroup() as self._group:
            sending = self._group.create_task(self._keep_sending(), name="control: sending")
            try:
                yield
            finally:
                self._closing = True
                self._wanted.set()
                await asyncio.wait({sending}, timeout=FLUSH_SECONDS)
                sending.cancel()

    async def begin(self) -> None:
        """Hear what is told from now on. `run` begins with it, unless it was called before. Raises `RedisDown`."""
        self.position = await self._newest()

    async def take(self, entries: Iterable[Entry]) -> None:
        """Give the entries to their handlers, and move `position`. Waits while too many of them are at work."""
        for entry_id, fields in entries:
            message = _read(entry_id, fields)
            if message is not None and message.node != self._link.node_id:
                if message.kind:
                    await self._dispatch(message)
                elif (answered := self._questions.get(message.question or "")) is not None and not answered.done():
                    answered.set_result(message.payload)
            self.position = entry_id

    async def _dispatch(self, message: _Message) -> None:
        handler = self._handlers.get(message.kind)
        if handler is None:
            _log.debug("control_message_unknown", kind=message.kind)
            return
        if self._group is None:
            raise RuntimeError("entries are taken inside of working() only")
        await self._slots.acquire()
        task = self._group.create_task(self._handle(handler, message), name=f"control: {message.kind}")
        task.add_done_callback(lambda _: self._slots.release())

    async def _handle(self, handler: Handler, message: _Message) -> None:
        try:
            async with asyncio.timeout(HANDLER_SECONDS):
                answer = await handler(message.payload)
            if message.question is not None and answer is not None:
                self._send(_Message(self._link.node_id, "", answer, message.question), None)
        except Exception:
            _log.exception("control_handler_failed", kind=message.kind)

    def _send(self, message: _Message, question: asyncio.Future[Any] | None) -> None:
        encoded = _encoder.encode(message)
        if len(encoded) > MESSAGE_BYTES:
            raise ValueError(f"a message of kind {message.kind!r} has {len(encoded)} bytes, more than {MESSAGE_BYTES}")
        if len(self._outgoing) >= OUTGOING:
            self._drop([(encoded, question)])
            return
        self._outgoing.append((encoded, question))
        self._wanted.set()

    async def _keep_sending(self) -> None:
        while not self._closing:
            await self._wanted.wait()
            self._wanted.clear()
            while self._outgoing:
                await self._send_batch()

    async def _send_batch(self) -> None:
        batch = [self._outgoing.popleft() for _ in range(min(BATCH, len(self._outgoing)))]
        pipeline = self._link.client.pipeline(transaction=False)
        for encoded, _ in batch:
            pipeline.xadd(STREAM, {FIELD: encoded}, maxlen=KEPT, approximate=True)
        pipeline.pexpire(STREAM, KEPT_MS)
        try:
            await self._link.ask(pipeline.execute())
        except Exception as error:
            if not isinstance(error, RedisDown | ResponseError):
                _log.exception("control_not_sent")
            self._drop(batch, error)
        else:
            if self._dropped:
                _log.info("control_messages_sent_again", dropped=self._dropped)
                self._dropped = 0

    def _drop(self, batch: list[tuple[bytes, asyncio.Future[Any] | None]], error: Exception | None = None) -> None:
        if not self._dropped:
            _log.warning("control_messages_dropped", reason="too many wait" if error is None else type(error).__name__)
        self._dropped += len(batch)
        for _, question in batch:
            if question is not None and not question.done():
                question.set_exception(NodeUnavailable())

    async def _newest(self) -> bytes:
        newest = await self._link.run("XREVRANGE", STREAM, "+", "-", "COUNT", 1)
        return bytes(newest[0][0]) if newest else b"0-0"

    async def _look_back(self) -> None:
        """A Redis that has lost entries gives ids that were given before: go on behind those that it has."""
        try:
            if self.position is not None and _order(newest := await self._newest()) < _order(self.position):
                self.position = newest
        except (RedisDown, ResponseError):
            pass


def _read(entry_id: bytes, fields: Mapping[bytes, bytes] | None) -> _Message | None:
    """The message in an entry; None, and logged, if there is none."""
    try:
        return _decoder.decode((fields or {})[FIELD])
    except (KeyError, msgspec.MsgspecError) as error:
        _log.warning("control_entry_malformed", entry=entry_id.decode(), reason=type(error).__name__)
        return None


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition(b"-")
    return int(milliseconds), int(number)
