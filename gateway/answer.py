"""The answer of one turn in the making: what a provider yields becomes events of the log. No I/O.

providers.Event → Answer.apply → ThreadLog.append (which wakes the followers)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from gateway import protocol
from gateway.clock import timestamp
from gateway.eventlog.log import ThreadLog
from gateway.text import json_size, normalise, normalise_json
from gateway.view import TurnView
from providers import (
    Completed,
    Event,
    Progress,
    ProviderError,
    ReasoningDelta,
    SessionUpdated,
    TextDelta,
    TextReset,
    ToolCall,
    ToolResult,
    Usage,
)

SEPARATOR = "\n\n"
"""Stands between two text items of an answer."""
ANSWER_CHARS = 8 * 1024 * 1024
"""More text or reasoning than this in one turn is taken for a provider out of control."""
SESSION_BYTES = 64 * 1024


class Answer:
    """Checks each event of a provider against the contract, and logs what it says.

    Joining the logged `message` contents, starting over at each `reset`, gives `content` at every moment.
    """

    def __init__(self, log: ThreadLog, turn_id: str, frame_bytes: int) -> None:
        self._log = log
        self._turn_id = turn_id
        self._frame_bytes = frame_bytes
        self._piece_chars = frame_bytes // 16
        """A character takes at most 6 bytes in JSON, so that a piece leaves room for several in a frame."""
        self._items: list[tuple[str, list[str]]] = []
        self._item_ids: set[str] = set()
        self._chars = 0
        self._calls: set[str] = set()
        self._open_calls: dict[str, None] = {}
        self.view = TurnView()
        self.usage: dict[str, int] = {}
        self.completed: Completed | None = None
        self.pieces = 0
        """Text events logged."""
        self.begun = False
        """Whether the provider has yielded anything: from then on the call is never repeated."""

    @property
    def content(self) -> str:
        """The answer's text so far."""
        return "".join(["".join(pieces) for _, pieces in self._items])

    def restore(self, events: Sequence[protocol.Event]) -> None:
        """Take up what an earlier process had logged of this turn."""
        for event in events:
            self.view.apply(event)
        self._items = [("", [self.view.content])]
        self._open_calls = dict.fromkeys(c for c, tool in self.view.tools.items() if tool["status"] == "running")

    def apply(self, event: Event) -> None:
        """Take one event of the provider.

        Raises:
            ProviderError: `provider_fault`, the provider broke its contract.
        """
        self.begun = True
        if self.completed is not None:
            raise _fault("it yielded an event after Completed")
        if isinstance(event, TextDelta):
            self._text(event)
        elif isinstance(event, ReasoningDelta):
            self._reasoning(event)
        elif isinstance(event, Progress):
            pass
        elif isinstance(event, ToolCall):
            self._tool_call(event)
        elif isinstance(event, ToolResult):
            self._tool_result(event)
        elif isinstance(event, TextReset):
            self._reset(event)
        elif isinstance(event, Usage):
            self.usage = {"input_tokens": event.input_tokens, "output_tokens": event.output_tokens}
            self.usage |= msgspec.to_builtins(event)
        elif isinstance(event, SessionUpdated):
            self._session(event)
        elif isinstance(event, Completed):
            self.completed = event
        else:
            raise _fault(f"it yielded a {type(event).__name__}, which is no event")

    def log(self, kind: type[protocol.LoggedFrame], /, **fields: Any) -> None:
        """Append an event of this turn to the log."""
        frame: Any = kind(
            timestamp=timestamp(),
            thread_id=self._log.thread_id,
            turn_id=self._turn_id,
            cursor=self._log.next_cursor(),
            **fields,
        )
        if kind not in (protocol.Message, protocol.Reasoning):
            frame = protocol.fitted(frame, self._frame_bytes)
        self.view.apply(frame)
        self._log.append(frame)

    def fail_open_calls(self) -> None:
        """Report every tool call that has no result as failed."""
        for call_id in self._open_calls:
            self.log(protocol.ToolResult, call_id=call_id, status="failed", summary="")
        self._open_calls.clear()

    def _text(self, delta: TextDelta) -> None:
        text = normalise(delta.text)
        if not text:
            return
        item_id = delta.item_id
        if not self._items or self._items[-1][0] != item_id:
            if item_id not in self._item_ids:
                self._item_ids.add(item_id)
                if self._items:
                    text = SEPARATOR + text
            self._items.append((item_id, []))
        self._items[-1][1].append(text)
        self._count(text)
        for start in range(0, len(text), self._piece_chars):
            self.pieces += 1
            self.log(protocol.Message, item_id=item_id, content=text[start : start + self._piece_chars])

    def _reasoning(self, delta: ReasoningDelta) -> None:
        text = normalise(delta.text)
        self._count(text)
        for start in range(0, len(text), self._piece_chars):
            self.log(protocol.Reasoning, item_id=delta.item_id, content=text[start : start + self._piece_chars])

    def _count(self, text: str) -> None:
        self._chars += len(text)
        if self._chars > ANSWER_CHARS:
            raise ProviderError("too_large", "The answer grew beyond every bound and was stopped.")

    def _reset(self, reset: TextReset) -> None:
        kept = [] if reset.item_id is None else [item for item in self._items if item[0] != reset.item_id]
        if kept and kept[0] is not self._items[0]:
            kept[0] = (kept[0][0], ["".join(kept[0][1]).removeprefix(SEPARATOR)])
        self._items = kept
        self._item_ids = {item_id for item_id, _ in kept}
        self.fail_open_calls()
        self.log(protocol.Reset, content=self.content)

    def _tool_call(self, call: ToolCall) -> None:
        if call.call_id in self._calls:
            raise _fault("it began two tool calls with one id")
        self._calls.add(call.call_id)
        self._open_calls[call.call_id] = None
        self.log(
            protocol.ToolCall,
            call_id=normalise(call.call_id),
            name=normalise(call.name),
            title=normalise(call.title) or normalise(call.name),
            arguments=_json(call.arguments, "arguments of a tool call"),
        )

    def _tool_result(self, result: ToolResult) -> None:
        if result.call_id not in self._open_calls:
            if result.call_id in self._calls:
                return  # a late result of a call that a reset has failed already
            raise _fault("it gave a result for a tool call that it had not begun")
        del self._open_calls[result.call_id]
        self.log(
            protocol.ToolResult,
            call_id=normalise(result.call_id),
            status=result.status,
            summary=normalise(result.summary),
        )

    def _session(self, event: SessionUpdated) -> None:
        session = _json(event.session, "session")
        if json_size(session) > SESSION_BYTES:
            raise _fault("its session takes more than 64 KiB")
        self._log.session = session


def _json(value: Any, what: str) -> dict[str, Any]:
    try:
        plain = msgspec.to_builtins(dict(value), str_keys=True)
        json_size(plain := normalise_json(plain))
    except (TypeError, ValueError, RecursionError):
        raise _fault(f"the {what} it gave is not made of JSON values") from None
    return dict(plain)


def _fault(problem: str) -> ProviderError:
    return ProviderError("provider_fault", f"The agent's provider broke its contract: {problem}.")
