"""One turn, seen from the client, over as many connections as it takes. No I/O; see `session`.

On each of them:

    session.connected()          a new connection
      ready        → outgoing: the message, or attach with the last cursor
      accepted / attached        from here on `answered`
      message …    → events
      done         → events, `over`
"""

from __future__ import annotations

from typing import Any

import msgspec

from agentline.endings import Lost
from agentline.errors import refused
from agentline.events import (
    Accepted,
    ApprovalRequest,
    ApprovalResolved,
    Attached,
    Detached,
    Done,
    ErrorFrame,
    Event,
    Frame,
    Goodbye,
    Ready,
    Reasoning,
    Reset,
    ShownTurn,
    Snapshot,
    Text,
    ToolCall,
    ToolResult,
    Typing,
    UserMessage,
    decode,
)
from agentline.records import Turn
from agentline.session import attach_frame, checked_ready, encoded, refusal

__all__ = ["TurnSession"]

ENDED = ("completed", "cancelled", "failed", "interrupted")


class TurnSession:
    """Sends one message and follows its turn to the end, over as many connections as that takes.

    The events are those of this turn alone, each once, whatever happens to the connections. Joining `Text` and starting
    over at each `Reset` gives `Done.content`.
    """

    def __init__(self, message: dict[str, Any], *, seen: bool = False) -> None:
        self._message = {"type": "message", **message}
        self._seen = seen
        self._id: str = message["id"]
        self.outgoing: list[str] = []
        self.answered = self.over = self.needs_turn = False
        self.pause = 0.0
        self.thread_id: str | None = message.get("thread_id")
        self.turn_id: str | None = None
        self.cursor: str | None = None
        self.done: Done | None = None
        self._pieces: list[str] = []
        self._withheld = False
        """Whether the text that the caller has is only the beginning of what a cut frame stood for: pieces behind it
        cannot be appended, and the whole text comes at the end."""
        self._cut_done: Done | None = None
        self._tools: dict[str, str] = {}
        self._approvals: dict[str, ApprovalRequest] = {}
        self._asked: set[str] = set()
        self._open_turns: set[str] | None = None

    @property
    def text(self) -> str:
        """The answer so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def connected(self) -> None:
        """A new connection stands; nothing has been said on it."""
        self.outgoing.clear()
        self.answered = self.needs_turn = False
        self._open_turns = self._cut_done = None
        self.pause = 0.0

    def receive(self, text: str) -> list[Event]:
        """What a frame tells the caller.

        Raises:
            Refused: the message was refused.
            ContractBroken: the peer is no gateway of this protocol.
            Lost: connect again.
        """
        frame = decode(text)
        match frame:
            case None:
                return []
            case Ready():
                checked_ready(frame)
                self.outgoing.append(self._opening())
            case Goodbye():
                self.pause = frame.reconnect_after_ms / 1000
            case ErrorFrame():
                if not self.answered and frame.id in (None, self._id):
                    raise refusal(frame)
            case Accepted():
                return self._accepted(frame)
            case Attached(thread_id=self.thread_id):
                self.answered = True
                self._open_turns = None if frame.recovered else {turn.turn_id for turn in frame.turns}
            case Detached(thread_id=self.thread_id):
                raise refused("not_found", "the thread was deleted", field="thread_id")
            case Snapshot(thread_id=self.thread_id):
                return self._shown(frame)
            case _:
                return self._logged(frame)
        return []

    def _opening(self) -> str:
        if self.turn_id is None or self.thread_id is None:
            return encoded(self._message)
        return attach_frame(self.thread_id, self.cursor)

    def _accepted(self, frame: Accepted) -> list[Event]:
        if frame.id != self._id or self.turn_id is not None:
            return []
        self.answered = True
        self.thread_id, self.turn_id, self.cursor = frame.thread_id, frame.turn_id, frame.cursor
        return [frame]

    def _logged(self, frame: Frame) -> list[Event]:
        if self.thread_id is None or getattr(frame, "thread_id", None) != self.thread_id:
            return []
        if (cursor := getattr(frame, "cursor", None)) is not None:
            self.cursor = cursor
        if getattr(frame, "turn_id", None) != self.turn_id or self.over:
            return []
        match frame:
            case Text():
                if self._withheld:
                    return []
                self._pieces.append(frame.content)
            case Reset():
                self._pieces = [frame.content]
                self._withheld = frame.truncated
            case ToolCall():
                self._tools[frame.call_id] = "running"
            case ToolResult():
                self._tools[frame.call_id] = frame.status
            case ApprovalRequest():
                if frame.approval_id in self._asked:
                    return []
                self._asked.add(frame.approval_id)
                self._approvals[frame.approval_id] = frame
            case ApprovalResolved():
                if self._approvals.pop(frame.approval_id, None) is None:
                    return []  # the answer to a decision that came too late: told already
            case Done():
                return self._finished(frame)
            case UserMessage() | Reasoning() | Typing():
                pass
            case _:
                return []
        return [frame]

    def _finished(self, done: Done) -> list[Event]:
        if done.truncated:
            text = self.text
            if self._withheld or len(text) != done.length or not text.startswith(done.content):
                self._cut_done, self.needs_turn = done, True
                return []
            done = msgspec.structs.replace(done, content=text, truncated=False, length=None)
        return self._ended(done)

    def _ended(self, done: Done) -> list[Event]:
        events = self._text_is(done.content, done)
        self.done, self.over = done, True
        if self._seen:
            self.outgoing.append(encoded({"type": "seen", "thread_id": done.thread_id, "message_id": done.message_id}))
        return [*events, done]

    def _text_is(self, content: str, where: Done | Snapshot) -> list[Event]:
        """The `Reset` that makes the caller's text `content`, if it is another."""
        if self.text == content:
            return []
        self._pieces = [content]
        return [
            Reset(
                timestamp=where.timestamp,
                thread_id=where.thread_id,
                turn_id=self.turn_id or "",
                cursor=where.cursor,
                content=content,
            )
        ]

    def _shown(self, frame: Snapshot) -> list[Event]:
        """Bring the caller from what it has seen to what the snapshot shows."""
        self.cursor = frame.cursor
        turn = frame.turn
        if turn is not None and turn.turn_id == self.turn_id:
            return [*self._text_so_far(turn, frame), *self._tools_so_far(turn, frame), *self._decisions(frame)]
        if self._open_turns is not None and self.turn_id not in self._open_turns:
            self.needs_turn = True
        return self._decisions(frame)

    def _text_so_far(self, turn: ShownTurn, frame: Snapshot) -> list[Event]:
        self._withheld = turn.truncated
        return self._text_is(turn.content, frame)

    def _tools_so_far(self, turn: ShownTurn, frame: Snapshot) -> list[Event]:
        events: list[Event] = []
        where: dict[str, Any] = {
            "timestamp": frame.timestamp,
            "thread_id": frame.thread_id,
            "turn_id": turn.turn_id,
            "cursor": frame.cursor,
        }
        for tool in turn.tools:
            if tool.call_id not in self._tools:
                events.append(ToolCall(call_id=tool.call_id, name=tool.name, title=tool.title, **where))
            if tool.status != "running" and self._tools.get(tool.call_id, "running") == "running":
                events.append(ToolResult(call_id=tool.call_id, status=tool.status, **where))
            self._tools[tool.call_id] = tool.status
        return events

    def _decisions(self, frame: Snapshot) -> list[Event]:
        events: list[Event] = []
        shown = [approval for approval in frame.approvals if approval.turn_id == self.turn_id]
        for approval_id in set(self._approvals) - {approval.approval_id for approval in shown}:
            gone = self._approvals.pop(approval_id)
            events.append(
                ApprovalResolved(
                    timestamp=frame.timestamp,
                    thread_id=gone.thread_id,
                    turn_id=gone.turn_id,
                    cursor=frame.cursor,
                    approval_id=approval_id,
                    decision="unknown",
                )
            )
        for approval in shown:
            if approval.approval_id not in self._asked:
                fields = msgspec.structs.asdict(approval)
                asked = ApprovalRequest(
                    timestamp=frame.timestamp, thread_id=frame.thread_id, cursor=frame.cursor, **fields
                )
                self._asked.add(approval.approval_id)
                self._approvals[approval.approval_id] = asked
                events.append(asked)
        return events

    def looked_up(self, turn: Turn) -> list[Event]:
        """The turn as the gateway stores it, which `needs_turn` asked for."""
        self.needs_turn = False
        if self._cut_done is not None:
            return self._ended(
                msgspec.structs.replace(self._cut_done, content=turn.content, truncated=False, length=None)
            )
        if turn.status not in ENDED:
            raise Lost("the turn was about to end")  # between two looks at it: attach once more
        return self._ended(
            Done(
                timestamp=turn.finished_at or turn.created_at,
                thread_id=turn.thread_id,
                turn_id=turn.turn_id,
                cursor=self.cursor,
                status=turn.status,  # type: ignore[arg-type]  # one of ENDED
                message_id=turn.message_id,
                content=turn.content,
                stop_reason=turn.stop_reason,
                usage=turn.usage,
                duration_ms=turn.duration_ms or 0,
                error=turn.error,
            )
        )
