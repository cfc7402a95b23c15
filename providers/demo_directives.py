"""What the demo agent can be told to do. `docs/demo.md` has the table for people; a test holds the two together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import cast

from providers.base import APPROVED, DECLINED, ApprovalRequest, Option
from providers.demo_stage import Part, Play, Say, Stage, WrongArguments
from providers.errors import ERROR_CODES, ErrorCode, ProviderError
from providers.events import Progress, SessionUpdated, TextDelta, TextReset, ToolCall, ToolResult, Usage

__all__ = ["DIRECTIVES", "Directive"]

LIMIT = 200_000
"""The most words or pieces that one directive makes."""
RETRYABLE: frozenset[str] = frozenset(
    ("rate_limited", "overloaded", "connection_failed", "disconnected", "incomplete", "timeout", "upstream_error")
)
_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog")
_UNICODE = (
    "Grüße, Ελλάδα, Привет, こんにちは, 你好, 안녕하세요. "
    "Right to left: שלום, مرحبا. Composed and decomposed: \u00e9 e\u0301. "
    "Joined: \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f44d\U0001f3fd \U0001f3f3\ufe0f\u200d\U0001f308 "
    "\U0001f1e9\U0001f1ea. Beyond the BMP: \U0001d49c \U0002070e. Invisible: a\u200bb. Marks: Z\u0351\u036b\u0343. "
    "Quotes: \" \\ ' < > &."
)
_MARKDOWN = (
    "# A heading\n\nSome **bold**, *italic* and `code`, and a [link](https://example.org).\n\n"
    "1. one\n2. two\n   - nested\n\n> A quotation.\n\n| name | value |\n|---|---|\n| pi | 3.14 |\n\n"
    '```python\nprint("Hello")\n```\n'
)
_DIFF = "--- a/notes.txt\n+++ b/notes.txt\n@@ -1 +1 @@\n-old\n+new\n"


@dataclass(frozen=True, slots=True)
class Directive:
    name: str
    usage: str
    """With its arguments, as a person types it."""
    play: Play


DIRECTIVES: dict[str, Directive] = {}


def directive(usage: str) -> Callable[[Play], Play]:
    def register(play: Play) -> Play:
        name = usage.split()[0].removeprefix("/")
        DIRECTIVES[name] = Directive(name, usage, play)
        return play

    return register


def _number(text: str, *, low: float = 0.0, high: float = 86_400.0) -> float:
    try:
        value = float(text)
    except ValueError:
        raise WrongArguments from None
    if not low <= value <= high:
        raise WrongArguments
    return value


def _count(text: str) -> int:
    return int(_number(text, low=1, high=LIMIT))


@directive("/echo TEXT")
async def _echo(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    yield Say(rest)


@directive("/slow SECONDS")
async def _slow(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    seconds = _number(rest)
    item = stage.name("t")
    words = f"This sentence takes {rest} seconds from its first word to its last.".split(" ")
    for number, word in enumerate(words):
        if number:
            await asyncio.sleep(seconds / (len(words) - 1))
        yield TextDelta(item, word if number == 0 else f" {word}")


@directive("/long WORDS")
async def _long(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    item = stage.name("t")
    count = _count(rest)
    for number in range(0, count, 20):
        await stage.wait(0.0)
        words = (_WORDS[index % len(_WORDS)] for index in range(number, min(number + 20, count)))
        yield TextDelta(item, " ".join(words) + (" " if number + 20 < count else "."))


@directive("/pieces COUNT [SECONDS]")
async def _pieces(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    arguments = [word for word in rest.split() if word != "interval"]
    if not 1 <= len(arguments) <= 2:
        raise WrongArguments
    count = _count(arguments[0])
    interval = _number(arguments[1]) if len(arguments) == 2 else stage.interval
    item = stage.name("t")
    for number in range(1, count + 1):
        if number > 1:
            await stage.wait(interval)
        yield TextDelta(item, f"{number} ")


@directive("/items COUNT")
async def _items(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    for number in range(1, _count(rest) + 1):
        yield Say(f"Paragraph {number}.")


@directive("/unicode")
async def _unicode(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    item = stage.name("t")
    for character in _UNICODE:  # cut within graphemes on purpose
        await stage.wait()
        yield TextDelta(item, character)


@directive("/markdown")
async def _markdown(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    yield Say(_MARKDOWN)


@directive("/reasoning [TEXT]")
async def _reasoning(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    item = stage.name("r")
    yield Say(rest or "First I look at the question, then I think about an answer.", item, reasoning=True)


@directive("/tool [failed|open]")
async def _tool(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    if rest not in ("", "failed", "open"):
        raise WrongArguments
    call_id = stage.name("call")
    yield ToolCall(call_id, "shell", "ls /srv", {"command": "ls /srv"})
    await stage.wait()
    if rest == "failed":
        yield ToolResult(call_id, "failed", "ls: cannot access '/srv'")
    elif rest == "":
        yield ToolResult(call_id, "completed", "www")


@directive("/approval command|file_change|tool|question")
async def _approval(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    call_id = stage.name("call")
    session = Option("approved_for_session", "Allow for this thread")
    if rest == "command":
        call = ToolCall(call_id, "shell", "rm notes.txt", {"command": "rm notes.txt"})
        detail = {"command": "rm notes.txt", "cwd": "/srv"}
        request = ApprovalRequest("command", "Run rm notes.txt?", detail, call_id, (APPROVED, session, DECLINED))
    elif rest == "file_change":
        call = ToolCall(call_id, "edit", "notes.txt", {"path": "notes.txt"})
        request = ApprovalRequest("file_change", "Change notes.txt?", {"diff": _DIFF}, call_id)
    elif rest == "tool":
        call = ToolCall(call_id, "send_mail", "to alice@example.org", {"to": "alice@example.org"})
        request = ApprovalRequest("tool", "Send the mail?", {"to": "alice@example.org"}, call_id)
    elif rest == "question":
        options = (Option("red", "Red"), Option("blue", "Blue"), DECLINED)
        request = ApprovalRequest("question", "Which colour?", {}, None, options, free_text=True)
        decision = await stage.turn.approve(request)
        said = f" and said: {decision.text}" if decision.text else ""
        yield Say(f"You chose {'nothing' if decision.expired else decision.option}{said}.")
        return
    else:
        raise WrongArguments
    yield call
    decision = await stage.turn.approve(request)
    allowed = decision.option in (APPROVED.id, session.id)
    yield ToolResult(call_id, "completed" if allowed else "failed", "" if allowed else "Declined.")
    word = "expired" if decision.expired else decision.option
    yield Say(f"The answer was {word}, so I {'did it' if allowed else 'left it alone'}.")


@directive("/reset [item]")
async def _reset(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    if rest not in ("", "item"):
        raise WrongArguments
    item = stage.name("t")
    yield Say("This text is taken back.", item)
    yield TextReset(item if rest else None)
    yield Say("This text stands instead.")


@directive("/usage [INPUT OUTPUT]")
async def _usage(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    numbers = rest.split()
    if len(numbers) not in (0, 2) or not all(number.isascii() and number.isdigit() for number in numbers):
        raise WrongArguments
    counts = [int(number) for number in numbers] or [1200, 34]
    yield Usage(input_tokens=counts[0], output_tokens=counts[1])


@directive("/session")
async def _session(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    before = (stage.turn.session or {}).get("turns", 0)
    turns = before + 1 if isinstance(before, int) else 1
    yield SessionUpdated({"turns": turns})
    yield Say(f"I have counted {turns} in this thread.")


@directive("/history")
async def _history(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    roles = " ".join(message.role for message in stage.turn.messages)
    yield Say(f"I see {len(stage.turn.messages)} messages: {roles}.")


@directive("/pause SECONDS")
async def _pause(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    await asyncio.sleep(_number(rest))
    yield Progress()


@directive("/progress SECONDS")
async def _progress(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    remaining = _number(rest)
    while remaining > 0:
        await asyncio.sleep(min(0.1, remaining))
        remaining -= 0.1
        yield Progress()


@directive("/hang")
async def _hang(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    await asyncio.Event().wait()
    yield Progress()


@directive("/error CODE [after] [refused] [RETRY_AFTER]")
async def _error(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    code, *words = rest.split() or [""]
    if code not in ERROR_CODES:
        raise WrongArguments
    waits = [_number(word) for word in words if word not in ("after", "refused")]
    if "after" in words:
        yield Say("This much came before the error.")
    raise ProviderError(
        cast(ErrorCode, code),
        f"The demo agent was asked to fail with {code}.",
        retryable=code in RETRYABLE,
        retry_after=waits[0] if waits else None,
        refused="refused" in words,
    )


@directive("/flaky COUNT [RETRY_AFTER]")
async def _flaky(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    arguments = rest.split()
    if not 1 <= len(arguments) <= 2:
        raise WrongArguments
    wait = _number(arguments[1]) if len(arguments) == 2 else None
    attempt = stage.attempts(stage.turn.turn_id)
    if attempt <= _count(arguments[0]):
        raise ProviderError(
            "overloaded", "The demo agent was asked to be flaky.", retryable=True, retry_after=wait, refused=True
        )
    yield Say(f"Attempt {attempt} succeeded.")


@directive("/cut")
async def _cut(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    yield Say("The connection breaks in the mid")
    raise ProviderError("disconnected", "The demo agent was asked to break off.", retryable=True)


@directive("/crash")
async def _crash(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    yield Progress()
    raise RuntimeError("the demo agent was asked to crash")


@directive("/vanish")
async def _vanish(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    yield Say("I end without saying so")
    stage.over, stage.stop_reason = True, None


@directive("/refusal")
async def _refusal(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    yield Say("I can't help with that.")
    stage.over, stage.stop_reason = True, "refusal"


@directive("/max_tokens")
async def _max_tokens(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    yield Say("This answer is cut off by its token li")
    stage.over, stage.stop_reason = True, "max_tokens"


@directive("/help")
async def _help(stage: Stage, rest: str) -> AsyncGenerator[Part]:
    lines = "\n".join(f"- `{known.usage}`" for known in DIRECTIVES.values())
    yield Say(f"I understand these, one per line, in any number:\n\n{lines}\n")
