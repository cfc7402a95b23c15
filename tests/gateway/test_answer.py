import random
import re
from typing import Any

import pytest

from gateway import protocol
from gateway.answer import ANSWER_CHARS, Answer
from gateway.eventlog.local import decode_events, encode_events
from gateway.eventlog.log import ThreadLog
from gateway.protocol import encode
from gateway.store.records import Segment
from providers import (
    Completed,
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
from tests.gateway.events import empty_log

FRAME_BYTES = 16 * 1024


class Reader:
    """An answer, and what those who follow its log see of it."""

    def __init__(self) -> None:
        self.log: ThreadLog = empty_log()
        self.answer = Answer(self.log, "u1", FRAME_BYTES)

    def apply(self, *events: Any) -> None:
        for event in events:
            self.answer.apply(event)

    @property
    def joined(self) -> str:
        """The text as a client joins it."""
        text = ""
        for event in self.log.events:
            if isinstance(event, protocol.Message):
                text += event.content
            elif isinstance(event, protocol.Reset):
                text = event.content
        return text

    @property
    def kinds(self) -> list[str]:
        return [str(event.__struct_config__.tag) for event in self.log.events]

    def refuses(self, event: Any) -> ProviderError:
        with pytest.raises(ProviderError) as caught:
            self.answer.apply(event)
        return caught.value


@pytest.fixture
def reader() -> Reader:
    return Reader()


# Text


def test_pieces_of_one_item_are_logged_as_they_come(reader: Reader) -> None:
    reader.apply(TextDelta("a", "Hel"), TextDelta("a", "lo"))
    assert [event.content for event in reader.log.events if isinstance(event, protocol.Message)] == ["Hel", "lo"]
    assert reader.answer.content == reader.joined == reader.answer.view.content == "Hello"
    assert reader.answer.pieces == 2


def test_the_cursor_of_each_event_is_its_place_in_the_log(reader: Reader) -> None:
    reader.apply(TextDelta("a", "x"), ReasoningDelta("r", "y"), TextDelta("a", "z"))
    assert [event.cursor for event in reader.log.events] == ["1000:1", "1000:2", "1000:3"]


def test_a_new_item_begins_with_the_blank_line_that_separates_them(reader: Reader) -> None:
    reader.apply(TextDelta("a", "one"), TextDelta("b", "two"), TextDelta("a", "+"), TextDelta("c", "three"))
    assert reader.answer.content == reader.joined == "one\n\ntwo+\n\nthree"


def test_an_empty_piece_shows_nothing_and_begins_no_item(reader: Reader) -> None:
    reader.apply(TextDelta("a", ""), TextDelta("b", "x"), TextDelta("c", ""), TextDelta("b", "y"))
    assert reader.answer.content == reader.joined == "xy"
    assert reader.kinds == ["message", "message"]


def test_a_huge_piece_is_split_into_frames_that_fit(reader: Reader) -> None:
    text = "\x01" * 30_000 + "😀" * 3_000
    reader.apply(TextDelta("a", text), ReasoningDelta("r", text))
    assert reader.answer.content == reader.joined == text
    assert reader.answer.view.reasoning == text
    assert max(len(encode(event).encode()) for event in reader.log.events) <= FRAME_BYTES


def test_surrogates_and_nul_in_a_text_are_replaced(reader: Reader) -> None:
    reader.apply(TextDelta("a", "x\x00\ud83d"), TextDelta("a", "\ude00y"), ReasoningDelta("r", "\ud800"))
    assert reader.answer.content == reader.joined == "x\ufffd\ufffd\ufffdy"
    assert reader.answer.view.reasoning == "\ufffd"


# Resets


def test_a_reset_of_everything_begins_the_answer_anew(reader: Reader) -> None:
    reader.apply(TextDelta("a", "one"), TextDelta("b", "two"), TextReset(), TextDelta("b", "three"))
    assert reader.answer.content == reader.joined == "three"
    assert reader.kinds == ["message", "message", "reset", "message"]


@pytest.mark.parametrize(
    ("item", "left"), [("a", "two\n\nthree"), ("b", "one\n\nthree"), ("c", "one\n\ntwo"), ("x", "one\n\ntwo\n\nthree")]
)
def test_a_reset_of_one_item_leaves_the_others_and_their_separators(reader: Reader, item: str, left: str) -> None:
    reader.apply(TextDelta("a", "one"), TextDelta("b", "two"), TextDelta("c", "three"), TextReset(item))
    assert reader.answer.content == reader.joined == left


def test_text_that_looks_like_a_separator_is_not_taken_for_one(reader: Reader) -> None:
    reader.apply(TextDelta("a", "one"), TextDelta("b", "\n\ntwo"), TextReset("a"))
    assert reader.answer.content == reader.joined == "\n\ntwo"
    reader.apply(TextReset("b"), TextDelta("c", "\n\nthree"), TextReset("x"))
    assert reader.answer.content == reader.joined == "\n\nthree"


def test_an_item_may_begin_anew_behind_its_reset(reader: Reader) -> None:
    reader.apply(TextDelta("a", "one"), TextDelta("b", "two"), TextReset("a"), TextDelta("a", "three"))
    assert reader.answer.content == reader.joined == "two\n\nthree"


def test_whatever_comes_the_joined_text_is_the_content() -> None:
    chance = random.Random(9)
    pieces = ["a", "", "\n\n", "\n", "word ", "\x00", "\ud83d", "😀", "x" * 3_000]
    for _ in range(150):
        reader = Reader()
        for _ in range(chance.randrange(60)):
            item = chance.choice("abcd")
            roll = chance.random()
            if roll < 0.7:
                reader.apply(TextDelta(item, chance.choice(pieces)))
            elif roll < 0.8:
                reader.apply(ReasoningDelta(item, "hm"))
            elif roll < 0.95:
                reader.apply(TextReset(item))
            else:
                reader.apply(TextReset())
            assert reader.joined == reader.answer.content == reader.answer.view.content
        stored = encode_events(reader.log.events)
        assert decode_events(Segment(first=1, last=1, events=stored)) == reader.log.events


def test_reasoning_is_never_part_of_the_answer(reader: Reader) -> None:
    reader.apply(ReasoningDelta("r", "hm"), ReasoningDelta("r", ""), TextDelta("a", "x"), ReasoningDelta("r", "hm"))
    assert reader.answer.content == "x"
    assert reader.kinds == ["reasoning", "message", "reasoning"]


# Tools


def test_a_tool_call_gets_its_result(reader: Reader) -> None:
    reader.apply(ToolCall("c1", "shell", "ls", {"command": ["ls"]}), ToolResult("c1", "failed", "no such file"))
    call, result = reader.log.events
    assert isinstance(call, protocol.ToolCall)
    assert (call.name, call.title, call.arguments) == ("shell", "ls", {"command": ["ls"]})
    assert isinstance(result, protocol.ToolResult)
    assert (result.status, result.summary) == ("failed", "no such file")


def test_a_tool_without_a_title_shows_its_name(reader: Reader) -> None:
    reader.apply(ToolCall("c1", "shell"))
    (call,) = reader.log.events
    assert isinstance(call, protocol.ToolCall)
    assert call.title == "shell"


def test_calls_without_a_result_are_reported_as_failed_once(reader: Reader) -> None:
    reader.apply(ToolCall("c1", "a"), ToolCall("c2", "b"), ToolResult("c1"))
    reader.answer.fail_open_calls()
    reader.answer.fail_open_calls()
    results = [e for e in reader.log.events if isinstance(e, protocol.ToolResult)]
    assert [(e.call_id, e.status) for e in results] == [("c1", "completed"), ("c2", "failed")]


def test_a_reset_fails_abandoned_calls_and_a_late_result_is_passed_over(reader: Reader) -> None:
    reader.apply(ToolCall("c1", "a"), TextReset(), ToolResult("c1"))
    assert reader.kinds == ["tool_call", "tool_result", "reset"]
    assert reader.answer.view.tools["c1"]["status"] == "failed"


def test_long_arguments_and_summaries_are_cut_to_the_frame(reader: Reader) -> None:
    reader.apply(
        ToolCall("c1", "n" * 50_000, "t" * 50_000, {"a": "\x01" * 100_000}),
        ToolResult("c1", "completed", "😀" * 50_000),
    )
    assert max(len(encode(event).encode()) for event in reader.log.events) <= FRAME_BYTES
    assert all(getattr(event, "truncated", None) is True for event in reader.log.events)


# Everything else


def test_usage_holds_the_two_counts_and_whatever_else_is_told(reader: Reader) -> None:
    reader.apply(Usage(1, 2))
    assert reader.answer.usage == {"input_tokens": 1, "output_tokens": 2}
    reader.apply(Usage(3, 0, cache_read_tokens=5))
    assert reader.answer.usage == {"input_tokens": 3, "output_tokens": 0, "cache_read_tokens": 5}


def test_progress_and_sessions_show_nothing(reader: Reader) -> None:
    reader.apply(Progress(), SessionUpdated({"id": "s"}), SessionUpdated({"id": "s2"}))
    assert reader.kinds == []
    assert reader.log.session == {"id": "s2"}
    assert reader.answer.begun


def test_completed_is_kept_and_shows_nothing(reader: Reader) -> None:
    reader.apply(TextDelta("a", "x"), Completed("max_tokens"))
    assert reader.kinds == ["message"]
    assert reader.answer.completed == Completed("max_tokens")


@pytest.mark.parametrize("late", [TextDelta("a", "x"), Completed(), Progress(), "anything"])
def test_nothing_may_follow_completed(reader: Reader, late: Any) -> None:
    reader.apply(Completed())
    assert reader.refuses(late).code == "provider_fault"
    assert reader.kinds == []


@pytest.mark.parametrize(
    "event",
    [
        None,
        "text",
        {"type": "text"},
        object(),
        ToolResult("never-begun"),
        ToolCall("c1", "again"),
        ToolCall("c2", "shell", arguments={"x": object()}),
        ToolCall("c2", "shell", arguments={"x": 2**64}),
        ToolCall("c2", "shell", arguments=["no", "mapping"]),  # type: ignore[arg-type]
        ToolCall("c2", 5),  # type: ignore[arg-type]
        ToolCall(7, "shell"),  # type: ignore[arg-type]
        ToolCall("c" * 1_000, "shell"),
        ToolResult("c1", "perhaps"),  # type: ignore[arg-type]
        ToolResult("c1", "completed", None),  # type: ignore[arg-type]
        SessionUpdated({"x": "y" * 70_000}),
        SessionUpdated({"x": object()}),
        SessionUpdated({"x": 2**70}),
        SessionUpdated(None),  # type: ignore[arg-type]
        TextDelta("a", None),  # type: ignore[arg-type]
        TextDelta("a", b"bytes"),  # type: ignore[arg-type]
        TextDelta(None, "x"),  # type: ignore[arg-type]
        TextDelta("i" * 1_000, "x"),
        TextDelta(["a"], "x"),  # type: ignore[arg-type]
        ReasoningDelta(5, "x"),  # type: ignore[arg-type]
        ReasoningDelta("r", 5),  # type: ignore[arg-type]
        Usage("many"),  # type: ignore[arg-type]
        Usage(2**70),
        Completed(5),  # type: ignore[arg-type]
    ],
    ids=lambda event: re.sub(r" at 0x[0-9a-f]+", "", repr(event))[:60],
)
def test_what_breaks_the_contract_is_the_provider_s_fault_and_logs_nothing(reader: Reader, event: Any) -> None:
    reader.apply(ToolCall("c1", "shell"))
    before = list(reader.log.events)
    error = reader.refuses(event)
    assert error.code == "provider_fault"
    assert len(error.message) < 200
    assert reader.log.events == before
    reader.answer.fail_open_calls()
    assert [(e.call_id, e.status) for e in reader.log.events[1:] if isinstance(e, protocol.ToolResult)] == [
        ("c1", "failed")
    ]


def test_names_that_cannot_be_encoded_do_not_reach_the_log(reader: Reader) -> None:
    reader.apply(
        TextDelta("a\ud800", "x"),
        ReasoningDelta("\x00", "x"),
        ToolCall("\udfff", "\ud800", "\x00", {"\ud800": ["\ud800"]}),
        SessionUpdated({"\ud800": "\ud800"}),
        ToolCall("c\ud800", "open"),
        Completed("\ud800"),
    )
    reader.answer.fail_open_calls()
    for event in reader.log.events:
        encode(event)
    encode_events(reader.log.events)
    assert reader.answer.completed is not None
    assert reader.answer.completed.stop_reason == "\ufffd"


def test_an_answer_without_end_is_stopped_and_what_was_shown_is_the_content(reader: Reader) -> None:
    reader.apply(TextDelta("a", "begin"))
    piece = TextDelta("a", "x" * (ANSWER_CHARS // 8))
    with pytest.raises(ProviderError) as caught:
        [reader.apply(piece) for _ in range(9)]
    assert caught.value.code == "too_large"
    assert reader.joined == reader.answer.content


def test_an_earlier_process_s_events_are_taken_up(reader: Reader) -> None:
    reader.apply(
        TextDelta("a", "wrong"), TextReset(), TextDelta("a", "one"), TextDelta("b", "two"), ToolCall("c1", "shell")
    )
    later = Answer(reader.log, "u1", FRAME_BYTES)
    later.restore(list(reader.log.events))
    assert later.content == later.view.content == "one\n\ntwo"
    later.fail_open_calls()
    assert reader.kinds[-1] == "tool_result"
