"""The log of one thread, as this process holds it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gateway.eventlog.position import Position
from gateway.protocol import Event, encode
from gateway.store.records import Approval
from gateway.view import TurnView


class Follower(Protocol):
    """Somebody who wants to know that a log has grown."""

    def wake(self) -> None:
        """Called after every append; must return at once and not raise."""


class RunningTurn(Protocol):
    """What readers of a log may ask of the turn that runs in it."""

    @property
    def turn_id(self) -> str: ...

    @property
    def start(self) -> int:
        """Offset just before the turn's first event."""

    @property
    def view(self) -> TurnView:
        """The sum of its events up to the head."""


class _Waiter:
    """Somebody who waits for the next growth."""

    __slots__ = ("grown",)

    def __init__(self) -> None:
        self.grown = asyncio.Event()

    def wake(self) -> None:
        self.grown.set()


async def until(log: ThreadLog, reached: Callable[[], bool]) -> None:
    """Return once `reached()`, which is looked at whenever the log has grown. The caller sets the deadline."""
    waiter = _Waiter()
    log.add_follower(waiter)
    try:
        while not reached():
            waiter.grown.clear()
            await waiter.grown.wait()
    finally:
        log.remove_follower(waiter)


class ThreadLog:
    """Events `base + 1 … head` in memory; what is older is in the store.

    Appending is synchronous and wakes the followers: nothing stands between an event and those who show it.
    Only the turn engine appends; where the turn runs on another node, what that node has appended is repeated here.
    """

    __slots__ = (
        "_encoded",
        "_followers",
        "approvals",
        "base",
        "durable",
        "epoch",
        "events",
        "flushing",
        "holders",
        "key",
        "running",
        "session",
        "shown",
        "thread_id",
        "turns_started",
        "user_id",
    )

    def __init__(self, *, key: int, user_id: str, thread_id: str, epoch: int, head: int) -> None:
        self.key = key
        self.user_id = user_id
        self.thread_id = thread_id
        self.epoch = epoch
        self.base = head
        """Offset of the newest event that is not in `events`."""
        self.durable = head
        """Offset up to which the store has the events."""
        self.events: list[Event] = []
        self.running: RunningTurn | None = None
        """The turn that runs in this thread now."""
        self.turns_started = 0
        """Counts up when a turn starts or ends here, so that a reader of several things can tell whether they
        belong together."""
        self.session: Any = None
        """The provider's session, if it has changed since the last checkpoint."""
        self.approvals: dict[str, Approval] = {}
        """Approvals that have changed since the last checkpoint."""
        self.shown: dict[str, None] = {}
        """Turns that were cancelled while they waited, and whose end was logged since the last checkpoint."""
        self.holders = 0
        self.flushing = asyncio.Lock()
        """Held by whoever carries events of this log to the store."""
        self._followers: set[Follower] = set()
        self._encoded: tuple[int, str] = (-1, "")

    @property
    def head(self) -> int:
        """Offset of the newest event."""
        return self.base + len(self.events)

    @property
    def position(self) -> Position:
        """The place behind the newest event."""
        return Position(self.epoch, self.base + len(self.events))

    def next_cursor(self) -> str:
        """The cursor of the event that is appended next."""
        return f"{self.epoch}:{self.base + len(self.events) + 1}"

    def append(self, event: Event) -> None:
        """Add an event that was made with `next_cursor()`, and wake the followers."""
        self.events.append(event)
        for follower in self._followers:
            follower.wake()

    def append_all(self, events: list[Event]) -> None:
        """Add events that were made with consecutive cursors."""
        for event in events:
            self.append(event)

    def encoded(self, offset: int) -> str:
        """The frame of the event at `offset`, which must be in memory. Kept for the next follower that asks."""
        if self._encoded[0] != offset:
            self._encoded = (offset, encode(self.events[offset - self.base - 1]))
        return self._encoded[1]

    def add_follower(self, follower: Follower) -> None:
        self._followers.add(follower)

    def remove_follower(self, follower: Follower) -> None:
        self._followers.discard(follower)

    def renew(self, epoch: int, head: int) -> None:
        """Begin anew at this place: what came before it is gone, and followers start over from a snapshot."""
        self.epoch = epoch
        self.base = self.durable = head
        self.events = []
        self.running = None
        self.turns_started += 1
        self.session = None
        self.approvals.clear()
        self.shown.clear()
        self._encoded = (-1, "")
        for follower in self._followers:
            follower.wake()

    def forget(self, keep: int) -> None:
        """Drop durable events from memory but for the newest `keep`."""
        surplus = min(len(self.events) - keep, self.durable - self.base)
        if surplus > 0:
            del self.events[:surplus]
            self.base += surplus
