import json
import random
import types
from typing import Any, get_args

import msgspec
import pytest

from gateway import protocol
from gateway.errors import BadFrame
from gateway.protocol import Done, Reset, ToolCall, ToolResult, UserMessage, decode, encode, fitted
from gateway.text import json_size

BOM = "\ufeff"


def refused(text: str) -> BadFrame:
    with pytest.raises(BadFrame) as caught:
        decode(text)
    return caught.value


# Decoding


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        ({}, "type"),
        ({"type": None}, "type"),
        ({"type": 1}, "type"),
        ({"type": ["message"]}, "type"),
        ({"type": {}}, "type"),
        ({"type": "Message"}, "type"),
        ({"type": "done"}, "type"),
        ({"type": "message"}, "content"),
        ({"type": "message", "content": None}, "content"),
        ({"type": "message", "content": 1}, "content"),
        ({"type": "message", "content": ["Hi"]}, "content"),
        ({"type": "message", "content": ""}, "content"),
        ({"type": "message", "content": " \n\t\u00a0"}, "content"),
        ({"type": "message", "content": "Hi", "id": ""}, "id"),
        ({"type": "message", "content": "Hi", "id": "x" * 129}, "id"),
        ({"type": "message", "content": "Hi", "id": 7}, "id"),
        ({"type": "message", "content": "Hi", "thread_id": ""}, "thread_id"),
        ({"type": "message", "content": "Hi", "thread_id": "x" * 65}, "thread_id"),
        ({"type": "message", "content": "Hi", "thread_id": "a/b"}, "thread_id"),
        ({"type": "message", "content": "Hi", "thread_id": "ok\n"}, "thread_id"),
        ({"type": "message", "content": "Hi", "thread_id": "straße"}, "thread_id"),
        ({"type": "message", "content": "Hi", "thread_id": True}, "thread_id"),
        ({"type": "message", "content": "Hi", "attachments": [{"url": "x"}]}, "attachments.0.id"),
        ({"type": "message", "content": "Hi", "attachments": [{"id": "f"}] * 11}, "attachments"),
        ({"type": "message", "content": " ", "attachments": []}, "content"),
        ({"type": "message", "content": "Hi", "attachments": {}}, "attachments"),
        ({"type": "message", "content": "Hi", "when_busy": "never"}, "when_busy"),
        ({"type": "auth"}, "token"),
        ({"type": "auth", "token": 1}, "token"),
        ({"type": "attach"}, "thread_id"),
        ({"type": "attach", "thread_id": 1}, "thread_id"),
        ({"type": "attach", "thread_id": "t", "cursor": 5}, "cursor"),
        ({"type": "detach"}, "thread_id"),
        ({"type": "cancel"}, "turn_id"),
        ({"type": "cancel", "thread_id": "t", "turn_id": "u"}, "turn_id"),
        ({"type": "cancel", "turn_id": 1}, "turn_id"),
        ({"type": "approval"}, "decision"),
        ({"type": "approval", "decision": "approved"}, "approval_id"),
        ({"type": "approval", "decision": True, "approval_id": "p"}, "decision"),
        ({"type": "approval", "decision": "approved", "approval_id": "p", "text": []}, "text"),
        ({"type": "seen", "thread_id": "t"}, "message_id"),
        ({"type": "seen", "message_id": "m"}, "thread_id"),
        ({"type": "ping", "nonce": {}}, "nonce"),
        ({"type": "ping", "nonce": True}, "nonce"),
        ({"type": "ping", "nonce": "x" * 129}, "nonce"),
        ({"type": "ping", "nonce": -(10**400)}, "nonce"),
    ],
)
def test_a_bad_frame_names_its_field(frame: dict[str, Any], field: str) -> None:
    error = refused(json.dumps(frame))
    assert error.field == field
    assert field in error.message or "cancel" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "{",
        "null",
        "true",
        "3",
        '"message"',
        "[]",
        '[{"type":"ping"}]',
        "{'type':'ping'}",
        '{"type":"ping"}{"type":"ping"}',
        '{"type":"ping",}',
        BOM + '{"type":"ping"}',
        '{"type":"ping","nonce":NaN}',
        '{"type":"ping","nonce":-Infinity}',
        '{"type":"ping","nonce":' + "1" * 5_000 + "}",
        '{"type":"ping","x":' + "[" * 200_000 + "]" * 200_000 + "}",
        '{"type":"ping","x":' + '{"a":' * 100_000 + "1" + "}" * 100_000 + "}",
        '{"type":"ping","x":"\x01"}',
        '{"type":"ping","x":"\\x"}',
        '{"type":"ping","x":"\\ud8"}',
    ],
)
def test_what_is_no_json_object_is_refused_as_a_whole(text: str) -> None:
    error = refused(text)
    assert error.field is None
    assert len(error.message) < 200


