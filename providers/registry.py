"""Finding providers: entry points of the group `agentline.providers`, imported only when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from providers.base import Provider
from providers.errors import UnknownProvider

__all__ = ["GROUP", "create", "installed"]

GROUP = "agentline.providers"


def installed() -> dict[str, EntryPoint]:
    """The providers that installed packages offer, by name. Imports none of them."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def create(name: str, options: Mapping[str, Any]) -> Provider:
    """Import the provider `name` and make it with `options` as keyword arguments.

    Raises:
        UnknownProvider: no installed package offers it.
        ImportError: its package lacks something, an extra for instance.
        TypeError: an option that the provider does not know.
        ValueError: an option that is missing or wrong.
    """
    found = installed()
    if name not in found:
        raise UnknownProvider(name, tuple(sorted(found)))
    factory = cast("Callable[..., Provider]", found[name].load())
    return factory(**options)
