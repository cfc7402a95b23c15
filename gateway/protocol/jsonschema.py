"""The frames of both sides as JSON Schema, for machines."""

from __future__ import annotations

from typing import Any

import msgspec
from pydantic import TypeAdapter

from gateway.protocol.codes import VERSION
from gateway.protocol.incoming import CLIENT_FRAMES
from gateway.protocol.outgoing import AnyServerFrame


def schema() -> dict[str, Any]:
    """The JSON Schema of every frame: `client` and `server`, by frame type."""
    server = {kind.__struct_config__.tag: kind for kind in AnyServerFrame.__args__}
    return {
        "protocol": VERSION,
        "client": {name: TypeAdapter(model).json_schema() for name, model in CLIENT_FRAMES.items()},
        "server": {str(name): msgspec.json.schema(kind) for name, kind in server.items()},
    }
