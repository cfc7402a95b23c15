"""The client for code without asyncio: plain generators and plain calls, from any thread.

Nothing here starts a thread or a loop. A generator owns its connection, opens it when it is first asked for something,
and has closed it when it ends, is closed, or is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, Literal, TypeAlias, TypeVar

from agentline import calls
from agentline.address import Address
from agentline.blocking_stream import run
from agentline.calls import Call
from agentline.deadlines import Deadlines
from agentline.errors import TurnFailed
from agentline.events import ApprovalRequest, Done, Event, Reset, ShownMessage, Text
from agentline.follow_session import FollowSession
from agentline.http import perform
from agentline.records import Agent, Decided, Sent, Thread, ThreadPage, Turn
from agentline.session import Session, new_message
from agentline.turn_session import TurnSession

__all__ = ["WITHIN", "Blocking", "Decide", "WhenBusy"]

WhenBusy: TypeAlias = Literal["queue", "steer", "reject"]
Decide: TypeAlias = "Callable[[ApprovalRequest], str | tuple[str, str] | None]"
Answer = TypeVar("Answer")
WITHIN = 3900.0
"""Seconds; the gateway itself ends a turn after an hour."""


class Blocking:
    """`Agentline.blocking`. May be used by many threads at once; each generator by one at a time."""

    def __init__(self, address: Address, deadlines: Deadlines) -> None:
        self._address = address
        self._deadlines = deadlines

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
    ) -> Generator[Event, None, None]:
        """As `Agentline.stream`. `on_approval` is called between two events, and the stream stands still meanwhile."""
        message = new_message(content, id=id, thread_id=thread_id, when_busy=when_busy, attachments=attachments)
        with closing(self._run(lambda: agent, TurnSession(message, seen=seen), within)) as events:
            for event in events:
                if event is not None:
                    yield event
                    if isinstance(event, ApprovalRequest) and on_approval is not None:
                        self._answer(event, on_approval(event))

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
        """The answer's text, piece by piece; the generator returns the turn's `Done`.

        Pieces can only be appended. Should the agent take back what was yielded already, the corrected answer follows
        whole behind a blank line; `Done.content` is then what stands.

        Args:
            idle: yield an empty piece whenever nothing came for so many seconds, so that the caller gets a chance to
                stop.

        Raises:
            TurnFailed: at the end, when the turn failed or was interrupted. A cancelled one just ends.
            Refused, Disconnected, TimedOut, ContractBroken: see `Agentline.stream`.
        """
        message = new_message(content, id=id, thread_id=thread_id, when_busy=when_busy, attachments=attachments)
        session = TurnSession(message, seen=seen)
        shown = ""
        with closing(self._run(lambda: agent, session, within, idle)) as events:
            for event in events:
                match event:
                    case None:
                        yield ""
                    case Text(content=piece):
                        shown += piece
                        yield piece
                    case Reset(content=answer):
                        piece = answer.removeprefix(shown) if answer.startswith(shown) else f"\n\n{answer}"
                        shown = answer
                        if piece:
                            yield piece
                    case _:
                        pass
        done = session.done
        assert done is not None  # noqa: S101 - the run above ends with it, or raises
        if done.status in ("failed", "interrupted"):
            raise TurnFailed(done)
        return done

    def follow(
        self, thread_id: str, cursor: str | None = None, *, agent: str | None = None
    ) -> Generator[Event, None, None]:
        """As `Agentline.follow`."""
        with closing(self._run(lambda: agent or self.thread(thread_id).agent, FollowSession(thread_id, cursor))) as run:
            for event in run:
                if event is not None:
                    yield event

    def _run(
        self, agent: Callable[[], str], session: Session, within: float | None = None, idle: float | None = None
    ) -> Generator[Event | None, None, None]:
        return run(self._address, self._deadlines, agent, session, within=within, idle=idle)

    def _answer(self, request: ApprovalRequest, answer: str | tuple[str, str] | None) -> None:
        if answer is not None:
            decision, text = (answer, None) if isinstance(answer, str) else answer
            self.decide(request.approval_id, decision, text)

    # --- calls ---

    def send(
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
        return self._perform(calls.send(agent, message))

    def decide(self, approval_id: str, decision: str, text: str | None = None) -> Decided:
        """Answer an approval request. The first answer wins; returns the one that stands."""
        return self._perform(calls.decide(approval_id, decision, text))

    def cancel(self, turn_id: str) -> None:
        """Stop a turn, running or queued. One that has ended stays as it is."""
        self._perform(calls.cancel(turn_id))

    def retry(self, turn_id: str) -> Sent:
        """Start a new turn with the message of one that did not complete."""
        return self._perform(calls.retry(turn_id))

    def agents(self) -> list[Agent]:
        return self._perform(calls.agents())

    def threads(self, *, agent: str | None = None, before: int | None = None, limit: int | None = None) -> ThreadPage:
        """The user's threads, newest first."""
        return self._perform(calls.threads(agent, before, limit))

    def thread(self, thread_id: str) -> Thread:
        return self._perform(calls.thread(thread_id))

    def messages(
        self, thread_id: str, *, before: str | None = None, after: str | None = None, limit: int | None = None
    ) -> list[ShownMessage]:
        """A page of a thread's history, oldest first; `before` and `after` are message ids."""
        return self._perform(calls.messages(thread_id, before, after, limit))

    def turn(self, turn_id: str) -> Turn:
        """A turn with its whole answer."""
        return self._perform(calls.turn(turn_id))

    def rename(self, thread_id: str, title: str) -> Thread:
        return self._perform(calls.rename(thread_id, title))

    def delete(self, thread_id: str) -> None:
        """Delete a thread and all that belongs to it."""
        self._perform(calls.delete(thread_id))

    def _perform(self, call: Call[Answer]) -> Answer:
        return perform(self._address, self._deadlines, call)
