"""The transport to Apple's push service: requests, and what its answers mean.

Rules from Apple's "Sending notification requests to APNs" and "Handling notification responses from APNs".
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import msgspec

from notifications import payload
from notifications.errors import ConnectionFailed, NotSent, Unanswered
from notifications.http2 import Connection, Limits, Response
from notifications.provider_token import ProviderToken
from notifications.records import Device, Push
from notifications.verdict import Verdict

__all__ = ["PRODUCTION", "SANDBOX", "Apns", "ApnsSettings"]

PRODUCTION = "https://api.push.apple.com"
SANDBOX = "https://api.sandbox.push.apple.com"

_TOKEN = re.compile(r"[0-9A-Fa-f]{2,400}")
_TOPIC = re.compile(r"[A-Za-z0-9.-]{1,255}")

_GONE = frozenset({"Unregistered", "ExpiredToken"})
_OURS = frozenset(
    {
        "BadCertificate",
        "BadCertificateEnvironment",
        "Forbidden",
        "status_403",
        "InvalidProviderToken",
        "MissingProviderToken",
        "UnrelatedKeyIdInToken",
        "BadEnvironmentKeyIdInToken",
    }
)
"""Our credentials are wrong: no push gets through until an operator mends them, but none is at fault."""
_PAUSE_TOKEN_UPDATES = 60.0
_PAUSE_CREDENTIALS = 300.0


@dataclass(frozen=True, slots=True)
class ApnsSettings:
    key_path: Path
    key_id: str
    team_id: str
    topic: str
    """The app's bundle id, for devices that name none."""
    endpoint: str | None = None
    """Instead of Apple's, for both environments."""
    ca_path: Path | None = None
    """Trust only the authorities in this PEM file."""
    request_seconds: float = 9.0
    """How long an answer may take."""
    attempt_seconds: float = 14.0
    """For one `send`, with connecting and resending."""
    resends: int = 4
    """How often `send` repeats at once what was surely not sent."""
    limits: Limits = field(default_factory=Limits)


@dataclass(slots=True)
class _Host:
    """One APNs host and the one connection to it."""

    name: str
    port: int
    connection: Connection | None = None
    connecting: asyncio.Future[str] | None = None
    """While somebody connects; its result is the reason of the failure, or nothing."""


