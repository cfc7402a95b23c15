"""What runs turns, as the turn engine and the endpoints see it: this process, or any node."""

from __future__ import annotations

from typing import Protocol, Self

from gateway.runner.running import RunningTurn
from gateway.store.records import Accepted, NewTurn, Turn


class Runner(Protocol):
    """Where a turn runs is its own affair: what people ask for reaches the turn wherever it runs."""

    draining: bool
    """Whether this process takes no new message."""

    @property
    def count(self) -> int:
        """Turns that run in this process."""

    @property
    def stuck(self) -> int:
        """Providers in this process that did not end when they were stopped."""

    async def start(self, turn: Turn) -> object:
        """Have a turn run that the store holds as running: from here on it is not given up."""

    def in_thread(self, thread_key: int) -> RunningTurn | None:
        """The turn that runs in the thread, in this process."""

    async def cancel_running(self, thread_key: int, turn_id: str | None) -> None:
        """Stop the thread's running turn (if it is that one), also when it runs in the store but nowhere yet.

        Raises:
            NodeUnavailable: the node that runs it cannot be told just now.
        """

    async def show_cancelled(self, thread_key: int) -> None:
        """Log the message and the end of the thread's turns that were cancelled before they started."""

    async def steer_elsewhere(self, new: NewTurn) -> Accepted | None:
        """Hand the message to the turn that runs in its thread on another node; None if there is none, or it does not
        take it.

        Raises:
            NodeUnavailable: that node does not answer. It may have taken it.
        """

    async def end_of(self, thread_key: int) -> None:
        """Return when no turn runs in the thread. Raises `NodeUnavailable` if that does not come soon."""

    async def forget_thread(self, thread_key: int) -> None:
        """The thread is deleted: keep nothing of it, and stop what has begun in it since it was cancelled."""

    async def drain(self, seconds: float) -> None:
        """Start nothing more; let running turns end within `seconds`, then mark the rest `interrupted`."""

    async def __aenter__(self) -> Self:
        """Begin; on the only node, with what an earlier process left behind."""

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop what still runs in this process."""
