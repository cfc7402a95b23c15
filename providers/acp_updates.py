"""Reading what an agent says about a turn (`session/update` of the Agent Client Protocol). No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from acp.schema import (
    AgentMessageChunk,
    AgentPlanUpdate,
    AgentThoughtChunk,
    ContentToolCallContent,
    FileEditToolCallContent,
    PermissionOption,
    PromptResponse,
    RequestPermissionRequest,
    ResourceContentBlock,
    TextContentBlock,
    ToolCallProgress,
    ToolCallStart,
    ToolCallUpdate,
)
from pydantic import ValidationError

from providers.base import APPROVED, DECLINED, ApprovalRequest, Option
from providers.events import Event, Progress, ReasoningDelta, TextDelta, ToolCall, ToolResult, Usage

__all__ = ["UpdateReader", "permission_options", "usage_of"]

_LONGEST_SUMMARY = 2000
_LONGEST_DIFF_SIDE = 20_000

_OPTION_IDS = {
    "allow_once": APPROVED.id,
    "allow_always": "approved_for_session",
    "reject_once": DECLINED.id,
    "reject_always": "declined_for_session",
}


class _Call:
    """A tool call as far as the agent has described it."""

    __slots__ = ("announced", "arguments", "diffs", "ended", "kind", "locations", "text", "title")

    def __init__(self) -> None:
        self.title = ""
        self.kind = "tool"
        self.arguments: Mapping[str, Any] = {}
        self.locations: list[str] = []
        self.diffs: list[Mapping[str, Any]] = []
        self.text = ""
        self.announced = False
        self.ended = False

    def take(self, update: ToolCallStart | ToolCallUpdate) -> None:
        """Add what `update` says; a field that it leaves out stays (its lists replace)."""
        self.title = update.title or self.title
        self.kind = update.kind or self.kind
        if isinstance(update.raw_input, Mapping) and update.raw_input:
            self.arguments = update.raw_input
        if update.locations is not None:
            self.locations = [place.path for place in update.locations]
        if update.content is not None:
            self.diffs = [_diff(part) for part in update.content if isinstance(part, FileEditToolCallContent)]
            self.text = "\n".join(
                part.content.text
                for part in update.content
                if isinstance(part, ContentToolCallContent) and isinstance(part.content, TextContentBlock)
            )
        if not self.text and update.raw_output is not None:
            output = update.raw_output
            self.text = output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)


class UpdateReader:
    """The state of one turn: which text item is open, and which tool calls have been shown."""

    def __init__(self) -> None:
        self._item = 0
        self._talking = False
        self._calls: dict[str, _Call] = {}
        self._plans = 0

    def read(self, update: Mapping[str, Any]) -> Iterator[Event]:
        """The events that `update`, the notification's field of that name, stands for.

        What is not understood (a newer kind, a malformed one) shows nothing: an agent may know more than we do.
        """
        try:
            match update.get("sessionUpdate"):
                case "agent_message_chunk":
                    yield from self._message(AgentMessageChunk.model_validate(update))
                case "agent_thought_chunk":
                    thought = AgentThoughtChunk.model_validate(update).content
                    yield from self._quiet()
                    if isinstance(thought, TextContentBlock):
                        yield ReasoningDelta(f"r{self._item}", thought.text)
                case "tool_call":
                    yield from self._tool(ToolCallStart.model_validate(update))
                case "tool_call_update":
                    yield from self._tool(ToolCallProgress.model_validate(update))
                case "plan":
                    yield from self._plan(AgentPlanUpdate.model_validate(update))
                case _:
                    yield Progress()
        except ValidationError:
            yield Progress()

    def permission(self, request: RequestPermissionRequest) -> tuple[list[Event], ApprovalRequest, dict[str, str]]:
        """What to show first, what to ask a person, and the agent's option for each of ours."""
        call_id = request.tool_call.tool_call_id
        shown = list(self._tool(request.tool_call, waits=True))
        call = self._calls[call_id]
        options, answers = permission_options(request.options)
        detail: dict[str, Any] = {"tool": call.kind, "arguments": call.arguments}
        command = call.arguments.get("command")
        if isinstance(command, (str, list)):
            detail["command"] = command if isinstance(command, str) else " ".join(map(str, command))
        if isinstance(call.arguments.get("cwd"), str):
            detail["cwd"] = call.arguments["cwd"]
        if call.locations:
            detail["paths"] = call.locations
        if call.diffs:
            detail["diffs"] = call.diffs
        if call.text:
            detail["text"] = _short(call.text)
        kind = "command" if call.kind == "execute" else "tool"
        if call.diffs or call.kind in ("edit", "delete", "move"):
            kind = "file_change"
        asked = ApprovalRequest(
            kind=kind,  # type: ignore[arg-type]  # one of three literals
            title=call.title or call.kind,
            detail=detail,
            call_id=call_id,
            options=options,
        )
        return shown, asked, answers

    def _message(self, chunk: AgentMessageChunk) -> Iterator[Event]:
        yield from self._flush()
        if not self._talking:
            self._item += 1
            self._talking = True
        content = chunk.content
        if isinstance(content, TextContentBlock):
            yield TextDelta(f"m{self._item}", content.text)
        elif isinstance(content, ResourceContentBlock):
            yield TextDelta(f"m{self._item}", f"[{content.name}]({content.uri})")
        else:
            yield Progress()

    def _quiet(self) -> Iterator[Event]:
        """The agent turned to something else: text that follows is a new paragraph."""
        self._talking = False
        yield from self._flush()

    def _flush(self) -> Iterator[Event]:
        for call_id, call in self._calls.items():
            yield from self._announce(call_id, call)

    def _announce(self, call_id: str, call: _Call) -> Iterator[Event]:
        if not call.announced:
            call.announced = True
            yield ToolCall(call_id, call.kind, title=call.title, arguments=call.arguments)

    def _tool(self, update: ToolCallStart | ToolCallUpdate, *, waits: bool = False) -> Iterator[Event]:
        """Show a call once it is known what it does: agents begin them before their arguments have arrived."""
        self._talking = False
        call = self._calls.setdefault(update.tool_call_id, _Call())
        call.take(update)
        quiet = True
        if waits or call.arguments or update.status in ("in_progress", "completed", "failed"):
            for event in self._announce(update.tool_call_id, call):
                quiet = False
                yield event
        if update.status in ("completed", "failed") and not call.ended:
            call.ended = quiet = True
            yield ToolResult(
                update.tool_call_id, "completed" if update.status == "completed" else "failed", _short(call.text)
            )
        elif quiet:
            yield Progress()

    def _plan(self, plan: AgentPlanUpdate) -> Iterator[Event]:
        """A plan is shown as a tool of that name, each version a call of its own."""
        yield from self._quiet()
        self._plans += 1
        call_id = f"plan-{self._plans}"
        entries = [{"content": entry.content, "status": entry.status} for entry in plan.entries]
        done = sum(entry["status"] == "completed" for entry in entries)
        yield ToolCall(call_id, "plan", title=f"{done} of {len(entries)} done", arguments={"entries": entries})
        marks = {"completed": "[x]", "in_progress": "[>]"}
        lines = (f"{marks.get(entry['status'], '[ ]')} {entry['content']}" for entry in entries)
        yield ToolResult(call_id, "completed", _short("\n".join(lines)))


