"""A turn as it stands: what a snapshot shows of it. Built from its logged events alone; no I/O."""

from __future__ import annotations

from typing import Any

from gateway.protocol import (
    ApprovalRequest,
    ApprovalResolved,
    Event,
    Message,
    Reasoning,
    Reset,
    ToolCall,
    ToolResult,
)
from gateway.text import cut, json_size

TOOLS_SHOWN = 50
"""Of the tool calls of a turn, the newest so many stand in a snapshot."""


class TurnView:
    """The sum of a turn's events so far."""

    __slots__ = ("_reasoning", "_text", "approvals", "tools")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self.tools: dict[str, dict[str, Any]] = {}
        self.approvals: dict[str, ApprovalRequest] = {}
        """Open ones by id."""

    def apply(self, event: Event) -> None:
        """Take one more event of the turn into account."""
        if isinstance(event, Message):
            self._text.append(event.content)
        elif isinstance(event, Reasoning):
            self._reasoning.append(event.content)
        elif isinstance(event, Reset):
            self._text = [event.content]
        elif isinstance(event, ToolCall):
            self.tools[event.call_id] = {
                "call_id": event.call_id,
                "name": event.name,
                "title": event.title,
                "status": "running",
            }
        elif isinstance(event, ToolResult):
            if event.call_id in self.tools:
                self.tools[event.call_id]["status"] = event.status
        elif isinstance(event, ApprovalRequest):
            self.approvals[event.approval_id] = event
        elif isinstance(event, ApprovalResolved):
            self.approvals.pop(event.approval_id, None)

    @property
    def content(self) -> str:
        """The answer's text so far."""
        if len(self._text) > 1:
            self._text = ["".join(self._text)]
        return self._text[0] if self._text else ""

    @property
    def reasoning(self) -> str:
        if len(self._reasoning) > 1:
            self._reasoning = ["".join(self._reasoning)]
        return self._reasoning[0] if self._reasoning else ""

    def shown(self, turn_id: str, limit: int) -> dict[str, Any]:
        """The turn as a snapshot shows it: its texts cut to at most `limit` bytes each, its tools to half as many."""
        content, reasoning = cut(self.content, limit), cut(self.reasoning, limit // 4)
        shown: dict[str, Any] = {
            "turn_id": turn_id,
            "status": "running",
            "content": content,
            "reasoning": reasoning,
            "tools": self._newest_tools(limit // 2),
        }
        if len(content) < len(self.content):
            shown |= {"truncated": True, "length": len(self.content)}
        return shown

    def _newest_tools(self, limit: int) -> list[dict[str, Any]]:
        chosen: list[dict[str, Any]] = []
        for tool in reversed(list(self.tools.values())[-TOOLS_SHOWN:]):
            limit -= json_size(tool) + 1
            if limit < 0:
                break
            chosen.append(tool)
        return chosen[::-1]
