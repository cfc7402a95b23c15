from gateway import protocol
from gateway.eventlog.log import ThreadLog
from gateway.text import json_size
from gateway.view import TOOLS_SHOWN, TurnView
from tests.gateway.events import add, ask, empty_log, end, say, think


def summed(log: ThreadLog) -> TurnView:
    seen = TurnView()
    for event in log.events:
        seen.apply(event)
    return seen


def test_text_and_reasoning_are_summed_apart() -> None:
    log = empty_log()
    ask(log, "question")
    think(log, "hm ")
    say(log, "Hel")
    think(log, "hm")
    say(log, "lo")
    end(log, "ignored")
    seen = summed(log)
    assert (seen.content, seen.reasoning) == ("Hello", "hm hm")


def test_reading_it_in_between_changes_nothing() -> None:
    seen, log = TurnView(), empty_log()
    for number in range(20):
        seen.apply(say(log, str(number)))
        assert seen.content == "".join(map(str, range(number + 1)))


def test_a_reset_replaces_the_text_and_leaves_the_reasoning() -> None:
    log = empty_log()
    say(log, "wrong")
    think(log, "hm")
    add(log, protocol.Reset, content="right")
    say(log, "!")
    seen = summed(log)
    assert (seen.content, seen.reasoning) == ("right!", "hm")


def test_tools_stand_with_their_latest_state_in_the_order_they_began() -> None:
    log = empty_log()
    for call_id in ("c1", "c2", "c3"):
        add(log, protocol.ToolCall, call_id=call_id, name="shell", title="ls", arguments={"x": 1})
    add(log, protocol.ToolResult, call_id="c2", status="failed", summary="")
    add(log, protocol.ToolResult, call_id="c1", status="completed", summary="")
    add(log, protocol.ToolResult, call_id="unknown", status="completed", summary="")
    tools = summed(log).shown("u1", 10_000)["tools"]
    assert [(tool["call_id"], tool["status"]) for tool in tools] == [
        ("c1", "completed"),
        ("c2", "failed"),
        ("c3", "running"),
    ]
    assert tools[0] == {"call_id": "c1", "name": "shell", "title": "ls", "status": "completed"}


def test_only_open_approvals_stand() -> None:
    log = empty_log()
    for approval_id in ("p1", "p2"):
        add(
            log,
            protocol.ApprovalRequest,
            approval_id=approval_id,
            call_id=None,
            kind="tool",
            title="May I?",
            detail={},
            options=[],
            free_text=False,
            expires_at="",
        )
    add(log, protocol.ApprovalResolved, approval_id="p1", decision="approved", by=None)
    assert list(summed(log).approvals) == ["p2"]


def test_a_long_text_is_shown_cut_and_says_its_length() -> None:
    log = empty_log()
    say(log, "😀" * 5_000)
    think(log, "r" * 5_000)
    shown = summed(log).shown("u1", 4_000)
    assert shown["truncated"] is True
    assert shown["length"] == 5_000
    assert 0 < len(shown["content"]) < 5_000
    assert json_size(shown["content"]) <= 4_000
    assert json_size(shown["reasoning"]) <= 1_000
    assert "truncated" not in summed(empty_log()).shown("u1", 4_000)


def test_of_many_tools_the_newest_are_shown() -> None:
    log = empty_log()
    for number in range(TOOLS_SHOWN + 30):
        add(log, protocol.ToolCall, call_id=str(number), name="shell", title="", arguments={})
    tools = summed(log).shown("u1", 10_000)["tools"]
    assert [tool["call_id"] for tool in tools] == [str(number) for number in range(30, TOOLS_SHOWN + 30)]


def test_tools_are_shown_as_far_as_they_fit_the_newest_first() -> None:
    log = empty_log()
    for number in range(10):
        add(log, protocol.ToolCall, call_id=f"c{number}", name="shell", title="😀" * 200, arguments={})
    tools = summed(log).shown("u1", 4_000)["tools"]
    assert [tool["call_id"] for tool in tools] == ["c8", "c9"]
    assert json_size(tools) <= 2_000