def test_nesting_of_every_depth_is_read_or_refused() -> None:
    for depth in (*range(1, 60), *range(60, 3_000, 97)):
        text = '{"type":"ping","x":' + "[" * depth + "]" * depth + "}"
        try:
            decode(text)
        except BadFrame as error:
            assert error.field is None  # noqa: PT017 - either outcome is right, what matters is that it is one of two


def test_a_refusal_repeats_nothing_of_the_frame() -> None:
    for frame in (
        {"type": "hunter2"},
        {"type": "message", "content": ["hunter2"]},
        {"type": "auth", "token": ["hunter2"]},
        {"type": "message", "content": "x", "thread_id": "hunter2!"},
    ):
        assert "hunter2" not in refused(json.dumps(frame)).message


def test_a_refused_message_is_told_by_its_id() -> None:
    assert refused('{"type":"message","id":"c-1"}').id == "c-1"
    assert refused('{"type":"message","id":7}').id is None
    assert refused('{"type":"message"}').id is None


def test_unknown_fields_are_ignored() -> None:
    frame = decode('{"type":"message","content":"Hi","colour":"red","timestamp":1}')
    assert isinstance(frame, protocol.SendMessage)
    assert frame.content == "Hi"


def test_of_a_field_given_twice_the_last_counts() -> None:
    frame = decode('{"type":"ping","type":"message","content":"a","content":"b"}')
    assert isinstance(frame, protocol.SendMessage)
    assert frame.content == "b"


def test_unstorable_text_is_replaced_in_every_field() -> None:
    frame = decode('{"type":"message","content":"a\\u0000\\ud800b","id":"\\udfff"}')
    assert isinstance(frame, protocol.SendMessage)
    assert (frame.content, frame.id) == ("a\ufffd\ufffdb", "\ufffd")


@pytest.mark.parametrize("nonce", [None, "", "x" * 128, 0, -1, 1.5, 2**63, 2**64 - 1, -(2**63), 1e300])
def test_every_nonce_that_is_taken_can_be_given_back(nonce: Any) -> None:
    frame = decode(json.dumps({"type": "ping", "nonce": nonce}))
    assert isinstance(frame, protocol.Ping)
    assert json.loads(encode(protocol.Pong(timestamp="", nonce=frame.nonce)))["nonce"] == nonce


def test_random_json_is_read_or_refused_as_a_bad_frame() -> None:
    chance = random.Random(11)
    pieces = [
        '{"type":"message",',
        '"content":',
        '"Hi"',
        "}",
        "{",
        "[",
        "]",
        ",",
        ":",
        "1e999",
        '"\\ud800"',
        "null",
        " ",
    ]
    for _ in range(5_000):
        text = "".join(chance.choices(pieces, k=chance.randrange(12)))
        try:
            decode(text)
        except BadFrame as error:
            assert error.message  # noqa: PT017 - as above


# Encoding


def logged(kind: Any, /, **fields: Any) -> Any:
    return kind(timestamp="2026-11-20T07:40:00.123Z", thread_id="t", turn_id="u", cursor="1795160400123:1", **fields)


def done(content: str, **fields: Any) -> Done:
    return logged(
        Done,
        **{
            "status": "completed",
            "message_id": "m",
            "content": content,
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 2},
            "duration_ms": 5,
        }
        | fields,
    )


def test_a_frame_begins_with_its_type_and_time() -> None:
    text = encode(logged(protocol.Message, item_id="a", content="Hel"))
    assert text.startswith('{"type":"message","timestamp":"2026-11-20T07:40:00.123Z",')


