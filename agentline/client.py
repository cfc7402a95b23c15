"""`Agentline`: the gateway, as seen from Python."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Generator, Sequence
from ssl import SSLContext
from types import TracebackType
from typing import Any, Self

from agentline import calls
from agentline.address import Token, address
from agentline.blocking import WITHIN, Blocking, WhenBusy
from agentline.deadlines import Deadlines
from agentline.events import Done, ShownMessage
from agentline.follow_session import FollowSession
from agentline.http import AsyncHttp
from agentline.records import Agent, Decided, Sent, Thread, ThreadPage, Turn
from agentline.session import new_message
from agentline.stream import Decide, Follow, Stream, TurnStream
from agentline.turn_session import TurnSession

__all__ = ["Agentline"]


class Agentline:
    """One user's way to a gateway.

    Asynchronous, with connections that live as long as the block:

        async with Agentline(url, token) as line:
            async for event in line.stream("claude", "Hi"):
                ...

    Blocking, from any thread, with nothing that lives longer than the loop over it:

        for piece in Agentline(url, token).stream_text("claude", "Hi"):
            print(piece, end="")

    Each stream has a connection of its own, so a slow reader of one slows no other.

    Args:
        url: the gateway's base URL, or the link that it prints, which holds the token.
        token: the user's token, or a callable that returns the present one (called for each connection).
        device_id: ties the connections to a registered device.
        deadlines: how long to wait for what.
        tls: for a gateway whose certificate the system does not know.

    Raises:
        ValueError: the url cannot be used, or there is no token.
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        *,
        device_id: str | None = None,
        deadlines: Deadlines | None = None,
        tls: SSLContext | None = None,
    ) -> None:
        self._address = address(url, token, device_id=device_id, tls=tls)
        self._deadlines = deadlines or Deadlines()
        self._open_http: AsyncHttp | None = None
        self._streams: weakref.WeakSet[Stream[Any]] = weakref.WeakSet()
        self.blocking = Blocking(self._address, self._deadlines)
        """The same calls for code without asyncio."""

    async def __aenter__(self) -> Self:
        if self._open_http is not None:
            raise RuntimeError("this Agentline is open already")
        self._open_http = AsyncHttp(self._address, self._deadlines)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        http, self._open_http = self._http, None
        try:
            for stream in list(self._streams):
                await stream.aclose()
        finally:
            await http.aclose()

    @property
    def _http(self) -> AsyncHttp:
        if self._open_http is None:
            raise RuntimeError("use `async with Agentline(…) as line`, or `line.blocking` without asyncio")
        return self._open_http

    # --- streams ---

    def stream(
        self,
        agent: str,
        content: str,
        *,
        id: str | None = None,
        thread_id: str | None = None,
        when_busy: WhenBusy = "queue",
        attachments: Sequence[Any] = (),
        on_approval: Decide | None = None,
        seen: bool = False,
        within: float = WITHIN,
    ) -> TurnStream:
        """Send a message and follow its turn: `Accepted`, then what the agent does, then `Done`.

        Lost connections are made again, and the events go on exactly where they were.

        Args:
            id: makes the send idempotent beyond this call: the same `id` again, from any process, shows the same turn
                from its start and starts nothing.
            thread_id: of the conversation; an unknown one begins it, None lets the gateway choose.
            when_busy: what to do while the thread's last turn runs: wait, hand the message to that turn, or raise
                `Busy`.
            on_approval: asked for every decision that the agent asks for, beside the stream; returns an option's id, a
                pair of it and the person's words, or None. Cancelled when another device was faster. What it raises is
                raised by the stream.
            seen: tell the gateway at the end that a person has read the answer, so that no push is sent.
            within: seconds for all of it, waiting behind other turns included.

        Raises:
            Refused, Disconnected, TimedOut, ContractBroken: from the iteration. A turn that fails raises nothing: see
                `Done.status`.
        """
        session = TurnSession(
            new_message(content, id=id, thread_id=thread_id, when_busy=when_busy, attachments=attachments), seen=seen
        )
        stream = TurnStream(
            self._address, self._deadlines, self._http, agent, session, on_approval=on_approval, within=within
        )
        self._streams.add(stream)
        return stream

    def follow(
        self,
        thread_id: str,
        cursor: str | None = None,
        *,
        agent: str | None = None,
        on_approval: Decide | None = None,
    ) -> Follow:
        """Everything that happens in a thread, whoever does it, from `cursor` on and without end.

        A `Snapshot` comes first without a cursor, and whenever the gateway can no longer vouch for the one given or
        kept: it replaces all that was shown before. `agent` saves the look-up of the thread's agent.
        """
        stream = Follow(
            self._address,
            self._deadlines,
            self._http,
            agent if agent is not None else functools.partial(_agent_of, self._http, thread_id),
            FollowSession(thread_id, cursor),
            on_approval=on_approval,
        )
        self._streams.add(stream)
        return stream

    def stream_text(
        self,
        agent: str,
        content: str,
        *,
        id: str | None = None,
        thread_id: str | None = None,
        when_busy: WhenBusy = "queue",
        attachments: Sequence[Any] = (),
        seen: bool = False,
        within: float = WITHIN,
        idle: float | None = None,
    ) -> Generator[str, None, Done]:
        """`blocking.stream_text`: the answer's text, piece by piece, in a plain generator."""
        return self.blocking.stream_text(
            agent,
            content,
            id=id,
            thread_id=thread_id,
            when_busy=when_busy,
            attachments=attachments,
            seen=seen,
            within=within,
            idle=idle,
        )

    # --- calls ---

    async def send(
        self,
        agent: str,
        content: str,
        *,
        id: str | None = None,
        thread_id: str | None = None,
        when_busy: WhenBusy = "queue",
        attachments: Sequence[Any] = (),
    ) -> Sent:
        """Start a turn in the background."""
        message = new_message(content, id=id, thread_id=thread_id, when_busy=when_busy, attachments=attachments)
        return await self._http.perform(calls.send(agent, message))

    async def decide(self, approval_id: str, decision: str, text: str | None = None) -> Decided:
        """Answer an approval request. The first answer wins; returns the one that stands."""
        return await self._http.perform(calls.decide(approval_id, decision, text))

    async def cancel(self, turn_id: str) -> None:
        """Stop a turn, running or queued. One that has ended stays as it is."""
        await self._http.perform(calls.cancel(turn_id))

    async def retry(self, turn_id: str) -> Sent:
        """Start a new turn with the message of one that did not complete. Sent once: see `Disconnected`."""
        return await self._http.perform(calls.retry(turn_id))

    async def agents(self) -> list[Agent]:
        return await self._http.perform(calls.agents())

    async def threads(
        self, *, agent: str | None = None, before: int | None = None, limit: int | None = None
    ) -> ThreadPage:
        """The user's threads, newest first."""
        return await self._http.perform(calls.threads(agent, before, limit))

    async def thread(self, thread_id: str) -> Thread:
        return await self._http.perform(calls.thread(thread_id))

    async def messages(
        self, thread_id: str, *, before: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[ShownMessage]:
        """A page of a thread's history, oldest first; `before` and `after` are message ids."""
        return await self._http.perform(calls.messages(thread_id, before, after, limit))

    async def turn(self, turn_id: str) -> Turn:
        """A turn with its whole answer."""
        return await self._http.perform(calls.turn(turn_id))

    async def rename(self, thread_id: str, title: str) -> Thread:
        return await self._http.perform(calls.rename(thread_id, title))

    async def delete(self, thread_id: str) -> None:
        """Delete a thread and all that belongs to it."""
        await self._http.perform(calls.delete(thread_id))


async def _agent_of(http: AsyncHttp, thread_id: str) -> str:
    return (await http.perform(calls.thread(thread_id))).agent