class Apns:
    """An async context manager; leaving it closes the connections."""

    def __init__(self, settings: ApnsSettings, *, clock: Callable[[], float] = time.time) -> None:
        """Reads the key and the authorities.

        Raises:
            OSError: a file cannot be read.
            ValueError: a file or a URL is not what it should be; the text holds no secret.
        """
        self._settings = settings
        self._token = ProviderToken(settings.key_path.read_text("ascii"), settings.key_id, settings.team_id, clock)
        self._context = ssl.create_default_context(cafile=settings.ca_path)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.set_alpn_protocols(["h2"])
        self._hosts = {
            "production": _host(settings.endpoint or PRODUCTION),
            "sandbox": _host(settings.endpoint or SANDBOX),
        }
        if settings.endpoint is not None:
            self._hosts["sandbox"] = self._hosts["production"]

    @property
    def limit(self) -> int:
        return self._settings.limits.streams

    @property
    def channel_limit(self) -> int:
        return self.limit

    def channel(self, device: Device) -> str:
        host = self._hosts[device.environment]
        return f"{host.name}:{host.port}"

    def refusal(self, device: Device) -> str:
        if not _TOKEN.fullmatch(device.token):
            return "BadDeviceToken"
        if not _TOPIC.fullmatch(device.app_id or self._settings.topic):
            return "BadTopic"
        return ""

    async def __aenter__(self) -> Apns:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._hosts.values():
            if host.connection is not None:
                await host.connection.close()
                host.connection = None

    async def send(self, device: Device, push: Push, *, delivery_id: str, expires_at: int) -> Verdict:
        reason = self.refusal(device)
        if reason:
            return Verdict("refused", reason)
        try:
            body = payload.apns(push)
        except payload.PayloadTooLarge:
            return Verdict("refused", "PayloadTooLarge")
        host = self._hosts[device.environment]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.attempt_seconds
        renewed = False
        last = Verdict("unsent", "no_attempt")
        for _ in range(1 + self._settings.resends):
            left = deadline - loop.time()
            if left <= 0.5:
                break
            token = self._token.current()
            try:
                async with asyncio.timeout(left):
                    connection = await self._connect(host)
                headers = self._headers(host, device, push, delivery_id, expires_at, token)
                within = min(self._settings.request_seconds, deadline - loop.time())
                response = await connection.request(headers, body, within=within)
            except ConnectionFailed as failed:
                if last.reason == failed.reason:
                    return last
                last = Verdict("unsent", failed.reason)
                continue
            except NotSent as unsent:
                last = Verdict("unsent", unsent.reason)
                continue
            except Unanswered as unanswered:
                return Verdict("unknown", unanswered.reason)
            except TimeoutError:
                return Verdict("unsent", "connect_timeout")
            reason, gone_at = _read(response)
            if reason == "ExpiredProviderToken" and not renewed and self._token.expired(token):
                renewed = True
                continue
            verdict = judge(response.status, reason, gone_at, _seconds(response.headers.get("retry-after")))
            if verdict.kind == "paused" and reason in _OURS and device.app_id not in (None, self._settings.topic):
                # The device chose the topic that our key does not open: nobody else has to wait for that.
                return Verdict("refused", reason)
            return verdict
        return last

    def _headers(
        self, host: _Host, device: Device, push: Push, delivery_id: str, expires_at: int, token: str
    ) -> list[tuple[str, str]]:
        return [
            (":method", "POST"),
            (":scheme", "https"),
            (":path", f"/3/device/{device.token}"),
            (":authority", host.name if host.port == 443 else f"{host.name}:{host.port}"),
            ("authorization", f"bearer {token}"),
            ("apns-id", delivery_id),
            ("apns-push-type", "alert"),
            # 5 spares the battery: nobody waits for a badge
            ("apns-priority", "5" if push.kind == "seen" else "10"),
            ("apns-expiration", str(max(1, expires_at // 1000))),
            ("apns-topic", device.app_id or self._settings.topic),
            ("apns-collapse-id", payload.collapse_id(push)),
            ("content-type", "application/json"),
        ]

    async def _connect(self, host: _Host) -> Connection:
        """The host's connection; a new one if there is none that takes requests.

        One connects for all who wait, and they share its failure: a dead host costs each one connect
        deadline, not one for everybody before it.
        """
        while host.connection is None or not host.connection.available:
            if host.connecting is not None:
                reason = await asyncio.shield(host.connecting)
                if reason:
                    raise ConnectionFailed(reason)
                continue
            host.connecting = asyncio.get_running_loop().create_future()
            reason = ""
            try:
                # A connection that was told to go away finishes its answers and closes by itself.
                host.connection = await Connection.open(host.name, host.port, self._context, self._settings.limits)
            except ConnectionFailed as failed:
                reason = failed.reason
                raise
            finally:
                # If this one was cancelled, the next of those who wait connects.
                host.connecting.set_result(reason)
                host.connecting = None
        return host.connection


def judge(status: int, reason: str, gone_at: int | None, retry_after: float | None) -> Verdict:
    """What an answer of APNs means. `reason` is its own word, or made of the status when the body has none."""
    if status == 200:
        return Verdict("sent")
    if status == 410 or reason in _GONE:
        return Verdict("gone", reason, gone_at=gone_at)
    if reason == "TooManyProviderTokenUpdates":
        return Verdict("paused", reason, retry_after=retry_after or _PAUSE_TOKEN_UPDATES)
    if reason == "ExpiredProviderToken" or reason in _OURS:
        return Verdict("paused", reason, retry_after=retry_after or _PAUSE_CREDENTIALS)
    if status == 429:
        return Verdict("later", reason, retry_after=retry_after, device_only=True)
    if status >= 500 or reason == "IdleTimeout":
        return Verdict("later", reason, retry_after=retry_after)
    return Verdict("refused", reason)


def _read(response: Response) -> tuple[str, int | None]:
    """Reason and timestamp of an answer; an empty or foreign body is none of Apple's but no failure of ours."""
    if response.status == 200:
        return "", None
    reason, gone_at = f"status_{response.status}", None
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        body = msgspec.json.decode(response.body)
        if isinstance(body, dict):
            word = body.get("reason")
            if isinstance(word, str) and re.fullmatch(r"[A-Za-z]{1,64}", word):
                reason = word
            stamp = body.get("timestamp")
            if isinstance(stamp, int) and not isinstance(stamp, bool):
                gone_at = stamp
    return reason, gone_at


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isascii() and value.isdigit() and len(value) < 8 else None


def _host(url: str) -> _Host:
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.hostname is None:
        raise ValueError("an APNs endpoint is a URL like https://api.push.apple.com")
    return _Host(parts.hostname, parts.port or 443)
