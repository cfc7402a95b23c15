"""POST over HTTP/1.1, for FCM, Web Push and ntfy.

HTTP/1.1 on purpose: over HTTP/2 httpx2 lost 1,794 of 2,000 calls to a server that said GOAWAY every 300,
over HTTP/1.1 none. It goes through httpx2's transport, not its client: the client logs every URL, and a
Web Push endpoint is a secret; nor does a push ever follow a redirect or keep a cookie.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType

import httpx2

from notifications.errors import ConnectionFailed, NotSent, Unanswered

__all__ = ["Answer", "Http1"]

# At DEBUG it writes hosts and the headers of answers, which may repeat a secret URL.
logging.getLogger("httpcore2").setLevel(logging.WARNING)

_BODY_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    """At most 16 KiB of it."""

    def retry_after(self, now: float) -> float | None:
        """Seconds that `Retry-After` asks for, as a number or a date (RFC 9110 section 10.2.3); at most a day."""
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdigit():
            return min(float(value[:9]), 86_400.0)
        try:
            return min(max(0.0, parsedate_to_datetime(value).timestamp() - now), 86_400.0)
        except (ValueError, OverflowError):
            return None


class Http1:
    """A pool of connections to any hosts. An async context manager; leaving it closes them."""

    def __init__(self, *, ca_path: Path | None, connections: int, connect_seconds: float = 5.0) -> None:
        """Raises OSError or ssl.SSLError if the authorities cannot be read."""
        self._connect = connect_seconds
        self._transport = httpx2.AsyncHTTPTransport(
            verify=ssl.create_default_context(cafile=ca_path),
            http1=True,
            http2=False,
            trust_env=False,
            limits=httpx2.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=60
            ),
        )

    async def __aenter__(self) -> Http1:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, *, within: float) -> Answer:
        """One POST, answered within so many seconds.

        Raises:
            ConnectionFailed, NotSent, Unanswered
        """
        connect = min(self._connect, within)
        try:
            request = httpx2.Request(
                "POST",
                url,
                headers=dict(headers),
                content=body,
                extensions={"timeout": {"connect": connect, "pool": within, "write": within, "read": within}},
            )
        except (httpx2.InvalidURL, UnicodeError, ValueError):
            raise NotSent("invalid_url") from None
        try:
            async with asyncio.timeout(within):
                response = await self._transport.handle_async_request(request)
                async with aclosing(response):
                    return await _read(response)
        except httpx2.PoolTimeout:
            raise NotSent("pool_timeout") from None
        except httpx2.ConnectTimeout:
            raise ConnectionFailed("connect_timeout") from None
        except httpx2.ConnectError:
            raise ConnectionFailed("connect_failed") from None
        except (httpx2.UnsupportedProtocol, httpx2.LocalProtocolError):
            raise NotSent("invalid_request") from None
        except (TimeoutError, httpx2.TimeoutException):
            raise Unanswered("timeout") from None
        except httpx2.TransportError:
            raise Unanswered("connection_lost") from None


async def _read(response: httpx2.Response) -> Answer:
    body = bytearray()
    assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101  narrows what an async transport returns
    async for chunk in response.stream:
        body += chunk
        if len(body) > _BODY_BYTES:
            break
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, bytes(body[:_BODY_BYTES]))
