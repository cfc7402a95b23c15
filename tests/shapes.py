"""Checks JSON values against the JSON Schemas that the protocol publishes. Strict: what it does not know, it refuses.

Knows the part of JSON Schema that those schemas use, and takes a property that no schema names for a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gateway.protocol import schema

_KNOWN = {"$ref", "$defs", "title", "description", "default", "type", "enum", "const", "anyOf", "items"}
_KNOWN |= {"properties", "required", "additionalProperties"}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
CURSOR = re.compile(r"(\d+):(\d+)", re.ASCII)
_SERVER = schema()["server"]


class WrongShape(AssertionError):
    """A frame is not what the protocol says."""


def check_server_frame(frame: Mapping[str, Any]) -> None:
    """Raises `WrongShape` unless `frame` is one that a server may send."""
    kind = frame.get("type")
    if kind not in _SERVER:
        raise WrongShape(f"no such frame type: {kind!r}")
    # The answer to a late decision is an `approval_resolved` that is not logged, so it names no place.
    shown = {"cursor": "0:0", **frame} if kind == "approval_resolved" else frame
    check(shown, _SERVER[kind], _SERVER[kind].get("$defs", {}), str(kind))
    if _TIMESTAMP.fullmatch(frame["timestamp"]) is None:
        raise WrongShape(f"{kind}.timestamp: {frame['timestamp']!r}")
    if "cursor" in frame and CURSOR.fullmatch(frame["cursor"]) is None:
        raise WrongShape(f"{kind}.cursor: {frame['cursor']!r}")


def check(value: Any, wanted: Mapping[str, Any], definitions: Mapping[str, Any], where: str) -> None:
    """Raises `WrongShape` unless `value` is as the schema `wanted` says."""
    if unknown := set(wanted) - _KNOWN:
        raise WrongShape(f"{where}: this checker does not know {sorted(unknown)}")
    if "$ref" in wanted:
        check(value, definitions[wanted["$ref"].removeprefix("#/$defs/")], definitions, where)
        return
    if "anyOf" in wanted:
        problems = []
        for choice in wanted["anyOf"]:
            try:
                check(value, choice, definitions, where)
                return
            except WrongShape as problem:
                problems.append(str(problem))
        raise WrongShape("; ".join(problems))
    if "enum" in wanted and value not in wanted["enum"]:
        raise WrongShape(f"{where}: {value!r} is none of {wanted['enum']}")
    if "type" in wanted:
        is_bool_for_number = isinstance(value, bool) and wanted["type"] in ("integer", "number")
        if not isinstance(value, _TYPES[wanted["type"]]) or is_bool_for_number:
            raise WrongShape(f"{where}: expected {wanted['type']}, not {type(value).__name__}")
    if isinstance(value, dict):
        _check_object(value, wanted, definitions, where)
    if isinstance(value, list) and "items" in wanted:
        for index, item in enumerate(value):
            check(item, wanted["items"], definitions, f"{where}[{index}]")


def _check_object(
    value: Mapping[str, Any], wanted: Mapping[str, Any], definitions: Mapping[str, Any], where: str
) -> None:
    properties = wanted.get("properties", {})
    if missing := set(wanted.get("required", ())) - set(value):
        raise WrongShape(f"{where}: {sorted(missing)} missing")
    for name, item in value.items():
        if name in properties:
            check(item, properties[name], definitions, f"{where}.{name}")
        elif "additionalProperties" in wanted:
            check(item, wanted["additionalProperties"], definitions, f"{where}.{name}")
        elif properties:
            raise WrongShape(f"{where}: {name!r} is not in the schema")
