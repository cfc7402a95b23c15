from __future__ import annotations

import asyncio
import re
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from providers import (
    ERROR_CODES,
    ApprovalRequest,
    Completed,
    Decision,
    Event,
    Message,
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
from providers.demo import DemoProvider
from providers.demo_directives import DIRECTIVES
from tests.providers.turns import collected, failed, text_of, turn

PAGE = Path(__file__).parents[2] / "docs" / "demo.md"


@pytest.fixture
def demo() -> DemoProvider:
    return DemoProvider(pace=0)


async def test_an_ordinary_message_gets_the_same_answer_every_time(demo: DemoProvider) -> None:
    first, second = await collected(demo, turn("Hello there")), await collected(demo, turn("Hello there"))
    assert first == second
    assert "You wrote: *Hello there*" in text_of(first)
    assert len([e for e in first if isinstance(e, TextDelta)]) > 20
    assert isinstance(first[-2], Usage)
    assert first[-1] == Completed("end_turn")


async def test_pieces_come_one_by_one_at_the_pace() -> None:
    started = time.monotonic()
    assert text_of(await collected(DemoProvider(pace=100), turn("/pieces 11"))) == "1 2 3 4 5 6 7 8 9 10 11 "
    assert time.monotonic() - started >= 0.09


async def test_a_script_plays_its_lines_in_order(demo: DemoProvider) -> None:
    events = await collected(demo, turn("/echo a  b\n/reasoning why\n  said as it stands\n/tool; /echo end"))
    assert events == [
        TextDelta("t1", "a  "),
        TextDelta("t1", "b"),
        ReasoningDelta("r1", "why"),
        TextDelta("t2", "said "),
        TextDelta("t2", "as "),
        TextDelta("t2", "it "),
        TextDelta("t2", "stands"),
        ToolCall("call1", "shell", "ls /srv", {"command": "ls /srv"}),
        ToolResult("call1", "completed", "www"),
        TextDelta("t3", "end"),
        Completed("end_turn"),
    ]


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("/echo Grüße 👩\u200d👧 \\n", "Grüße 👩\u200d👧 \\n"),
        ("/pieces 3", "1 2 3 "),
        ("/pieces 3 interval 0.001", "1 2 3 "),
        ("/long 3", "the quick brown."),
        ("/items 2", "Paragraph 1.Paragraph 2."),
        ("/slow 0.01", "This sentence takes 0.01 seconds from its first word to its last."),
        ("/history", "I see 1 messages: user."),
        ("/pause 0.001\n/echo a", "a"),
        ("/progress 0.001\n/echo a", "a"),
        ("/refusal\n/echo never", "I can't help with that."),
    ],
)
async def test_a_directive_says_its_text(demo: DemoProvider, script: str, text: str) -> None:
    events = await collected(demo, turn(script))
    assert text_of(events) == text
    assert isinstance(events[-1], Completed)


async def test_a_long_text_has_the_words_asked_for(demo: DemoProvider) -> None:
    assert len(text_of(await collected(demo, turn("/long 2000"))).split()) == 2000


async def test_unicode_is_cut_within_graphemes(demo: DemoProvider) -> None:
    events = await collected(demo, turn("/unicode"))
    assert all(len(e.text) == 1 for e in events if isinstance(e, TextDelta))
    assert all(part in text_of(events) for part in ("\u200d", "e\u0301", "\U0001d49c"))


@pytest.mark.parametrize("name", ["refusal", "max_tokens"])
async def test_a_stop_reason_can_be_asked_for(demo: DemoProvider, name: str) -> None:
    assert (await collected(demo, turn(f"/{name}")))[-1] == Completed(name)


@pytest.mark.parametrize(("how", "results"), [("", ["completed"]), ("failed", ["failed"]), ("open", [])])
async def test_a_tool_may_work_fail_or_never_come_back(demo: DemoProvider, how: str, results: list[str]) -> None:
    events = await collected(demo, turn(f"/tool {how}"))
    assert [e.status for e in events if isinstance(e, ToolResult)] == results


@pytest.mark.parametrize("kind", ["command", "file_change", "tool"])
@pytest.mark.parametrize(
    ("decision", "status"),
    [
        (Decision("approved"), "completed"),
        (Decision("declined"), "failed"),
        (Decision("declined", expired=True), "failed"),
    ],
)
async def test_an_approval_is_asked_and_its_decision_told(
    demo: DemoProvider, kind: str, decision: Decision, status: str
) -> None:
    asked: list[ApprovalRequest] = []

    async def approve(request: ApprovalRequest) -> Decision:
        asked.append(request)
        return decision

    events = await collected(demo, turn(f"/approval {kind}", approve=approve))
    assert [(request.kind, request.call_id) for request in asked] == [(kind, "call1")]
    assert [e.status for e in events if isinstance(e, ToolResult)] == [status]
    assert ("expired" if decision.expired else decision.option) in text_of(events)


async def test_a_question_takes_free_text(demo: DemoProvider) -> None:
    async def approve(request: ApprovalRequest) -> Decision:
        assert request.free_text
        return Decision("blue", "like the sea")

    events = await collected(demo, turn("/approval question", approve=approve))
    assert text_of(events) == "You chose blue and said: like the sea."


