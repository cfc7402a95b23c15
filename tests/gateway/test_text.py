import random
from typing import Any

import msgspec
import pytest

from gateway.text import cut, cut_json, json_object, json_size, normalise, normalise_json

ALPHABET = [
    *'ab "\\/\n\t\r\x00\x01\x1f\x7f',
    "é",
    "\u2028",
    "\ufeff",
    "\uffff",
    "漢",
    "😀",
    "👨‍👩‍👧",
    "🇩🇪",
    "\U0010ffff",
]
BROKEN = [*ALPHABET, "\ud83d", "\ude00", "\ud800", "\udfff"]


def texts(count: int, alphabet: list[str], seed: int = 1) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices(alphabet, k=chance.randrange(60))) for _ in range(count)]


def values(count: int, alphabet: list[str] = ALPHABET) -> list[Any]:
    chance = random.Random(7)

    def value(depth: int) -> Any:
        kind = chance.randrange(7 if depth else 2)
        if kind == 0:
            return "".join(chance.choices(alphabet, k=chance.choice((0, 3, 50, 400))))
        if kind == 1:
            return chance.choice((None, True, False, 0, -1.5, 2**63))
        if kind < 5:
            return {
                "".join(chance.choices(alphabet, k=chance.choice((1, 5, 80)))): value(depth - 1)
                for _ in range(chance.randrange(6))
            }
        return [value(depth - 1) for _ in range(chance.choice((0, 2, 40)))]

    return [value(3) for _ in range(count)]


def test_normalised_text_can_always_be_encoded_and_stored() -> None:
    for text in texts(2_000, BROKEN):
        normal = normalise(text)
        assert "\x00" not in normal
        assert normal.encode("utf-8") is not None
        assert msgspec.json.decode(msgspec.json.encode(normal)) == normal
        assert normalise(normal) == normal


def test_good_text_is_left_as_it_is() -> None:
    for text in texts(500, [character for character in ALPHABET if character != "\x00"]):
        assert normalise(text) is text


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("a\x00b", "a\ufffdb"),
        ("é\x00", "é\ufffd"),
        ("\ud800", "\ufffd"),
        ("\udc00x", "\ufffdx"),
        ("\ud83d\ude00", "😀"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ud83d\ude00", "\ufffd😀"),
        ("\ufeffé", "\ufeffé"),
    ],
)
def test_each_unstorable_character_becomes_one_replacement(text: str, normal: str) -> None:
    assert normalise(text) == normal


def test_normalising_json_reaches_every_string_and_key() -> None:
    value = {"a\x00": ["\ud800", {"b": ("x\x00", 1, None, True, 1.5)}]}
    assert normalise_json(value) == {"a\ufffd": ["\ufffd", {"b": ["x\ufffd", 1, None, True, 1.5]}]}


def test_a_cut_text_is_the_longest_prefix_that_fits() -> None:
    chance = random.Random(3)
    for text in texts(1_500, ALPHABET):
        limit = chance.randrange(2, 120)
        piece = cut(text, limit)
        assert text.startswith(piece)
        assert json_size(piece) <= limit
        if len(piece) < len(text):
            assert json_size(text[: len(piece) + 1]) > limit


def test_cutting_to_nothing_gives_no_text() -> None:
    for limit in (-100, 0, 1, 2):
        assert cut("abc", limit) == ""


def test_a_cut_value_always_fits_and_is_still_json() -> None:
    chance = random.Random(4)
    for value in values(400):
        for limit in (2, 17, 64, chance.randrange(64, 4_000)):
            shortened = cut_json(value, limit)
            assert json_size(shortened) <= limit
            if json_size(value) <= limit:
                assert shortened == value


def test_a_cut_value_keeps_the_beginnings() -> None:
    value = {"command": "x" * 10_000, "cwd": "/srv", "files": [{"path": "y" * 300}] * 50}
    shortened = cut_json(value, 6_000)
    assert shortened["cwd"] == "/srv"
    assert value["command"].startswith(shortened["command"])
    assert len(shortened["command"]) > 50


@pytest.mark.parametrize(
    "value", [None, 1, "ab", [1], {"x": object()}, {"x": 2**64}, {"x": {"y": -(2**70)}}, {1: {2}.pop}]
)
def test_what_is_no_json_object_is_no_json_object(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        json_object(value)


def test_a_mapping_of_nesting_without_end_is_no_json_object() -> None:
    value: dict[str, Any] = {}
    value["x"] = value
    with pytest.raises(ValueError, match="JSON"):
        json_object(value)


def test_every_json_object_can_be_encoded_by_every_encoder() -> None:
    for value in values(300, BROKEN):
        made = json_object({"value": value, "nan": float("nan")})
        assert made["nan"] is None
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(made)) == made
