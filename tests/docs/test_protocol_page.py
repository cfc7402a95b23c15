"""What docs/protocol.md shows as JSON are frames as the schema has them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.protocol import CLIENT_FRAMES, decode, schema
from tests.shapes import WrongShape, check_server_frame

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text("utf-8")
EXAMPLE_TIME = "2026-11-20T07:40:00.000Z"


def values(block: str) -> list[Any]:
    """The JSON values that stand one behind the other in a block."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while block[at:].strip():
        at += len(block[at:]) - len(block[at:].lstrip())
        value, at = decoder.raw_decode(block, at)
        found.append(value)
    return found


def timed(frame: Any) -> Any:
    """The frame with a time wherever the page shows `…` for one."""
    if isinstance(frame, dict):
        return {key: EXAMPLE_TIME if value == "…" else timed(value) for key, value in frame.items()}
    return [timed(value) for value in frame] if isinstance(frame, list) else frame


BLOCKS = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
INLINE = [code for code in re.findall(r"`(\{\"type\":[^`]*\})`", PAGE) if '"chunk"' not in code]


def test_the_page_shows_json() -> None:
    assert sum(len(values(block)) for block in BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_json_and_its_frames_fit_the_schema(block: str) -> None:
    for value in values(block):
        if isinstance(value, dict) and value.get("type") in schema()["server"]:
            check_server_frame(timed(value))
        elif isinstance(value, dict) and "type" in value:
            decode(json.dumps(value))


def test_a_frame_that_does_not_fit_is_found() -> None:
    (frame, *_) = values(BLOCKS[0])
    with pytest.raises(WrongShape):
        check_server_frame(timed({**frame, "contents": "Hel"}))


def test_client_frames_shown_in_passing_are_taken() -> None:
    assert INLINE
    for text in INLINE:
        decode(text)


def test_every_frame_of_the_schema_has_a_row() -> None:
    rows = set(re.findall(r"^\| `([a-z_]+)` \|", PAGE, re.MULTILINE))
    assert rows >= set(schema()["server"]) | set(CLIENT_FRAMES)
