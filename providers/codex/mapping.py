"""Codex's notifications about one turn, as events. No I/O.

Text: Codex names a text item again each time it begins one. When it gives one up (its upstream was cut, or a
message steered the turn), it says nothing: the item just never completes, and is not part of the conversation.
So an item that is still open when the next one begins, when Codex tries again, or when the turn completes, is void.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

from providers.codex.errors import turn_error
from providers.errors import ProviderError
from providers.events import (
    Completed,
    Event,
    Progress,
    ReasoningDelta,
    TextDelta,
    TextReset,
    ToolCall,
    ToolResult,
    Usage,
)

__all__ = ["Mapping", "bounded", "diff_text", "inner_command"]

JSON: TypeAlias = dict[str, Any]

SUMMARY_CHARACTERS = 4_000
DIFF_CHARACTERS = 32_000
"""Of one tool call's changes; an approval request shows them whole."""
PROGRESS_SECONDS = 1.0


def bounded(text: str, limit: int) -> str:
    """`text`, its middle left out if it is too long; head and tail say most about a command's output."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters …]\n{text[-half:]}"


def inner_command(item: JSON) -> str:
    """What the shell is asked to run, without `bash -lc`; for titles only."""
    actions = item.get("commandActions") or []
    if len(actions) == 1 and actions[0].get("command"):
        return str(actions[0]["command"])
    return str(item.get("command") or "")


def _line(text: str, limit: int = 120) -> str:
    first, _, rest = text.strip().partition("\n")
    return first if not rest and len(first) <= limit else f"{first[:limit]}…"


def diff_text(changes: list[JSON]) -> str:
    """The changes as one unified diff. Codex gives the whole content for files that come or go, hunks otherwise."""
    parts = []
    for change in changes:
        path, diff = str(change.get("path")), str(change.get("diff") or "")
        kind = change.get("kind") or {}
        if kind.get("type") == "add":
            body = "".join(f"+{line}\n" for line in diff.splitlines())
            parts.append(f"--- /dev/null\n+++ {path}\n{body}")
        elif kind.get("type") == "delete":
            body = "".join(f"-{line}\n" for line in diff.splitlines())
            parts.append(f"--- {path}\n+++ /dev/null\n{body}")
        else:
            parts.append(f"--- {path}\n+++ {kind.get('move_path') or path}\n{diff.rstrip()}\n")
    return "".join(parts)


class Mapping:
    """Feed it every notification of the thread; it yields events, ending with `Completed` or raising."""

    def __init__(self) -> None:
        self._numbers = 0
        self._open: dict[str, tuple[str, list[str]]] = {}
        self._calls: dict[str, str] = {}
        self._call_ids: set[str] = set()
        self._plans = 0
        self._baselines: dict[str, JSON] = {}
        self._spent: dict[str, JSON] = {}
        self._retried: Any = None
        self._next_progress = 0.0
        self.changes: dict[str, list[JSON]] = {}
        """The changes of every file change, by item id, for its approval request."""
        self.waiting_for_tools = False
        """A tool runs, and Codex has not said since that it cannot reach its backend."""

    def call_id(self, item_id: str) -> str | None:
        """Our id of the running tool call of that item."""
        return self._calls.get(item_id)

    def feed(self, method: str, params: JSON) -> Iterator[Event]:
        """
        Raises:
            ProviderError: the turn failed.
        """
        match method:
            case "item/agentMessage/delta" | "item/plan/delta":
                yield from self._text(params["itemId"], params["delta"])
            case "item/reasoning/summaryTextDelta":
                yield ReasoningDelta(f"{params['itemId']}.{params['summaryIndex']}", params["delta"])
            case "item/reasoning/textDelta":
                yield ReasoningDelta(f"{params['itemId']}.c{params['contentIndex']}", params["delta"])
            case "item/started":
                yield from self._started(params["item"])
            case "item/completed":
                yield from self._completed(params["item"])
            case "item/fileChange/patchUpdated":
                self.changes[params["itemId"]] = params["changes"]
                yield from self._progress()
            case "turn/plan/updated":
                yield from self._plan(params)
            case "thread/tokenUsage/updated":
                yield self._usage(params["threadId"], params["tokenUsage"])
            case "error":
                if params.get("willRetry"):
                    self._retried = params["error"].get("codexErrorInfo")
                    self.waiting_for_tools = False
                    yield from self._void()
            case "turn/completed":
                yield from self._end(params["turn"])
            case _ if method.startswith("item/"):
                yield from self._progress()
            case _:
                pass

    def feed_child(self, method: str, params: JSON) -> Iterator[Event]:
        """What a sub-agent does: its tokens count, and what it wants to change may need approval."""
        if method == "thread/tokenUsage/updated":
            yield self._usage(params["threadId"], params["tokenUsage"])
            return
        if method == "item/started" and params["item"]["type"] == "fileChange":
            self.changes[params["item"]["id"]] = params["item"]["changes"]
        yield from self._progress()

    def _progress(self) -> Iterator[Event]:
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + PROGRESS_SECONDS
            yield Progress()

    def _void(self) -> Iterator[Event]:
        for ours, pieces in self._open.values():
            if pieces:
                yield TextReset(ours)
        self._open.clear()

    def _begin_text(self, item_id: str) -> Iterator[Event]:
        yield from self._void()
        self._numbers += 1
        self._open[item_id] = (f"m{self._numbers}", [])

    def _text(self, item_id: str, text: str) -> Iterator[Event]:
        if item_id not in self._open:
            yield from self._begin_text(item_id)
        ours, pieces = self._open[item_id]
        pieces.append(text)
        yield TextDelta(ours, text)

    def _started(self, item: JSON) -> Iterator[Event]:
        match item["type"]:
            case "agentMessage" | "plan":
                yield from self._begin_text(item["id"])
            case "fileChange":
                self.changes[item["id"]] = item["changes"]
                yield self._call(item)
            case "commandExecution" | "mcpToolCall" | "dynamicToolCall" | "webSearch" | "collabAgentToolCall":
                yield self._call(item)
            case "imageView" | "imageGeneration":
                yield self._call(item)
            case "userMessage" | "reasoning":
                pass
            case _:
                yield from self._progress()

    def _completed(self, item: JSON) -> Iterator[Event]:
        if item["type"] in ("agentMessage", "plan"):
            yield from self._end_text(item["id"], str(item.get("text") or ""))
            return
        call = self._calls.pop(item["id"], None)
        self.waiting_for_tools = bool(self._calls)
        if call is not None:
            yield _result(call, item)

    def _end_text(self, item_id: str, text: str) -> Iterator[Event]:
        """The whole text decides: a backend may have sent it without deltas."""
        if item_id not in self._open:
            yield from self._begin_text(item_id)
        ours, pieces = self._open.pop(item_id)
        sent = "".join(pieces)
        if text.startswith(sent):
            if len(text) > len(sent):
                yield TextDelta(ours, text[len(sent) :])
        else:
            yield TextReset(ours)
            self._numbers += 1
            yield TextDelta(f"m{self._numbers}", text)

    def _call(self, item: JSON) -> ToolCall:
        wanted, number = item["id"], 1
        while wanted in self._call_ids:  # some backends count their calls anew in each response
            number += 1
            wanted = f"{item['id']}.{number}"
        self._call_ids.add(wanted)
        self._calls[item["id"]] = wanted
        self.waiting_for_tools = True
        return _call(wanted, item)

    def _plan(self, params: JSON) -> Iterator[Event]:
        """Each state of the plan is a call that returns at once: a log of states, the last one counts."""
        self._plans += 1
        steps = [{"step": str(s["step"]), "status": str(s["status"])} for s in params["plan"]]
        now = next((s["step"] for s in steps if s["status"] == "inProgress"), "")
        call_id = f"plan.{self._plans}"
        arguments = {"explanation": params.get("explanation"), "plan": steps}
        marks = {"completed": "[x]", "inProgress": "[>]"}
        yield ToolCall(call_id, "plan", _line(now), arguments)
        yield ToolResult(call_id, summary="\n".join(f"{marks.get(s['status'], '[ ]')} {s['step']}" for s in steps))

    def _usage(self, thread_id: str, usage: JSON) -> Usage:
        """Codex counts over a whole thread; the turn's share is what came on top since it began."""
        total, last = usage["total"], usage["last"]
        baseline = self._baselines.setdefault(thread_id, {name: total[name] - last.get(name, 0) for name in total})
        self._spent[thread_id] = {name: max(0, total[name] - baseline.get(name, 0)) for name in total}
        spent: Counter[str] = Counter()
        for each in self._spent.values():
            spent.update(each)
        return Usage(
            input_tokens=spent["inputTokens"],
            output_tokens=spent["outputTokens"],
            cache_read_tokens=spent["cachedInputTokens"],
            cache_write_tokens=spent["cacheWriteInputTokens"],
            reasoning_tokens=spent["reasoningOutputTokens"],
        )

    def _end(self, turn: JSON) -> Iterator[Event]:
        error = turn.get("error") or {}
        if turn["status"] == "completed":
            yield from self._void()
            yield Completed()
        elif turn["status"] == "interrupted":
            raise ProviderError("upstream_error", "Codex gave up the turn.", retryable=True)
        elif str(error.get("message", "")).endswith("reason: max_output_tokens"):
            yield Completed("max_tokens")  # Codex knows no kind for it; the text so far stands
        else:
            raise turn_error(error.get("codexErrorInfo"), str(error.get("message", "")), self._retried)


