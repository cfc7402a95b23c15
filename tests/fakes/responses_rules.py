"""What the real Responses API would refuse in a request."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any


def problem(body: Any) -> str | None:
    """Why the real API would refuse the body, or None."""
    if not isinstance(body, dict):
        return "the body is not an object"
    if not isinstance(body.get("model"), str) or not body["model"]:
        return "model is missing"
    if body.get("stream") is not True:
        return "stream is not true"
    for tool in body.get("tools") or []:
        if not isinstance(tool, dict) or not isinstance(tool.get("type"), str):
            return "a tool has no type"
        if tool["type"] == "function" and not (isinstance(tool.get("name"), str) and "parameters" in tool):
            return "a function lacks name or parameters"
        if tool["type"] == "custom" and not isinstance(tool.get("name"), str):
            return "a custom tool lacks its name"
    given = body.get("input")
    if isinstance(given, str):
        return None if given else "input is empty"
    if not isinstance(given, list) or not given:
        return "input is neither text nor a list of items"
    return _items_problem(given)


_CONTENT = {
    "user": {"input_text", "input_image", "input_file", "input_audio"},
    "developer": {"input_text"},
    "system": {"input_text"},
    "assistant": {"output_text", "refusal"},
}
_FILES = {
    "input_image": ("image_url", ("data:image/png", "data:image/jpeg", "data:image/gif", "data:image/webp")),
    "input_file": ("file_data", ("data:application/pdf",)),
}


def _well_formed(part: dict[str, Any]) -> bool:
    """Whether a file is a `data:` URL of a type that the API reads. This fake takes no other form."""
    if part["type"] not in _FILES:
        return True
    name, kinds = _FILES[part["type"]]
    kind, _, data = str(part.get(name, "")).partition(";base64,")
    try:
        whole = bool(base64.b64decode(data, validate=True))
    except ValueError:
        whole = False
    return kind in kinds and whole and (part["type"] == "input_image" or bool(part.get("filename")))


_CALLS = {
    "function_call": ("name", "arguments"),
    "custom_tool_call": ("name", "input"),
    "local_shell_call": ("action",),
    "tool_search_call": ("arguments",),
}


def _items_problem(items: Iterable[Any]) -> str | None:
    open_calls: dict[str, str] = {}
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            return f"input[{index}] is not an object"
        kind = item.get("type", "message")
        if kind == "message":
            if item.get("role") not in _CONTENT:
                return f"input[{index}].role is wrong"
            content = item.get("content")
            if isinstance(content, str):
                continue
            if not isinstance(content, list) or not content:
                return f"input[{index}].content is empty"
            for part in content:
                if part.get("type") not in _CONTENT[item["role"]]:
                    return f"input[{index}].content has a part that the role {item['role']} may not send"
                if not _well_formed(part):
                    return f"input[{index}].content: a {part['type']} is not well formed"
        elif kind in _CALLS:
            if not isinstance(item.get("call_id"), str) or any(name not in item for name in _CALLS[kind]):
                return f"input[{index}] lacks a field of a {kind}"
            open_calls[item["call_id"]] = kind
        elif str(kind).endswith("_output"):
            expected = str(kind).removesuffix("_output")
            if open_calls.pop(item.get("call_id", ""), None) != expected + (
                "_call" if expected == "tool_search" else ""
            ):
                return f"input[{index}]: no {expected} for this output"
            if "output" not in item and "tools" not in item:
                return f"input[{index}].output is missing"
        elif kind == "reasoning":
            if not isinstance(item.get("summary"), list):
                return f"input[{index}].summary is missing"
        elif kind == "additional_tools":
            if item.get("role") != "developer" or not isinstance(item.get("tools"), list):
                return f"input[{index}] lacks a field of an additional_tools"
        elif kind not in {"web_search_call", "item_reference", "compaction", "image_generation_call"}:
            return f"input[{index}].type {kind!r} is unknown"
    if open_calls:
        return f"no output for {sorted(open_calls)}"
    return None
