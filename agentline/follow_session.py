"""A thread that is followed for good, seen from the client. No I/O; see `session`."""

from __future__ import annotations

from agentline.errors import refused
from agentline.events import Attached, Detached, ErrorFrame, Event, Goodbye, Ready, Snapshot, decode
from agentline.records import Turn
from agentline.session import attach_frame, checked_ready, refusal

__all__ = ["FollowSession"]


class FollowSession:
    """Every event of one thread from a cursor on, over as many connections as the caller stays.

    Without a cursor, and whenever the gateway cannot vouch for one, a `Snapshot` comes first: what was shown before is
    to be replaced by it.
    """

    def __init__(self, thread_id: str, cursor: str | None) -> None:
        self.thread_id = thread_id
        self.cursor = cursor
        self.outgoing: list[str] = []
        self.answered = self.over = self.needs_turn = False
        self.turn_id: str | None = None
        self.pause = 0.0

    def connected(self) -> None:
        """A new connection stands; nothing has been said on it."""
        self.outgoing.clear()
        self.answered = False
        self.pause = 0.0

    def receive(self, text: str) -> list[Event]:
        """What a frame tells the caller. Raises as `TurnSession.receive`."""
        frame = decode(text)
        match frame:
            case None:
                return []
            case Ready():
                checked_ready(frame)
                self.outgoing.append(attach_frame(self.thread_id, self.cursor))
            case Goodbye():
                self.pause = frame.reconnect_after_ms / 1000
            case ErrorFrame():
                if not self.answered:
                    raise refusal(frame)
            case Attached():
                if frame.thread_id == self.thread_id:
                    self.answered = True
            case Detached():
                if frame.thread_id == self.thread_id:
                    raise refused("not_found", "the thread was deleted", field="thread_id")
            case Snapshot(thread_id=self.thread_id):
                self.cursor = frame.cursor
                return [frame]
            case _:  # an event of some thread
                if frame.thread_id == self.thread_id:
                    self.cursor = getattr(frame, "cursor", None) or self.cursor
                    return [frame]
        return []

    def looked_up(self, turn: Turn) -> list[Event]:
        """Never asked for."""
        raise AssertionError(turn)
