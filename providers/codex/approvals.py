"""What Codex asks, as approval requests for a person, and their decisions as Codex's answers. No I/O.

Each question knows its own "no". Nothing here turns anything but an explicit choice of a person into a "yes":
an unknown kind of request, an unknown option and an expired request all decline.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from providers.base import APPROVED, DECLINED, ApprovalRequest, Decision, Option
from providers.codex.client import Incoming
from providers.codex.mapping import Mapping, diff_text, inner_command

__all__ = ["ANSWERED", "APPROVED_ALWAYS", "APPROVED_FOR_SESSION", "QUESTIONS", "answer", "no"]

JSON: TypeAlias = dict[str, Any]
Approve: TypeAlias = Callable[[ApprovalRequest], Awaitable[Decision]]

APPROVED_FOR_SESSION = Option("approved_for_session", "Allow and do not ask again for now")
APPROVED_ALWAYS = "approved_always"
ANSWERED = Option("approved", "Answer")
"""The option that goes with an answer in a person's own words."""
SKIPPED = Option("declined", "Skip")

COMMAND = "item/commandExecution/requestApproval"
FILE_CHANGE = "item/fileChange/requestApproval"
PERMISSIONS = "item/permissions/requestApproval"
INPUT = "item/tool/requestUserInput"
ELICITATION = "mcpServer/elicitation/request"
QUESTIONS = frozenset((COMMAND, FILE_CHANGE, PERMISSIONS, INPUT, ELICITATION))


def no(method: str) -> JSON:
    """The answer that grants nothing and lets the agent go on."""
    match method:
        case "item/permissions/requestApproval":
            return {"permissions": {}, "scope": "turn"}
        case "item/tool/requestUserInput":
            return {"answers": {}}
        case "mcpServer/elicitation/request":
            return {"action": "decline", "content": None, "_meta": None}
        case _:
            return {"decision": "decline"}


async def answer(request: Incoming, mapping: Mapping, approve: Approve) -> JSON:
    """Ask a person, and say it in Codex's words."""
    match request.method:
        case "item/commandExecution/requestApproval":
            return await _command(request.params, mapping, approve)
        case "item/fileChange/requestApproval":
            return await _file_change(request.params, mapping, approve)
        case "item/permissions/requestApproval":
            return await _permissions(request.params, mapping, approve)
        case "item/tool/requestUserInput":
            return await _input(request.params, mapping, approve)
        case "mcpServer/elicitation/request":
            return await _elicitation(request.params, approve)
        case _:
            return no(request.method)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else f"{line[:99]}…"


def _present(**fields: Any) -> JSON:
    return {name: value for name, value in fields.items() if value not in (None, [], {}, "")}


async def _command(params: JSON, mapping: Mapping, approve: Approve) -> JSON:
    offered = params.get("availableDecisions")
    plain = ["accept", "acceptForSession"] if offered is None else [d for d in offered if isinstance(d, str)]
    always = next((d for d in offered or [] if isinstance(d, dict) and "acceptWithExecpolicyAmendment" in d), None)
    prefix = always["acceptWithExecpolicyAmendment"]["execpolicy_amendment"] if always else None
    options = [APPROVED] if "accept" in plain else []
    if "acceptForSession" in plain:
        options.append(APPROVED_FOR_SESSION)
    if prefix:
        options.append(Option(APPROVED_ALWAYS, f"Always allow: {_short(' '.join(prefix))}"))
    network = params.get("networkApprovalContext")
    if network:
        title = f"Allow network access to {network['host']}?"
    elif params.get("kind") == "writeStdin":
        title = "Send input to the running command?"
    else:
        title = f"Run {_short(inner_command(params))}?"
    decision = await approve(
        ApprovalRequest(
            "command",
            title,
            _present(
                command=params.get("command"),
                cwd=params.get("cwd"),
                reason=params.get("reason"),
                network=network,
                permissions=params.get("additionalPermissions"),
                always_allow=prefix,
            ),
            mapping.call_id(params["itemId"]),
            (*options, DECLINED),
        )
    )
    chosen: Any = {
        APPROVED.id: "accept" if APPROVED in options else None,
        APPROVED_FOR_SESSION.id: "acceptForSession" if APPROVED_FOR_SESSION in options else None,
        APPROVED_ALWAYS: always,
    }.get(decision.option)
    return {"decision": chosen or "decline"}


async def _file_change(params: JSON, mapping: Mapping, approve: Approve) -> JSON:
    changes = mapping.changes.get(params["itemId"], [])
    paths = [str(change["path"]) for change in changes]
    if not changes and not params.get("grantRoot"):
        return no(FILE_CHANGE)  # nobody can decide about what cannot be shown
    decision = await approve(
        ApprovalRequest(
            "file_change",
            f"Change {_short(', '.join(path.rpartition('/')[2] for path in paths)) or 'files'}?",
            _present(
                paths=paths, diff=diff_text(changes), reason=params.get("reason"), grant_root=params.get("grantRoot")
            ),
            mapping.call_id(params["itemId"]),
            (APPROVED, APPROVED_FOR_SESSION, DECLINED),
        )
    )
    return {
        "decision": {APPROVED.id: "accept", APPROVED_FOR_SESSION.id: "acceptForSession"}.get(decision.option, "decline")
    }


