"""A phone that goes on whatever happens: it reconnects to any of several servers, resumes, and sends again.

    device = Device("phone-7", lambda: [node.url for node in cluster.nodes], token)
    async with device:
        sent = await device.send(asking("m1"), thread_id="t1")
        ending = await device.ended(sent.turn_id)

What it keeps is what an app keeps: cursors, texts, and the messages that were not accepted yet. `tests.client.Client`
holds every frame against the protocol; what breaks it is in `violations`, with the frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import InvalidHandshake, WebSocketException

from tests.client import LOGGED, BrokenContract, Client, Closed, Frame
from tests.cluster.upstream import astray, text_of

__all__ = ["Device", "Ending", "Sent"]

CONNECT_SECONDS = 5.0
"""For a socket and its `ready`; a frozen server takes connections and says nothing."""
FINAL = ("completed", "cancelled", "failed", "interrupted")


@dataclass(slots=True)
class Sent:
    """A message on its way, sent again on every connection until it is accepted."""

    id: str
    content: str
    thread_id: str | None
    accepted: asyncio.Event = field(default_factory=asyncio.Event)
    turn_id: str = ""
    at: float = 0.0
    """When it was accepted, as `time.time()`."""
    refusals: list[Frame] = field(default_factory=list)
    """`error` frames about it."""
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended, as this device was told."""

    status: str
    content: str
    at: float
    """`time.time()`."""
    told_by: str
    """`done`, or `snapshot`."""
    connected_at: float
    """When the connection was made that it came over."""
    node: str
    """The URL of the server that told it."""