def _call(call_id: str, item: JSON) -> ToolCall:
    match item["type"]:
        case "commandExecution":
            arguments: JSON = {"command": item["command"], "cwd": item["cwd"]}
            return ToolCall(call_id, "shell", _line(inner_command(item)), arguments)
        case "fileChange":
            paths = [str(change["path"]) for change in item["changes"]]
            arguments = {"paths": paths, "diff": bounded(diff_text(item["changes"]), DIFF_CHARACTERS)}
            return ToolCall(call_id, "apply_patch", _line(", ".join(p.rpartition("/")[2] for p in paths)), arguments)
        case "mcpToolCall":
            given = item.get("arguments")
            return ToolCall(
                call_id, f"{item['server']}.{item['tool']}", "", given if isinstance(given, dict) else {"input": given}
            )
        case "dynamicToolCall":
            given = item.get("arguments")
            return ToolCall(call_id, str(item["tool"]), "", given if isinstance(given, dict) else {"input": given})
        case "webSearch":
            return ToolCall(call_id, "web_search", _line(item.get("query") or ""), {"query": item.get("query") or ""})
        case "imageView":
            return ToolCall(call_id, "view_image", _line(str(item["path"])), {"path": item["path"]})
        case "imageGeneration":
            return ToolCall(call_id, "image_generation")
        case _:
            title = _line(str(item.get("prompt") or ""))
            return ToolCall(call_id, f"agent.{item['tool']}", title, {"prompt": item.get("prompt")})


def _result(call_id: str, item: JSON) -> ToolResult:
    status = item.get("status", "completed")
    failed = status in ("failed", "declined") or item.get("success") is False
    match item["type"]:
        case "commandExecution":
            summary = bounded(str(item.get("aggregatedOutput") or "").rstrip(), SUMMARY_CHARACTERS)
            if item.get("exitCode"):
                summary = f"{summary}\nexit code {item['exitCode']}".lstrip()
        case "fileChange":
            summary = "\n".join(f"{c['kind']['type']} {c['path']}" for c in item["changes"])
        case "mcpToolCall":
            content = (item.get("result") or {}).get("content") or []
            texts = [str(part["text"]) for part in content if isinstance(part, dict) and "text" in part]
            summary = "\n".join(texts) or str((item.get("error") or {}).get("message") or "")
            failed = failed or item.get("error") is not None
        case "webSearch":
            action = item.get("action") or {}
            queries = action.get("queries") or [action.get("query") or action.get("url") or item.get("query") or ""]
            summary = "\n".join(str(query) for query in queries)
        case _:
            summary = ""
    if status == "declined":
        summary = "Declined."
    return ToolResult(call_id, "failed" if failed else "completed", bounded(summary, SUMMARY_CHARACTERS))
