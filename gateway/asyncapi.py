"""The sockets as an AsyncAPI 3.0 document, made of the frames' types."""

from __future__ import annotations

from typing import Any

from gateway.protocol import SUBPROTOCOL, schema
from providers.version import version

ADDRESS = "/api/{agent}/ws"
SCHEMAS = "#/components/schemas/"


def asyncapi() -> dict[str, Any]:
    """The document. The schemas are those of `agentline schema`, with what they share in one place."""
    published = schema()
    schemas: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    names: dict[str, list[str]] = {"client": [], "server": []}
    for side in ("client", "server"):
        for kind, frame in published[side].items():
            name = f"{side}.{kind}"
            payload = _hoisted(frame, schemas)
            messages[name] = {"name": kind, "contentType": "application/json", "payload": payload}
            names[side].append(name)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Agentline",
            "version": version(),
            "description": "The sockets between phones and AI agents; version 1 of the protocol. "
            "What frames mean and promise is in docs/protocol.md.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "agent": {
                "address": ADDRESS,
                "description": "One endpoint per agent; one JSON object per text message.",
                "parameters": {"agent": {"description": "An agent's name, as `GET /api/agents` lists it."}},
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {
                    "ws": {
                        "method": "GET",
                        "query": {"type": "object", "properties": {"device_id": {"type": "string"}}},
                        "headers": {
                            "type": "object",
                            "properties": {
                                "Authorization": {"type": "string", "description": "`Bearer` and a token"},
                                "Sec-WebSocket-Protocol": {
                                    "type": "string",
                                    "description": f"or {SUBPROTOCOL}, bearer.<base64url token>",
                                },
                            },
                        },
                    }
                },
            }
        },
        "operations": {
            "fromClient": {"action": "receive", **_over("agent", names["client"])},
            "toClient": {"action": "send", **_over("agent", names["server"])},
        },
        "components": {"messages": messages, "schemas": dict(sorted(schemas.items()))},
    }


def _over(channel: str, messages: list[str]) -> dict[str, Any]:
    return {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def _hoisted(value: Any, schemas: dict[str, Any]) -> Any:
    """A JSON Schema whose own definitions were moved to `schemas`.

    Raises:
        ValueError: two different types share a name.
    """
    if isinstance(value, list):
        return [_hoisted(item, schemas) for item in value]
    if not isinstance(value, dict):
        return value
    for name, definition in value.get("$defs", {}).items():
        moved = _hoisted(definition, schemas)
        if schemas.setdefault(name, moved) != moved:
            raise ValueError(f"two types have the name {name}")
    moved = {key: _hoisted(item, schemas) for key, item in value.items() if key != "$defs"}
    if isinstance(reference := moved.get("$ref"), str):
        moved["$ref"] = reference.replace("#/$defs/", SCHEMAS)
    return moved