class Device:
    """`async with` it: it connects, and reconnects, until the block is left.

    `urls` tells the servers that it may use; `choose` picks one of them, by default at random but not the last one.
    `patience` is for how many seconds of silence it believes in a connection: then it pings, and after as long again
    gives up. None: for ever. `obey`: whether it waits as long as a `goodbye` asks for.
    """

    def __init__(
        self,
        name: str,
        urls: Callable[[], Sequence[str]],
        token: str,
        *,
        agent: str = "claude",
        seed: int = 0,
        patience: float | None = 4.0,
        obey: bool = True,
    ) -> None:
        self.name = name
        self._urls = urls
        self._token = token
        self._agent = agent
        self._random = random.Random(f"{seed} {name}")
        self._patience = patience
        self._obey = obey
        self._url = ""
        self._client = self._new_client()
        self._sent: dict[str, Sent] = {}
        self._follows: dict[str, str | None] = {}
        """Threads, with the cursor of each once there is one."""
        self._attached: set[str] = set()
        """Threads that this connection follows, as the server has said."""
        self._task: asyncio.Task[None] | None = None
        self._sending: set[asyncio.Task[None]] = set()
        self._expected: dict[str, str] = {}
        """The whole answers of turns that it began, or was told to expect."""
        self._changed = asyncio.Condition()
        self._wait: float = 0.0
        self._failures = 0
        self._live = False
        self.violations: list[str] = []
        self.endings: dict[str, Ending] = {}
        self.snapshots = 0
        """Given without having been asked for by an `attach` without cursor."""
        self.resumed = 0
        """`attached` with `recovered: true` to a cursor."""
        self.unrecovered: list[str] = []
        """Every `recovered: false` to a cursor, in words."""
        self.connected_at = 0.0
        self.connections = 0
        self.cuts = 0
        self.goodbyes: list[int] = []
        self.errors: list[Frame] = []
        """Those that are about no message."""
        self.heard: list[Frame] = []
        """Frames that are about no turn: `read`, `thread_updated`."""

    def _new_client(self) -> Client:
        return Client(lambda: self._url, token=self._token, agent=self._agent)

    @property
    def client(self) -> Client:
        """What reads its frames."""
        return self._client

    @property
    def url(self) -> str:
        """The server it is connected to, or was."""
        return self._url

    @property
    def connected(self) -> bool:
        return self._live

    @property
    def sent(self) -> list[Sent]:
        """All messages, accepted or not."""
        return list(self._sent.values())

    @property
    def settled(self) -> bool:
        """It is connected, and was told that it follows all that it wants to."""
        return self._live and self._attached >= self._follows.keys()

    @property
    def texts(self) -> dict[str, str]:
        """What it was shown of each turn's answer."""
        return self._client.texts

    # --- what it is told to do ---

    async def send(
        self, content: str, *, thread_id: str | None = None, id: str | None = None, within: float = 30.0
    ) -> Sent:
        """Send a message, over as many connections as it takes, until it is accepted."""
        sent = self.post(content, thread_id=thread_id, id=id)
        try:
            async with asyncio.timeout(within):
                await sent.accepted.wait()
        except TimeoutError:
            said = f"{self.name}: {sent.id} was not accepted within {within} s; refused with {sent.refusals[-3:]}"
            raise TimeoutError(f"{said}; {self._situation()}") from None
        return sent

    def post(self, content: str, *, thread_id: str | None = None, id: str | None = None) -> Sent:
        """`send`, without waiting."""
        sent = Sent(id or f"{self.name}-{len(self._sent)}", content, thread_id)
        self._sent[sent.id] = sent
        if self._live:
            self._soon(self._put(sent))
        return sent

    def follow(self, thread_id: str, cursor: str | None = None) -> None:
        """Follow a thread from now on, on every connection."""
        if thread_id not in self._follows:
            self._follows[thread_id] = cursor
            if self._live:
                self._soon(self._attach(thread_id))

    def expect(self, turn_id: str, content: str) -> None:
        """Hold what it is shown of this turn against the answer to `content`, which `asking` made."""
        self._expected[turn_id] = text_of(content)

    async def ended(self, turn_id: str, within: float = 60.0) -> Ending:
        """How the turn ended, once this device was told."""
        await self.until(lambda: turn_id in self.endings, f"turn {turn_id} has ended", within)
        return self.endings[turn_id]

    async def until(self, holds: Callable[[], bool], what: str, within: float = 30.0) -> None:
        """Wait until a frame, or a connection, has brought it about."""
        try:
            async with asyncio.timeout(within), self._changed:
                await self._changed.wait_for(holds)
        except TimeoutError:
            raise TimeoutError(f"{self.name}: not within {within} s: {what}; {self._situation()}") from None

    def _situation(self) -> str:
        state = f"connected to {self._url}" if self._live else f"not connected, last to {self._url}"
        last = [{k: v for k, v in f.items() if k != "content"} for f in self._client.frames[-3:]]
        waits = sorted(self._follows.keys() - self._attached)
        return (
            f"{state}, connection {self.connections}, not attached to {waits}, errors {self.errors[-3:]}, "
            f"violations {self.violations}, last frames {last}"
        )

    def cut(self) -> None:
        """Lose the connection, as a phone in a tunnel does. It reconnects at once."""
        if self._live:
            self.cuts += 1
            self._wait = self._random.uniform(0, 0.02)
            self._client.socket.transport.abort()

    # --- its life ---

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self.name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        for task in (self._task, *self._sending):
            task.cancel()
        await asyncio.wait((self._task, *self._sending))
        if not self._task.cancelled() and (failure := self._task.exception()) is not None and error is None:
            raise failure

    def _soon(self, coroutine: Any) -> None:
        """Send something from where nothing can be awaited. A connection that is lost meanwhile is passed over."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _run(self) -> None:
        while True:
            try:
                await self._connect()
                await self._serve()
            except (Closed, OSError, WebSocketException, InvalidHandshake, TimeoutError) as error:
                self._failed(error)
            except BrokenContract as error:
                last = "\n      ".join(str(frame)[:300] for frame in self._client.frames[-5:])
                self.violations.append(f"{self.name} on {self._url}: {error}; the last frames:\n      {last}")
                await self._leave()
                self._client = self._new_client()  # an app that was installed anew
                self._follows = dict.fromkeys(self._follows)
            finally:
                await self._leave()
            await asyncio.sleep(self._wait)
            self._wait = 0.0

    def _failed(self, error: Exception) -> None:
        """Back off, with jitter; a connection that had worked is tried again soon."""
        if self._wait == 0.0:
            self._failures = 0 if isinstance(error, Closed) else min(self._failures + 1, 5)
            self._wait = self._random.uniform(0.02, 0.1) * 2**self._failures

    async def _leave(self) -> None:
        self._live = False
        if self._client.connected:
            with contextlib.suppress(TimeoutError):
                await self._client.abort()

    async def _connect(self) -> None:
        urls = [url for url in self._urls() if url] or [self._url]
        others = [url for url in urls if url != self._url]
        self._url = self._random.choice(others or urls)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._client.connect()
        except BaseException:
            await self._leave()
            raise
        self._failures = 0
        self._attached.clear()
        self._live = True
        self.connections += 1
        self.connected_at = time.time()
        for thread_id in list(self._follows):
            await self._attach(thread_id)
        for sent in list(self._sent.values()):
            if not sent.accepted.is_set():
                await self._put(sent)
        await self._notify()

    async def _attach(self, thread_id: str) -> None:
        cursor = self._follows[thread_id]
        with contextlib.suppress(WebSocketException, AssertionError, TimeoutError):
            await self._client.send("attach", thread_id=thread_id, **({} if cursor is None else {"cursor": cursor}))

    async def _put(self, sent: Sent) -> None:
        thread = {} if sent.thread_id is None else {"thread_id": sent.thread_id}
        with contextlib.suppress(WebSocketException, AssertionError, TimeoutError):
            await self._client.send("message", content=sent.content, id=sent.id, **thread)

    async def _serve(self) -> None:
        nonce = 0
        awaits = False
        while True:
            try:
                frame = await self._client.next(within=self._patience if self._patience is not None else 3600.0)
            except TimeoutError:
                if awaits:
                    raise
                nonce, awaits = nonce + 1, True
                await self._client.send("ping", nonce=nonce)
                continue
            awaits = False
            self._take(frame)
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- frames ---

    def _take(self, frame: Frame) -> None:
        kind = frame["type"]
        if kind in LOGGED or (kind == "approval_resolved" and "cursor" in frame):
            known = self.endings.get(frame["turn_id"])
            if known is not None:
                raise BrokenContract(f"a {kind} of the turn {frame['turn_id']} that ended, as {known.told_by} told")
            self._follows[frame["thread_id"]] = frame["cursor"]
            if kind == "message":
                self._check_text(frame["turn_id"])
            if kind == "done":
                self._ended(frame["turn_id"], frame["status"], frame["content"], "done")
        elif kind == "accepted":
            self._was_accepted(frame)
        elif kind == "attached":
            self._was_attached(frame)
        elif kind == "snapshot":
            self._was_shown(frame)
        elif kind == "error":
            self._was_refused(frame)
        elif kind == "goodbye":
            self.goodbyes.append(frame["reconnect_after_ms"])
            if self._obey:
                self._wait = frame["reconnect_after_ms"] / 1000
        elif kind in ("read", "thread_updated"):
            self.heard.append(frame)

    def _ended(self, turn_id: str, status: str, content: str, told_by: str) -> None:
        self.endings[turn_id] = Ending(status, content, time.time(), told_by, self.connected_at, self._url)

    def _was_accepted(self, frame: Frame) -> None:
        sent = self._sent.get(frame["id"])
        if sent is None:
            raise BrokenContract(f"accepted what was not sent: {frame}")
        if sent.turn_id and sent.turn_id != frame["turn_id"]:
            raise BrokenContract(f"{sent.id} was accepted as {sent.turn_id}, and again as {frame['turn_id']}")
        if not sent.accepted.is_set():
            sent.turn_id, sent.thread_id, sent.at = frame["turn_id"], frame["thread_id"], time.time()
            sent.duplicate = frame["duplicate"]
            with contextlib.suppress(ValueError):
                self.expect(sent.turn_id, sent.content)
            sent.accepted.set()
        self._attached.add(frame["thread_id"])
        self._follows[frame["thread_id"]] = self._follows.get(frame["thread_id"]) or frame["cursor"]

    def _check_text(self, turn_id: str) -> None:
        """A piece that is lost, doubled or out of order shows at once."""
        expected, shown = self._expected.get(turn_id), self._client.texts[turn_id]
        if expected is not None and not expected.startswith(shown):
            said = astray(shown, expected)
            raise BrokenContract(f"what was shown of turn {turn_id} is no beginning of its answer: {said}")

    def _was_attached(self, frame: Frame) -> None:
        self._attached.add(frame["thread_id"])
        if self._follows.get(frame["thread_id"]) is None:
            return
        if frame["recovered"]:
            self.resumed += 1
            if frame["cursor"] != self._follows[frame["thread_id"]]:
                raise BrokenContract(f"resumed elsewhere than at {self._follows[frame['thread_id']]}: {frame}")
        else:
            said = f"{self.name} on {self._url}: {self._follows[frame['thread_id']]} of {frame['thread_id']}"
            self.unrecovered.append(said)

    def _was_shown(self, frame: Frame) -> None:
        if self._follows.get(frame["thread_id"]) is not None:
            self.snapshots += 1
        self._follows[frame["thread_id"]] = frame["cursor"]
        for message in frame["messages"]:
            if message["role"] != "assistant":
                continue
            turn_id, status, content = message["turn_id"], message.get("status"), message["content"]
            known = self.endings.get(turn_id)
            if known is None:
                if status not in FINAL:
                    raise BrokenContract(f"a snapshot has an answer that is {status}: {turn_id}")
                self._ended(turn_id, status, content, "snapshot")
            elif (known.status, known.content) != (status, content):
                raise BrokenContract(f"{turn_id} was {known.status} by {known.told_by}, and is {status} by snapshot")

    def _was_refused(self, frame: Frame) -> None:
        sent = self._sent.get(frame.get("id", ""))
        if sent is None:
            self.errors.append(frame)
            if frame["retryable"]:  # an `attach` was refused for now
                self._soon(self._attach_later(float(frame.get("retry_after") or 0.3)))
            return
        sent.refusals.append(frame)
        if not frame["retryable"]:
            raise BrokenContract(f"{sent.id} was refused for good: {frame}")
        self._soon(self._put_later(sent, float(frame.get("retry_after") or 0.3)))

    async def _attach_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        for thread_id in set(self._follows) - self._attached:
            if self._live:
                await self._attach(thread_id)

    async def _put_later(self, sent: Sent, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self._live and not sent.accepted.is_set():
            await self._put(sent)
