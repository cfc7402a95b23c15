"""Which version this is."""

from __future__ import annotations

from functools import cache
from importlib import metadata


@cache
def version() -> str:
    """The installed version; `unknown` when run from a tree that is not installed."""
    try:
        return metadata.version("agentline")
    except metadata.PackageNotFoundError:
        return "unknown"