def test_a_frame_with_a_long_text_is_cut_to_its_limit_and_says_so() -> None:
    chance = random.Random(2)
    alphabet = [*'ab"\\\n\x01\x1f', "é", "漢", "😀", "\u2028"]
    for _ in range(400):
        text = "".join(chance.choices(alphabet, k=chance.randrange(4_000)))
        limit = chance.randrange(1_024, 8_192)
        for frame in (
            done(text),
            logged(Reset, content=text),
            logged(UserMessage, message_id="m", id="c", content=text),
            logged(ToolResult, call_id="c", status="completed", summary=text),
        ):
            shown = fitted(frame, limit)
            assert json_size(shown) <= limit
            name = "summary" if isinstance(frame, ToolResult) else "content"
            piece = getattr(shown, name)
            assert text.startswith(piece)
            if json_size(frame) <= limit:
                assert shown is frame
            else:
                assert shown.truncated is True
                assert shown.length == len(text)
                assert len(piece) > 0


def test_a_frame_with_long_arguments_is_cut_to_its_limit_and_says_so() -> None:
    chance = random.Random(2)
    for _ in range(200):
        limit = chance.randrange(1_024, 4_096)
        arguments = {
            f"key {n}": "".join(chance.choices("a\x01😀\\", k=chance.randrange(2_000)))
            for n in range(chance.randrange(9))
        }
        call = logged(ToolCall, call_id="c", name="shell", title="ls", arguments=arguments)
        request = logged(
            protocol.ApprovalRequest,
            approval_id="p",
            call_id=None,
            kind="tool",
            title="May I?",
            detail=arguments,
            options=[],
            free_text=False,
            expires_at="",
        )
        for frame in (call, request):
            shown = fitted(frame, limit)
            assert json_size(shown) <= limit
            assert (shown.truncated is True) == (json_size(frame) > limit)


def test_the_schema_covers_every_frame_of_both_sides() -> None:
    schema = protocol.schema()
    assert set(schema["client"]) == {
        get_args(m.model_fields["type"].annotation)[0] for m in protocol.CLIENT_FRAMES.values()
    }
    tags = {
        kind.__struct_config__.tag
        for kind in vars(protocol).values()
        if isinstance(kind, type) and issubclass(kind, protocol.Frame) and isinstance(kind.__struct_config__.tag, str)
    }
    assert set(schema["server"]) == tags - {"Frame", "LoggedFrame"}
    assert len(tags) >= 21
    json.dumps(schema)


def test_every_event_of_the_log_can_be_stored_and_read_back() -> None:
    events: list[Any] = [
        logged(UserMessage, message_id="m", id=None, content="Hi"),
        logged(protocol.Message, item_id="a", content="x"),
        logged(protocol.Reasoning, item_id="a", content="x"),
        logged(Reset, content=""),
        logged(ToolCall, call_id="c", name="n", title="t", arguments={"a": [1, None]}, truncated=True),
        logged(ToolResult, call_id="c", status="failed", summary="", length=3),
        logged(
            protocol.ApprovalRequest,
            approval_id="p",
            call_id=None,
            kind="tool",
            title="",
            detail={},
            options=[protocol.ApprovalOption("approved", "Yes")],
            free_text=True,
            expires_at="",
        ),
        logged(protocol.ApprovalResolved, approval_id="p", decision="approved", by=None),
        done("x", error={"code": "timeout"}),
    ]
    assert {type(event) for event in events} == set(get_args(protocol.Event))
    stored = msgspec.msgpack.encode(events)
    assert [encode(e) for e in msgspec.msgpack.decode(stored, type=list[protocol.Event])] == [encode(e) for e in events]


def test_close_codes_stand_in_the_band_that_says_what_to_do() -> None:
    bands: types.MappingProxyType[str, bool] = types.MappingProxyType(
        {code.name: 4000 <= code <= 4499 for code in protocol.CloseCode if code >= 4000}
    )
    assert {name for name, comes_back in bands.items() if comes_back} == {"TOKEN_EXPIRED", "TOO_SLOW", "TOO_MANY"}
