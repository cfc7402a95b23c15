"""What Claude Code asks before it uses a tool, as questions to a person, and the answers as Claude Code wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from claude_agent_sdk import PermissionResultAllow, PermissionResultDeny, PermissionUpdate, ToolPermissionContext

from providers.base import APPROVED, DECLINED, ApprovalRequest, Decision, Option, Turn
from providers.claude_code_messages import title_of
from providers.claude_code_process import Ask, deny

__all__ = ["decide"]

_QUESTION_TOOL = "AskUserQuestion"
_EDITS = frozenset(("Edit", "MultiEdit", "NotebookEdit", "Write"))
_SESSION = Option("approved_for_session", "Allow for this session")
_LONGEST_VALUE = 20_000

Answer: TypeAlias = PermissionResultAllow | PermissionResultDeny


async def decide(turn: Turn, ask: Ask, cwd: str) -> Answer:
    """Ask a person. Whatever is not a clear yes of theirs is a no."""
    if ask.name == _QUESTION_TOOL:
        return await _questions(turn, ask)
    lasting = _for_session(ask.context)
    kind: Literal["command", "file_change", "tool"] = "tool"
    if ask.name == "Bash":
        kind = "command"
    elif ask.name in _EDITS:
        kind = "file_change"
    decision = await turn.approve(
        ApprovalRequest(
            kind=kind,
            title=ask.context.title or f"{ask.context.display_name or ask.name}: {title_of(ask.name, ask.arguments)}",
            detail=_detail(ask, cwd, kind),
            call_id=ask.context.tool_use_id,
            options=(APPROVED, _SESSION, DECLINED) if lasting else (APPROVED, DECLINED),
        )
    )
    if decision.approved:
        return PermissionResultAllow()
    if lasting and decision.option == _SESSION.id:
        return PermissionResultAllow(updated_permissions=lasting)
    return PermissionResultDeny(message=decision.text) if decision.text else deny()


def _detail(ask: Ask, cwd: str, kind: str) -> dict[str, Any]:
    arguments = {name: _cut(value) for name, value in ask.arguments.items()}
    detail: dict[str, Any] = {"tool": ask.name, "cwd": cwd, "arguments": arguments}
    if kind == "command":
        detail["command"] = ask.arguments.get("command")
    if kind == "file_change":
        detail["paths"] = [ask.arguments.get("file_path") or ask.arguments.get("notebook_path")]
        edits = ask.arguments.get("edits")
        changes: Sequence[Mapping[str, Any]] = edits if isinstance(edits, list) else [ask.arguments]
        detail["diffs"] = [
            {
                "path": detail["paths"][0],
                "old": _cut(change.get("old_string")),
                "new": _cut(change.get("new_string") or change.get("content") or change.get("new_source")),
            }
            for change in changes
            if isinstance(change, Mapping)
        ]
    if ask.context.blocked_path:
        detail["blocked_path"] = ask.context.blocked_path
    return detail


def _for_session(context: ToolPermissionContext) -> list[PermissionUpdate]:
    """What "for this session" grants: the rules that Claude Code itself proposes, kept in no file.

    Where it proposes rules, those alone; else its mode in which edits are accepted. Never a mode that asks nothing.
    """
    rules = [item for item in context.suggestions if item.type == "addRules" and item.behavior == "allow"]
    modes = [item for item in context.suggestions if item.type == "setMode" and item.mode == "acceptEdits"]
    return [replace(item, destination="session") for item in rules or modes]


async def _questions(turn: Turn, ask: Ask) -> Answer:
    """Claude Code's questions, one after the other; unanswered, the tool is denied."""
    questions = ask.arguments.get("questions")
    answers: dict[str, str] = {}
    for question in questions if isinstance(questions, list) else ():
        if not isinstance(question, Mapping) or not isinstance(question.get("question"), str):
            return deny()
        offered = question.get("options")
        labels = [
            str(option.get("label"))
            for option in (offered if isinstance(offered, list) else ())
            if isinstance(option, Mapping)
        ]
        options = [Option(f"answer_{number}", label) for number, label in enumerate(labels, 1)]
        decision = await turn.approve(
            ApprovalRequest(
                kind="question",
                title=question["question"],
                detail={"options": offered, "many": bool(question.get("multiSelect"))},
                call_id=ask.context.tool_use_id,
                options=(*options, Option(DECLINED.id, "Do not answer")),
                free_text=True,
            )
        )
        answer = _answer(decision, {option.id: option.label for option in options})
        if answer is None:
            return PermissionResultDeny(message="The person did not answer.")
        answers[question["question"]] = answer
    return PermissionResultAllow(updated_input={**ask.arguments, "answers": answers}) if answers else deny()


def _answer(decision: Decision, labels: Mapping[str, str]) -> str | None:
    if decision.expired:
        return None
    return decision.text or labels.get(decision.option)


def _cut(value: object) -> object:
    return value[:_LONGEST_VALUE] if isinstance(value, str) else value
