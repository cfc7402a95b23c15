"""`agentline check`: one agent, made as the gateway makes it, under the conformance kit and in one live turn.

The live turn is the one that the kit records for its rules, so that it is paid for once.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from gateway.agents import Agent, Agents
from gateway.deadlines import CLOSING_SECONDS
from gateway.ids import new_id
from gateway.settings import OWNER, Settings
from providers import Completed, Event, TextDelta, TextReset, ToolCall, Usage
from providers.testing import Limits, Report, examine, message, turns_at_most

__all__ = ["PROMPT", "check_agent", "run_bounded"]

PROMPT = "Reply with the single word: ready"
_UNASKED = 1
"""Turns that only an agent that asks for approval takes."""


async def check_agent(
    settings: Settings, name: str, write: Callable[[str], None], *, prompt: str = PROMPT, live: bool = True
) -> bool:
    """Check the agent `name`, which must be in the settings, and tell about it by `write`. Returns whether all is well.

    `live=False` plays no turn, so that nothing is paid for.
    """
    alone = settings.model_copy(update={"agents": {name: settings.agents[name]}})
    async with Agents.open(alone) as agents:
        agent = agents.get(name)
        write(f"agent      {name}, of the provider {agent.provider_name}\n")
        if agent.provider is None:
            write(f"state      NOT CONFIGURED: {_printable(agent.reason or '')}\n")
            return False
        write(f"state      configured\ncan        {_capabilities(agent)}\n")
        return await _examined(agent, write, prompt, live)


async def _examined(agent: Agent, write: Callable[[str], None], prompt: str, live: bool) -> bool:
    turn = message(
        prompt,
        thread_id=new_id("check"),
        turn_id=new_id("check"),
        user_id=OWNER,
        options=agent.options,
        connect_seconds=agent.limits.connect_seconds,
    )
    shown = _Shown(write)
    if live:
        asks = "approvals" in _capabilities(agent)
        most = turns_at_most() - (0 if asks else _UNASKED)
        write(
            f"calls      up to {most} turns, each at least one call of the backend: the one shown here, and the kit's\n"
            f"           further {most - 1}, of which two are broken off at their first event; approvals are declined\n"
            f"prompt     {_printable(prompt)}\n\n"
        )
    else:
        write("calls      none: no turn is played\n")
    limits = Limits(answer=agent.limits.first_event_seconds, stop=CLOSING_SECONDS)
    report = await examine(agent.ready(), turn, repeatable=False, limits=limits, play=live, watch=shown.event)
    if live:
        shown.summary(report)
    write(f"\n{report}\n\n{_counts(report)}\n")
    return report.ok


class _Shown:
    """The live turn, as it comes."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._usage: Usage | None = None
        self._completed: Completed | None = None
        self._line_open = False

    def event(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            if text := _printable(str(event.text), lines=True):
                self._write(text)
                self._line_open = not text.endswith("\n")
        elif isinstance(event, ToolCall):
            self._note(f"[uses {_printable(str(event.title or event.name))}]")
        elif isinstance(event, TextReset):
            self._note("[takes text back and begins it anew]")
        elif isinstance(event, Usage):
            self._usage = event
        elif isinstance(event, Completed):
            self._completed = event

    def _note(self, note: str) -> None:
        self.end_line()
        self._write(f"{note}\n")

    def end_line(self) -> None:
        if self._line_open:
            self._write("\n")
            self._line_open = False

    def summary(self, report: Report) -> None:
        self.end_line()
        self._write("\n")
        if report.failure is not None:
            self._write(f"end        FAILED: {_printable(report.failure)}\n")
        elif self._completed is not None:
            self._write(f"end        completed, {_printable(str(self._completed.stop_reason))}\n")
        else:
            self._write("end        without Completed\n")
        first = "none" if report.first_text is None else f"after {report.first_text * 1000:.0f} ms"
        self._write(f"first text {first}; the whole answer took {report.seconds * 1000:.0f} ms\n")
        self._write(f"usage      {_usage(self._usage)}\n")


def _usage(usage: Usage | None) -> str:
    if usage is None:
        return "not told"
    counts: dict[str, Any] = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
    return ", ".join(f"{name} {count}" for name, count in (counts | msgspec.structs.asdict(usage)).items() if count)


def _capabilities(agent: Agent) -> str:
    given = getattr(agent.provider, "capabilities", None)
    return ", ".join(sorted(map(str, given))) or "text only" if isinstance(given, frozenset) else "unknown"


def _counts(report: Report) -> str:
    kept = len(report.findings) - len(report.broken) - len(report.skipped)
    parts = [f"{kept} rules kept", f"{len(report.broken)} broken"]
    if report.skipped:
        parts.append(f"{len(report.skipped)} not looked at")
    return f"{', '.join(parts)}; {report.turns} turn{'' if report.turns == 1 else 's'} played"


def _printable(text: str, *, lines: bool = False) -> str:
    """The text without what could steer a terminal; on one line unless `lines`."""
    allowed = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in allowed else " " for c in text)


def run_bounded(checking: Coroutine[Any, Any, bool]) -> bool:
    """Run it in a loop of its own. A provider's task that does not end when it is cancelled ends with the process."""

    async def run() -> bool:
        try:
            return await checking
        finally:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            if left and (await asyncio.wait(left, timeout=CLOSING_SECONDS))[1]:
                sys.stdout.flush()
                os._exit(1)  # nothing else ends it: closing the loop would wait for it for ever

    return asyncio.run(run())
