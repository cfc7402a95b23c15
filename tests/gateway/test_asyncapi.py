"""The AsyncAPI document and the golden frames: complete, and what the code sends and takes."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from gateway import protocol
from gateway.asyncapi import asyncapi
from tests.shapes import check_server_frame

DOCUMENT = asyncapi()
FRAMES = Path(__file__).parents[2] / "docs" / "frames"
GOLDEN = sorted(FRAMES.glob("*.json"))
SERVER: dict[str, Any] = {str(kind.__struct_config__.tag): kind for kind in protocol.AnyServerFrame.__args__}


def read(path: Path) -> tuple[str, str, dict[str, Any]]:
    side, _, kind = path.stem.partition("-")
    frame: dict[str, Any] = json.loads(path.read_text())
    return side, kind, frame


def validator(side: str, kind: str) -> jsonschema.Draft202012Validator:
    schema = DOCUMENT["components"]["messages"][f"{side}.{kind}"]["payload"]
    return jsonschema.Draft202012Validator({"components": DOCUMENT["components"], **schema})


def test_every_frame_is_a_message_of_the_document_in_its_direction() -> None:
    published = protocol.schema()
    wanted = {f"{side}.{kind}" for side in ("client", "server") for kind in published[side]}
    assert set(DOCUMENT["components"]["messages"]) == wanted
    assert set(DOCUMENT["channels"]["agent"]["messages"]) == wanted
    for name, side in (("fromClient", "client"), ("toClient", "server")):
        named = {one["$ref"].rpartition("/")[2] for one in DOCUMENT["operations"][name]["messages"]}
        assert named == {name for name in wanted if name.startswith(f"{side}.")}


def test_every_reference_leads_somewhere() -> None:
    for reference in set(re.findall(r"'#/([^']+)'", str(DOCUMENT))):
        place: Any = DOCUMENT
        for part in reference.split("/"):
            assert part in place, reference
            place = place[part]
    assert "$defs" not in str(DOCUMENT)


def test_there_is_a_golden_frame_of_every_type_and_no_other() -> None:
    names = {path.stem for path in GOLDEN}
    assert names == {name.replace(".", "-") for name in DOCUMENT["components"]["messages"]}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_golden_frame_is_one_that_the_code_takes_or_sends(path: Path) -> None:
    side, kind, frame = read(path)
    assert frame["type"] == kind
    validator(side, kind).validate(frame)
    if side == "client":
        decoded = protocol.decode(json.dumps(frame))
        assert set(frame) <= {"type", *type(decoded).model_fields}
    else:
        check_server_frame(frame)
        made = msgspec.convert(frame, SERVER[kind])
        assert json.loads(protocol.encode(made)) == frame
        shown = {name for name in made.__struct_fields__ if name not in ("truncated", "length", "retry_after")}
        assert shown <= set(frame), "a golden frame shows every field"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_frame_without_a_needed_field_does_not_pass(path: Path) -> None:
    side, kind, frame = read(path)
    payload = DOCUMENT["components"]["messages"][f"{side}.{kind}"]["payload"]
    whole = DOCUMENT["components"]["schemas"][payload["$ref"].rpartition("/")[2]] if "$ref" in payload else payload
    for name in whole["required"]:
        with pytest.raises(jsonschema.ValidationError):
            validator(side, kind).validate({key: value for key, value in frame.items() if key != name})
