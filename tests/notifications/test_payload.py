from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import regex

from notifications import payload
from notifications.graphemes import well_formed
from notifications.records import BODY_PREFIX, Push
from tests.notifications.pushes import push

LONG = "word " * 5_000


def read_apns(made: Push) -> tuple[dict[str, Any], str, int]:
    raw = payload.apns(made)
    body = json.loads(raw)
    return body["agentline"], body["aps"]["alert"]["body"], len(raw)


def read_fcm(made: Push) -> tuple[dict[str, Any], str, int]:
    data = payload.fcm_data(made)
    assert all(isinstance(value, str) for value in data.values())
    return dict(data), data["body"], len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode())


def read_webpush(made: Push) -> tuple[dict[str, Any], str, int]:
    raw = payload.webpush(made)
    body = json.loads(raw)
    return body, body["body"], len(raw)


def read_ntfy(made: Push) -> tuple[dict[str, Any], str, int]:
    raw = payload.ntfy(made, "phone-topic")
    body = json.loads(raw)
    assert body["body"] == body["message"]
    room = min(payload.NTFY_LIMIT - len(raw), payload.NTFY_MESSAGE_LIMIT - len(body["message"].encode()))
    return body, body["message"], payload.NTFY_MESSAGE_LIMIT - room


Reader = Callable[[Push], tuple[dict[str, Any], str, int]]
TRANSPORTS = [
    pytest.param(read_apns, payload.APNS_LIMIT, id="apns"),
    pytest.param(read_fcm, payload.FCM_LIMIT, id="fcm"),
    pytest.param(read_webpush, payload.WEBPUSH_LIMIT, id="webpush"),
    pytest.param(read_ntfy, payload.NTFY_MESSAGE_LIMIT, id="ntfy"),
]


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
def test_a_short_answer_is_inline_and_whole(read: Reader, limit: int) -> None:
    names, text, _ = read(push("Grüße, 世界 👋🏽"))
    assert text == "Grüße, 世界 👋🏽"
    assert {"truncated", "length", "fetch_token"}.isdisjoint(names)
    for name, value in {
        "thread_id": "t-9f",
        "turn_id": "u-41",
        "message_id": "m-42",
        "agent": "claude",
        "status": "completed",
        "kind": "turn",
    }.items():
        assert names[name] == value


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
def test_a_long_answer_is_cut_at_the_last_byte_that_fits_and_says_how_to_get_the_rest(read: Reader, limit: int) -> None:
    names, text, size = read(push("x" * 50_000))
    assert limit - 1 <= size <= limit
    assert text == "x" * len(text)
    assert str(names["truncated"]).lower() == "true"
    assert int(names["length"]) == 50_000
    assert names["fetch_token"] == "f" * 43


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
def test_the_largest_whole_text_still_goes_without_being_cut(read: Reader, limit: int) -> None:
    whole = 0
    for length in range(limit - 1_000, limit + 1):
        names, text, _ = read(push("x" * length))
        if "truncated" not in names:
            assert len(text) == length
            whole = length
    _, _, size = read(push("x" * whole))
    assert limit - 1 <= size <= limit


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
@pytest.mark.parametrize("piece", ['"', "\\", "\n", "\x01", "é", "漢", "😀", "\ud800", "\0"], ids=ascii)
def test_the_limit_counts_what_the_encoding_makes_of_the_text(read: Reader, limit: int, piece: str) -> None:
    _names, text, size = read(push(piece * 20_000))
    assert limit - 24 < size <= limit
    assert text
    assert well_formed(piece * 20_000).startswith(text)


