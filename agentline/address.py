"""Where the gateway is, and who asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import TypeAlias
from urllib.parse import parse_qs, quote, urlencode, urlsplit

__all__ = ["Address", "Token", "address"]

Token: TypeAlias = str | Callable[[], str]
"""A token, or what returns the present one: called for every connection and every HTTP request."""


@dataclass(frozen=True, slots=True)
class Address:
    """A gateway and the credentials for it."""

    secure: bool
    authority: str
    """Host and port."""
    path: str
    """What stands before `/api`, where a reverse proxy puts the gateway under a path."""
    token: Token = field(repr=False)
    device_id: str | None
    tls: SSLContext | None
    """For a gateway whose certificate the system does not know."""

    def bearer(self) -> dict[str, str]:
        """The header that carries the token."""
        token = self.token if isinstance(self.token, str) else self.token()
        return {"Authorization": f"Bearer {token}"}

    @property
    def http(self) -> str:
        return f"http{'s' if self.secure else ''}://{self.authority}{self.path}"

    def socket(self, agent: str) -> str:
        """The URL of the agent's socket."""
        query = "" if self.device_id is None else f"?{urlencode({'device_id': self.device_id})}"
        return f"ws{'s' if self.secure else ''}://{self.authority}{self.path}/api/{quote(agent, safe='')}/ws{query}"


def address(url: str, token: Token | None, *, device_id: str | None = None, tls: SSLContext | None = None) -> Address:
    """The gateway at `url`: its base URL, or the link that the gateway prints, which holds the token in its fragment.

    Raises:
        ValueError: it is no such URL, or there is no token. Its text does not repeat the URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError("url: expected http://HOST:PORT or https://HOST, without a query or a user")
    if token is None:
        token = parse_qs(parts.fragment).get("token", [""])[0]
    if token == "":
        raise ValueError("a token is needed, as an argument or in the url's fragment")
    return Address(
        secure=parts.scheme in ("https", "wss"),
        authority=parts.netloc,
        path=parts.path.rstrip("/"),
        token=token,
        device_id=device_id,
        tls=tls,
    )
