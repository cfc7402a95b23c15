"""Notifications that a scripted model does not bring about, in the shapes of Codex's schema."""

from __future__ import annotations

from typing import Any

import pytest

from providers import Completed, Event, Progress, ProviderError, TextDelta, TextReset, ToolCall, ToolResult
from providers.codex.mapping import Mapping, bounded, diff_text


def feed(mapping: Mapping, *messages: tuple[str, dict[str, Any]]) -> list[Event]:
    return [event for method, params in messages for event in mapping.feed(method, params)]


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return {"item": {"type": kind, "id": "i1", **fields}}


def ended(status: str, **error: Any) -> tuple[str, dict[str, Any]]:
    return "turn/completed", {"turn": {"id": "u", "status": status, "error": error or None}}


def test_text_without_deltas_is_taken_from_the_finished_item() -> None:
    events = feed(Mapping(), ("item/completed", item("agentMessage", text="whole")))
    assert events == [TextDelta("m1", "whole")]


def test_the_finished_item_decides_over_its_deltas() -> None:
    events = feed(
        Mapping(),
        ("item/started", item("agentMessage", text="")),
        ("item/agentMessage/delta", {"itemId": "i1", "delta": "Hxl"}),
        ("item/completed", item("agentMessage", text="Hello")),
    )
    assert events == [TextDelta("m1", "Hxl"), TextReset("m1"), TextDelta("m2", "Hello")]


def test_a_backend_that_counts_its_items_anew_does_not_mix_them_up() -> None:
    one = [
        ("item/started", item("agentMessage", text="")),
        ("item/agentMessage/delta", {"itemId": "i1", "delta": "a"}),
        ("item/completed", item("agentMessage", text="a")),
    ]
    assert feed(Mapping(), *one, *one) == [TextDelta("m1", "a"), TextDelta("m2", "a")]
    shell = {"command": "ls", "cwd": "/", "status": "completed"}
    mapping = Mapping()
    calls = [
        ("item/started", item("commandExecution", **shell)),
        ("item/completed", item("commandExecution", **shell)),
    ]
    assert [e.call_id for e in feed(mapping, *calls, *calls) if isinstance(e, ToolCall | ToolResult)] == [
        "i1",
        "i1",
        "i1.2",
        "i1.2",
    ]


def test_text_open_when_the_turn_completes_is_void() -> None:
    events = feed(Mapping(), ("item/agentMessage/delta", {"itemId": "i1", "delta": "Hel"}), ended("completed"))
    assert events == [TextDelta("m1", "Hel"), TextReset("m1"), Completed()]


def test_an_mcp_tool_shows_its_text_or_its_error() -> None:
    common = {"server": "desk", "tool": "greet", "arguments": {"a": 1}}
    good = feed(
        Mapping(),
        ("item/started", item("mcpToolCall", **common)),
        ("item/completed", item("mcpToolCall", status="completed", result={"content": [{"text": "hi"}]}, **common)),
    )
    assert good == [ToolCall("i1", "desk.greet", "", {"a": 1}), ToolResult("i1", "completed", "hi")]
    (bad,) = feed((mapping := Mapping()), ("item/started", item("mcpToolCall", **common))) and feed(
        mapping, ("item/completed", item("mcpToolCall", status="failed", error={"message": "no"}, **common))
    )
    assert bad == ToolResult("i1", "failed", "no")


def test_an_item_of_a_kind_not_yet_known_is_progress() -> None:
    assert feed(Mapping(), ("item/started", item("hologram"))) == [Progress()]


def test_a_turn_that_codex_gave_up_by_itself_failed() -> None:
    with pytest.raises(ProviderError, match="upstream_error"):
        feed(Mapping(), ended("interrupted"))


def test_a_retry_says_nothing_so_that_the_idle_deadline_runs_on() -> None:
    mapping = Mapping()
    feed(mapping, ("item/started", item("commandExecution", command="x", cwd="/")))
    assert mapping.waiting_for_tools
    assert feed(mapping, ("error", {"willRetry": True, "error": {"codexErrorInfo": "other"}})) == []
    assert not mapping.waiting_for_tools


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"httpConnectionFailed": {"httpStatusCode": None}}, "connection_failed"),
        ({"httpConnectionFailed": {"httpStatusCode": 401}}, "authentication"),
        ({"responseTooManyFailedAttempts": {"httpStatusCode": 429}}, "rate_limited"),
        ({"responseStreamDisconnected": {"httpStatusCode": 502}}, "upstream_error"),
        ("sandboxError", "upstream_error"),
        ("tooManyDenials", "permission_denied"),
        ("something new", "upstream_error"),
        (None, "upstream_error"),
    ],
)
def test_an_error_kind_has_a_code_and_a_sentence_of_our_own(info: Any, code: str) -> None:
    with pytest.raises(ProviderError) as caught:
        feed(Mapping(), ended("failed", message="see http://private", codexErrorInfo=info))
    assert caught.value.code == code
    assert "private" not in str(caught.value)


def test_a_diff_names_files_that_come_go_and_move() -> None:
    changes = [
        {"path": "/a", "kind": {"type": "add"}, "diff": "one\ntwo\n"},
        {"path": "/b", "kind": {"type": "delete"}, "diff": "gone\n"},
        {"path": "/c", "kind": {"type": "update", "move_path": "/d"}, "diff": "@@ -1 +1 @@\n-x\n+y\n"},
    ]
    assert diff_text(changes) == (
        "--- /dev/null\n+++ /a\n+one\n+two\n--- /b\n+++ /dev/null\n-gone\n--- /c\n+++ /d\n@@ -1 +1 @@\n-x\n+y\n"
    )


def test_long_output_keeps_its_head_and_its_tail() -> None:
    short = bounded("a" * 50 + "b" * 50, 20)
    assert short.startswith("a" * 10)
    assert short.endswith("b" * 10)
    assert "80 characters" in short
