"""The answer of one turn in the making: what a provider yields becomes events of the log. No I/O.

providers.Event → Answer.apply → ThreadLog.append (which wakes the followers)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway import protocol
from gateway.clock import timestamp
from gateway.eventlog.log import ThreadLog
from gateway.text import json_object, json_size, json_value, normalise
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
NAME_CHARS = 256
"""Of the ids that a provider gives: they stand in every frame."""
TITLE_CHARS = 1000
"""Of a tool's name and title; what is longer comes cut."""
COUNT_LIMIT = 2**63


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
            self._usage(event)
        elif isinstance(event, SessionUpdated):
            self._session(event)
        elif isinstance(event, Completed):
            self.completed = Completed(_name(event.stop_reason, "stop_reason"))
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
        text, item_id = _text(delta.text, "text"), _name(delta.item_id, "item_id")
        if not text:
            return
        self._count(text)
        if not self._items or self._items[-1][0] != item_id:
            if item_id not in self._item_ids:
                self._item_ids.add(item_id)
                if self._items:
                    text = SEPARATOR + text
            self._items.append((item_id, []))
        self._items[-1][1].append(text)
        for start in range(0, len(text), self._piece_chars):
            self.pieces += 1
            self.log(protocol.Message, item_id=item_id, content=text[start : start + self._piece_chars])

    def _reasoning(self, delta: ReasoningDelta) -> None:
        text, item_id = _text(delta.text, "text"), _name(delta.item_id, "item_id")
        self._count(text)
        for start in range(0, len(text), self._piece_chars):
            self.log(protocol.Reasoning, item_id=item_id, content=text[start : start + self._piece_chars])

    def _count(self, text: str) -> None:
        self._chars += len(text)
        if self._chars > ANSWER_CHARS:
            raise ProviderError("too_large", "The answer grew beyond every bound and was stopped.")

    def _reset(self, reset: TextReset) -> None:
        gone = None if reset.item_id is None else _name(reset.item_id, "item_id")
        kept = [] if gone is None else [item for item in self._items if item[0] != gone]
        if kept and kept[0] is not self._items[0]:
            kept[0] = (kept[0][0], ["".join(kept[0][1]).removeprefix(SEPARATOR)])
        self._items = kept
        self._item_ids = {item_id for item_id, _ in kept}
        self.fail_open_calls()
        self.log(protocol.Reset, content=self.content)

    def _tool_call(self, call: ToolCall) -> None:
        call_id, name = _name(call.call_id, "call_id"), _text(call.name, "name")[:TITLE_CHARS]
        title = _text(call.title, "title")[:TITLE_CHARS]
        arguments = _json(call.arguments, "arguments of a tool call")
        if call_id in self._calls:
            raise _fault("it began two tool calls with one id")
        self._calls.add(call_id)
        self._open_calls[call_id] = None
        self.log(protocol.ToolCall, call_id=call_id, name=name, title=title or name, arguments=arguments)

    def _tool_result(self, result: ToolResult) -> None:
        call_id, summary = _name(result.call_id, "call_id"), _text(result.summary, "summary")
        if result.status not in ("completed", "failed"):
            raise _fault("it gave a tool's result a status that there is not")
        if call_id not in self._open_calls:
            if call_id in self._calls:
                return  # a late result of a call that a reset has failed already
            raise _fault("it gave a result for a tool call that it had not begun")
        del self._open_calls[call_id]
        self.log(protocol.ToolResult, call_id=call_id, status=result.status, summary=summary)

    def _usage(self, usage: Usage) -> None:
        counts = msgspec.structs.asdict(usage)
        if not all(type(count) is int and 0 <= count < COUNT_LIMIT for count in counts.values()):
            raise _fault("it counted tokens in something else than whole numbers")
        self.usage = {name: n for name, n in counts.items() if n or name in ("input_tokens", "output_tokens")}

    def _session(self, event: SessionUpdated) -> None:
        given = event.session
        try:
            session = json_object(given) if isinstance(given, Mapping) else json_value(given)
        except ValueError:
            session = None
        if session is None:
            raise _fault("the session it gave is not made of JSON values")
        if json_size(session) > SESSION_BYTES:
            raise _fault("its session takes more than 64 KiB")
        self._log.session = session


def _text(value: object, field: str) -> str:
    """A text of a provider as it may be logged; not everything that it yields was seen by a type checker."""
    if not isinstance(value, str):
        raise _fault(f"the {field} of an event it yielded is no text")
    return normalise(value)


def _name(value: object, field: str) -> str:
    name = _text(value, field)
    if len(name) > NAME_CHARS:
        raise _fault(f"the {field} of an event it yielded has more than {NAME_CHARS} characters")
    return name


def _json(value: Any, what: str) -> dict[str, Any]:
    try:
        return json_object(value)
    except ValueError:
        raise _fault(f"the {what} it gave is not made of JSON values") from None


def _fault(problem: str) -> ProviderError:
    return ProviderError("provider_fault", f"The agent's provider broke its contract: {problem}.")