async def _permissions(params: JSON, mapping: Mapping, approve: Approve) -> JSON:
    asked = {name: value for name, value in params["permissions"].items() if value is not None}
    decision = await approve(
        ApprovalRequest(
            "tool",
            "Give Codex more permissions?",
            _present(permissions=asked, cwd=params.get("cwd"), reason=params.get("reason")),
            mapping.call_id(params["itemId"]),
            (APPROVED, APPROVED_FOR_SESSION, DECLINED),
        )
    )
    scope = {APPROVED.id: "turn", APPROVED_FOR_SESSION.id: "session"}.get(decision.option)
    return no(PERMISSIONS) if scope is None else {"permissions": asked, "scope": scope}


async def _input(params: JSON, mapping: Mapping, approve: Approve) -> JSON:
    """One approval request per question, in order. A secret is never asked for: answers are kept in the thread."""
    answers: JSON = {}
    for question in params["questions"]:
        given: list[str] = []
        if not question.get("isSecret"):
            choices = question.get("options") or []
            free = bool(question.get("isOther")) or not choices
            options = [Option(f"choice_{n}", choice["label"]) for n, choice in enumerate(choices, 1)]
            if free:
                options.append(ANSWERED)
            descriptions = {choice["label"]: choice["description"] for choice in choices if choice.get("description")}
            decision = await approve(
                ApprovalRequest(
                    "question",
                    question["question"],
                    _present(header=question.get("header"), choices=descriptions),
                    mapping.call_id(params["itemId"]),
                    (*options, SKIPPED),
                    free,
                )
            )
            if decision.option != DECLINED.id:
                given = [o.label for o in options if o.id == decision.option and o != ANSWERED]
                if free and decision.text:
                    given.append(decision.text)
        answers[question["id"]] = {"answers": given}
    return {"answers": answers}


async def _elicitation(params: JSON, approve: Approve) -> JSON:
    """A question of an MCP server, or Codex's own whether a tool of it may be called."""
    if params.get("mode") == "url":
        detail = _present(server=params["serverName"], url=params.get("url"))
        decision = await approve(ApprovalRequest("question", params["message"], detail))
        return {"action": "accept", "content": None, "_meta": None} if decision.approved else no(ELICITATION)
    schema = params.get("requestedSchema")
    schema = schema if isinstance(schema, dict) else {}
    meta = params.get("_meta") or {}
    properties = schema.get("properties") or {}
    if not properties:
        persist = meta.get("persist")
        for_session = "session" in (persist if isinstance(persist, list) else [persist])
        decision = await approve(
            ApprovalRequest(
                "tool",
                params["message"],
                _present(
                    server=params["serverName"],
                    tool=meta.get("tool_title") or meta.get("tool_name"),
                    arguments=meta.get("tool_params"),
                ),
                options=(APPROVED, *([APPROVED_FOR_SESSION] if for_session else []), DECLINED),
            )
        )
        if decision.option == APPROVED_FOR_SESSION.id and for_session:
            return {"action": "accept", "content": {}, "_meta": {"persist": "session"}}
        return {"action": "accept", "content": {}, "_meta": None} if decision.approved else no(ELICITATION)
    content: JSON = {}
    for name, field in properties.items():
        value = await _field(params, name, field, approve)
        if value is None:
            if name in schema.get("required", []):
                return no(ELICITATION)
        else:
            content[name] = value
    return {"action": "accept", "content": content, "_meta": None}


async def _field(params: JSON, name: str, field: JSON, approve: Approve) -> Any:
    """One field of an MCP server's form; None if it was left out, or the answer does not fit its type."""
    kind = field.get("type")
    titled = field.get("oneOf") or []
    values: list[Any] = field.get("enum") or [choice["const"] for choice in titled]
    labels = field.get("enumNames") or [choice.get("title", choice["const"]) for choice in titled] or values
    if kind == "boolean":
        values, labels = [True, False], ["Yes", "No"]
    free = not values
    options = [Option(f"choice_{n}", str(label)) for n, label in enumerate(labels, 1)]
    decision = await approve(
        ApprovalRequest(
            "question",
            params["message"],
            _present(server=params["serverName"], field=field.get("title") or name, hint=field.get("description")),
            options=(*options, *([ANSWERED] if free else []), SKIPPED),
            free_text=free,
        )
    )
    if decision.option == DECLINED.id:
        return None
    if not free:
        return next((v for v, o in zip(values, options, strict=True) if o.id == decision.option), None)
    if kind in ("number", "integer"):
        try:
            number = json.loads(decision.text or "")
        except ValueError:
            return None
        fits = isinstance(number, int if kind == "integer" else (int, float)) and not isinstance(number, bool)
        return number if fits else None
    return decision.text if kind == "string" else None