def boundaries(text: str) -> set[int]:
    return {0, len(text)} | {cluster.start() for cluster in regex.finditer(r"\X", text)}


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
@pytest.mark.parametrize(
    "cluster",
    [
        "👨‍👩‍👧‍👦",
        "e\u0301\u0323",
        "🇩🇪",
        "각",
        "क्ष",
        "👋🏽",
        "\r\n",
        "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    ],
)
def test_no_cluster_is_ever_split(read: Reader, limit: int, cluster: str) -> None:
    for shift in range(10):
        whole = "a" * shift + cluster * 1_500
        _, text, _ = read(push(whole))
        assert whole.startswith(text)
        assert len(text) in boundaries(whole)


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
def test_one_cluster_larger_than_the_limit_leaves_the_title_and_what_stands_before_it(read: Reader, limit: int) -> None:
    monster = "e" + "\u0301" * 1_000_000
    names, text, _ = read(push(monster))
    assert text == ""
    assert names["fetch_token"]
    _, text, _ = read(push("Hello " + monster))
    assert text == "Hello "


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
@pytest.mark.parametrize(
    "text",
    [
        "x" * 10_000_000,
        "👨‍👩‍👧‍👦" * 1_500_000,
        "e" + "\u0301" * 1_000_000,
        "🇩🇪" * 1_000_000,
        "\u200d" * 1_000_000,
        "\x00\ud800" * 1_000_000,
        "क्" * 1_000_000,
    ],
    ids=["ascii", "families", "marks", "flags", "joiners", "ill-formed", "conjuncts"],
)
def test_cutting_costs_under_ten_milliseconds_at_any_length(read: Reader, limit: int, text: str) -> None:
    made = push(text)
    best = min(_seconds(read, made) for _ in range(5))
    assert best < 0.010


def _seconds(read: Reader, made: Push) -> float:
    began = time.perf_counter()
    read(made)
    return time.perf_counter() - began


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
def test_a_store_may_hand_over_only_the_beginning_of_a_text(read: Reader, limit: int) -> None:
    whole = "👨‍👩‍👧‍👦 and so on " * 100_000
    part = read(push(whole[:BODY_PREFIX], length=len(whole)))
    assert part == read(push(whole))
    names, text, _ = read(push("Hello", length=70_000))
    assert text == "Hello"
    assert int(names["length"]) == 70_000


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
def test_the_id_only_mode_lets_no_word_of_the_conversation_out(read: Reader, limit: int) -> None:
    made = push("my secret diagnosis", title="diagnosis", id_only=True)
    names, text, _ = read(made)
    for raw in (
        payload.apns(made),
        json.dumps(payload.fcm_data(made)).encode(),
        payload.webpush(made),
        payload.ntfy(made, "t"),
    ):
        assert b"diagnosis" not in raw
    assert text in ("", "New answer")
    assert names["fetch_token"] == "f" * 43
    assert int(names["length"]) == 19


@pytest.mark.parametrize(("read", "limit"), TRANSPORTS)
def test_a_title_of_any_length_leaves_room_for_the_text(read: Reader, limit: int) -> None:
    _names, text, size = read(push(LONG, title="👨‍👩‍👧‍👦" * 100_000))
    assert size <= limit
    assert len(text) > 3_000


def test_an_apns_alert_says_what_ios_needs() -> None:
    body = json.loads(payload.apns(push("Hi")))
    assert body["aps"] == {
        "alert": {"title": "A conversation", "body": "Hi"},
        "sound": "default",
        "mutable-content": 1,
        "interruption-level": "active",
        "thread-id": "t-9f",
        "badge": 3,
    }


def test_an_approval_is_time_sensitive_and_names_its_actions() -> None:
    body = json.loads(payload.apns(push("rm -rf build", kind="approval", approval_id="p-1", status="running")))
    assert body["aps"]["interruption-level"] == "time-sensitive"
    assert body["aps"]["category"] == payload.APPROVAL_CATEGORY
    assert body["agentline"]["approval_id"] == "p-1"
    assert body["agentline"]["kind"] == "approval"


def test_after_seen_the_badge_changes_and_nothing_is_shown() -> None:
    body = json.loads(payload.apns(push("Hi", kind="seen", badge=0)))
    assert body["aps"] == {"content-available": 1, "thread-id": "t-9f", "badge": 0}
    assert body["agentline"]["message_id"] == "m-42"
    data = payload.fcm_data(push("Hi", kind="seen", badge=0))
    assert (data["kind"], data["badge"], data["body"]) == ("seen", "0", "")


def test_a_collapse_id_is_short_and_the_same_for_a_withdrawal() -> None:
    assert payload.collapse_id(push()) == "turn-u-41"
    assert payload.collapse_id(push(kind="seen")) == "turn-u-41"
    assert payload.collapse_id(push(kind="approval", approval_id="p-1")) == "approval-p-1"
    long = payload.collapse_id(push(turn_id="u" * 300))
    assert len(long) <= 64
    assert regex.fullmatch(r"[A-Za-z0-9_-]{1,32}", payload.topic(push()))


def test_ids_that_leave_no_room_are_refused_instead_of_sent() -> None:
    with pytest.raises(payload.PayloadTooLarge):
        payload.apns(push("Hi" * 5_000, fetch_token="x" * 5_000))


PIECES = [
    "👨‍👩‍👧‍👦", "👩🏽‍🚀", "🏳️‍🌈", "🇩🇪", "🇫", "e\u0301", "a\u0300\u0316\u0301", "\u0301",
    "שלום", "مرحبا", "\u202e", "\u200f", "\ud800", "\udfff", "\udc00\ud83d", "\0",
    "\x1f", "\x7f", '"', "\\", "/", "\n", "\r\n", "\t",
    "한", "\u1112\u1161\u11ab", "क्षि", "\u200d", "\ufe0f", "\u2028", "漢字", "word ",
    "x", "ÿ", "\U0010ffff", "\u0600", "ำ",
]  # fmt: skip


def check_random_texts(count: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        few = rng.sample(PIECES, rng.randint(1, 6))
        whole = "".join(rng.choice(few) * rng.randint(1, 9) for _ in range(rng.choice((3, 40, 250, 900))))
        made = push(whole, title=rng.choice(few) * rng.randint(0, 90))
        clean = well_formed(whole)
        ends: set[int] | None = None
        for parameter in TRANSPORTS:
            read, limit = parameter.values
            names, text, size = read(made)  # type: ignore[operator]  # pytest types its parameters as objects
            assert size <= limit
            assert clean.startswith(text)
            if "truncated" in names:
                ends = ends or boundaries(clean[:6_000])
                assert len(text) in ends
                longer = min((end for end in ends if end > len(text)), default=None)
                assert longer is None or _too_long(read, made, clean[:longer], limit)
            else:
                assert text == clean


def _too_long(read: Any, made: Push, text: str, limit: Any) -> bool:
    """Whether `text` as the cut text of the same push would be over the limit."""
    _names, shown, size = read(made)
    assert len(text) > len(shown)
    added = len(json.dumps(text[len(shown) :], ensure_ascii=False).encode()) - 2
    if read is read_ntfy:
        added *= 2
    return bool(size + added > limit)


def test_random_texts_give_valid_payloads_cut_at_a_boundary_and_as_long_as_can_be() -> None:
    check_random_texts(400, seed=20261120)


@pytest.mark.soak
def test_twenty_thousand_random_texts() -> None:
    check_random_texts(20_000, seed=7)