def permission_options(offered: list[PermissionOption]) -> tuple[tuple[Option, ...], dict[str, str]]:
    """Our options for an agent's, and which of the agent's each stands for.

    The first of each kind gets the contract's id; further ones are told apart by number. A plain no is always there:
    when the agent offers none, it stands for no option, and the request is answered as cancelled.
    """
    options: list[Option] = []
    answers: dict[str, str] = {}
    for offer in offered:
        identifier = _OPTION_IDS[offer.kind]
        number = 2
        while identifier in answers:
            identifier = f"{_OPTION_IDS[offer.kind]}_{number}"
            number += 1
        answers[identifier] = offer.option_id
        options.append(Option(identifier, offer.name))
    if DECLINED.id not in answers:
        options.append(DECLINED)
    return tuple(options), answers


def usage_of(response: PromptResponse) -> Usage | None:
    """The tokens of the turn, where the agent tells."""
    if response.usage is None:
        return None
    usage = response.usage
    return Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_read_tokens or 0,
        cache_write_tokens=usage.cached_write_tokens or 0,
        reasoning_tokens=usage.thought_tokens or 0,
    )


def _diff(part: FileEditToolCallContent) -> Mapping[str, Any]:
    return {
        "path": part.path,
        "old": None if part.old_text is None else part.old_text[:_LONGEST_DIFF_SIDE],
        "new": part.new_text[:_LONGEST_DIFF_SIDE],
        "cut": max(len(part.old_text or ""), len(part.new_text)) > _LONGEST_DIFF_SIDE,
    }


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SUMMARY else text[: _LONGEST_SUMMARY - 1] + "…"
