"""Which web pages may call the gateway: the rule for the `Origin` header. No I/O.

A browser names the page's origin (RFC 6454) on every WebSocket handshake and cross-origin request; other
clients send none. The header protects people whose browser holds a token, not the gateway: it is no
replacement for one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

__all__ = ["Origin", "OriginRules", "origin_allowed", "origin_listed", "parse_origin"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin, or the part of one that an operator wrote down."""

    scheme: str | None
    """In lower case; None: any."""
    host: str
    """In lower case, an IPv6 address without its brackets."""
    port: int | None
    """As written, else the scheme's own; None if neither says."""

    @property
    def authority(self) -> tuple[str, int | None]:
        """Host and port, where 80, 443 and no port are the same: what is left when the scheme is ignored."""
        return self.host, None if self.port in (None, 80, 443) else self.port


class OriginRules(Protocol):
    """The settings that the rule looks at."""

    @property
    def public_url(self) -> str | None: ...

    @property
    def allowed_origins(self) -> Sequence[str]: ...


def parse_origin(text: str) -> Origin:
    """Read `scheme://host[:port]` or `host[:port]`.

    Raises:
        ValueError: it is neither; `null`, a wildcard and anything with a path, a query or a user are neither.
    """
    text = text.strip()
    with_scheme = _SCHEME.match(text) is not None
    parts = urlsplit(text if with_scheme else f"//{text}")
    host, port = parts.hostname, parts.port  # .port raises ValueError when out of range
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError("not an origin")
    if "*" in host or any(character.isspace() for character in text) or text.lower() == "null":
        raise ValueError("not an origin")
    scheme = parts.scheme if with_scheme else None
    return Origin(scheme, host.rstrip("."), port if port is not None else _DEFAULT_PORTS.get(scheme or ""))


def origin_allowed(origin: str | None, host_header: str | None, settings: OriginRules) -> bool:
    """Whether a request with these headers may go on.

    Allowed are: no origin at all; the host that the request was sent to, and that of `public_url`, under
    whatever scheme (TLS may end before the gateway); and the entries of `allowed_origins`. An entry with a
    scheme must agree in scheme, host and port; one without, in its host, and in its port if it has one.
    `null` (a sandboxed frame, a local file) is foreign.
    """
    if origin is None:
        return True
    try:
        asking = parse_origin(origin)
    except ValueError:
        return False
    if asking.scheme is None:
        return False
    for own in (host_header, settings.public_url and _origin_of(settings.public_url)):
        if own and _same_authority(asking, own):
            return True
    return _listed(asking, settings.allowed_origins)


def origin_listed(origin: str, allowed_origins: Sequence[str]) -> bool:
    """Whether `origin` is that of a page which the entries name: those alone may read answers across origins."""
    try:
        asking = parse_origin(origin)
    except ValueError:
        return False
    return asking.scheme is not None and _listed(asking, allowed_origins)


def _listed(asking: Origin, allowed_origins: Sequence[str]) -> bool:
    return any(_matches(asking, parse_origin(entry)) for entry in allowed_origins)


def _origin_of(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _same_authority(asking: Origin, own: str) -> bool:
    try:
        return parse_origin(own).authority == asking.authority
    except ValueError:
        return False


def _matches(asking: Origin, entry: Origin) -> bool:
    if entry.scheme is not None:
        return asking == entry
    return asking.host == entry.host and entry.port in (None, asking.port)