@pytest.mark.parametrize(("script", "forgets"), [("/reset", None), ("/reset item", "t1")])
async def test_text_can_be_taken_back(demo: DemoProvider, script: str, forgets: str | None) -> None:
    assert TextReset(forgets) in await collected(demo, turn(script))


async def test_the_session_is_handed_on(demo: DemoProvider) -> None:
    session: Any = None
    for expected in (1, 2, 3):
        events = await collected(demo, turn("/session", session=session))
        (session,) = [e.session for e in events if isinstance(e, SessionUpdated)]
        assert session == {"turns": expected}


async def test_usage_can_be_asked_for(demo: DemoProvider) -> None:
    assert Usage(input_tokens=5, output_tokens=6) in await collected(demo, turn("/usage 5 6"))


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
async def test_every_error_can_be_asked_for_before_and_after_text(demo: DemoProvider, code: str) -> None:
    events, error = await failed(demo, turn(f"/error {code}"))
    assert (events, error.code, error.refused, error.retry_after) == ([], code, False, None)
    events, error = await failed(demo, turn(f"/error {code} after refused 2.5"))
    assert (text_of(events), error.code) == ("This much came before the error.", code)
    assert (error.refused, error.retry_after) == (True, 2.5)


async def test_a_flaky_turn_succeeds_when_it_was_tried_often_enough(demo: DemoProvider) -> None:
    for _ in range(2):
        _, error = await failed(demo, turn("/flaky 2 1"))
        assert (error.code, error.refused, error.retry_after) == ("overloaded", True, 1.0)
    assert text_of(await collected(demo, turn("/flaky 2 1"))) == "Attempt 3 succeeded."
    await failed(demo, turn("/flaky 2 1", turn_id="another"))


async def test_a_cut_leaves_half_a_sentence(demo: DemoProvider) -> None:
    events, error = await failed(demo, turn("/cut"))
    assert text_of(events)
    assert (error.code, error.retryable) == ("disconnected", True)


async def test_a_crash_is_no_provider_error(demo: DemoProvider) -> None:
    with pytest.raises(RuntimeError):
        await collected(demo, turn("/crash"))


async def test_a_turn_may_vanish_without_completing(demo: DemoProvider) -> None:
    events = await collected(demo, turn("/vanish\n/echo never"))
    assert not [e for e in events if isinstance(e, Completed)]
    assert "never" not in text_of(events)


async def test_a_hanging_turn_can_be_cancelled(demo: DemoProvider) -> None:
    begun = asyncio.Event()

    async def consume() -> None:
        async with aclosing(demo.stream(turn("/echo a\n/hang"))) as events:
            async for _ in events:
                begun.set()

    task = asyncio.create_task(consume())
    async with asyncio.timeout(5):
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("script", ["/unknown", "/", "/help"])
async def test_an_unknown_directive_is_answered_with_those_that_exist(demo: DemoProvider, script: str) -> None:
    text = text_of(await collected(demo, turn(script)))
    assert all(known.usage in text for known in DIRECTIVES.values())


@pytest.mark.parametrize(
    "script",
    [
        *("/slow", "/slow x", "/slow nan", "/long 0", "/long 999999999", "/pieces", "/pieces 1 2 3", "/tool broken"),
        *("/approval money", "/reset all", "/usage 1", "/error", "/error tired", "/error timeout soon", "/flaky"),
    ],
)
async def test_wrong_arguments_are_answered_with_the_usage(demo: DemoProvider, script: str) -> None:
    text = text_of(await collected(demo, turn(script)))
    assert text == f"Use it like this: `{DIRECTIVES[script.split()[0][1:]].usage}`."


async def test_silence_reports_progress_only_when_told_to(demo: DemoProvider) -> None:
    def progress(events: list[Event]) -> int:
        return sum(isinstance(e, Progress) for e in events)

    assert progress(await collected(demo, turn("/progress 0.25"))) == 3


@pytest.mark.parametrize("pace", [-1, "fast", float("nan"), float("inf"), True, None])
def test_a_wrong_pace_is_named(pace: Any) -> None:
    with pytest.raises(ValueError, match=r"^pace "):
        DemoProvider(pace=pace)


def test_the_page_lists_every_directive_as_it_is_used_and_no_other() -> None:
    rows = re.findall(r"^\| `(/.+?)` \|", PAGE.read_text(), re.MULTILINE)
    assert [row.replace("\\|", "|") for row in rows] == [known.usage for known in DIRECTIVES.values()]


def test_the_page_names_every_error_code() -> None:
    assert all(f"`{code}`" in PAGE.read_text() for code in ERROR_CODES)


async def test_the_examples_of_the_page_play(demo: DemoProvider) -> None:
    examples = re.findall(r"```text\n(.+?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) == 4
    for example in examples:
        wanted = turn(messages=[Message("user", example.replace(" 0.1", " 0.0001"))])
        try:
            text = text_of(await collected(demo, wanted))
        except ProviderError:
            assert "/error" in example
        else:
            assert "I know no" not in text
            assert "Use it like this" not in text
