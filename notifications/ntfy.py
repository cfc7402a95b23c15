"""The transport to the operator's ntfy server: push without an Apple or Google account."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from notifications import payload
from notifications.errors import NotSent, Unanswered
from notifications.http1 import Answer, Http1
from notifications.records import Device, Push
from notifications.verdict import Verdict

__all__ = ["Ntfy", "NtfySettings"]

_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PAUSE_CREDENTIALS = 300.0


@dataclass(frozen=True, slots=True)
class NtfySettings:
    server: str
    """`https://ntfy.example.org`; a device's token is only the topic on it."""
    token: str | None = None
    """An access token that may publish."""
    ca_path: Path | None = None
    request_seconds: float = 9.0
    connections: int = 20


class Ntfy:
    """An async context manager."""

    def __init__(self, settings: NtfySettings, *, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError, or ValueError for a server that is no URL."""
        parts = urlsplit(settings.server)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError("an ntfy server is a URL like https://ntfy.example.org")
        self._settings = settings
        self._clock = clock
        self._url = settings.server.rstrip("/") + "/"
        self._http = Http1(ca_path=settings.ca_path, connections=settings.connections)

    @property
    def limit(self) -> int:
        return self._settings.connections

    @property
    def channel_limit(self) -> int:
        return self.limit

    def channel(self, device: Device) -> str:
        return "ntfy"

    def refusal(self, device: Device) -> str:
        return "" if _TOPIC.fullmatch(device.token) else "invalid_topic"

    async def __aenter__(self) -> Ntfy:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def send(self, device: Device, push: Push, *, delivery_id: str, expires_at: int) -> Verdict:
        """A `seen` push has nothing to do here: ntfy keeps no badge, and a message would ring the phone."""
        if push.kind == "seen":
            return Verdict("sent")
        reason = self.refusal(device)
        if reason:
            return Verdict("refused", reason)
        try:
            body = payload.ntfy(push, device.token)
        except payload.PayloadTooLarge:
            return Verdict("refused", "payload_too_large")
        headers = {"content-type": "application/json"}
        if self._settings.token is not None:
            headers["authorization"] = f"Bearer {self._settings.token}"
        try:
            answer = await self._http.post(self._url, headers, body, within=self._settings.request_seconds)
        except NotSent as unsent:
            return Verdict("unsent", unsent.reason)
        except Unanswered as unanswered:
            return Verdict("unknown", unanswered.reason)
        return judge(answer, self._clock())


def judge(answer: Answer, now: float) -> Verdict:
    """What an answer of an ntfy server means. There is no such thing as a topic that is gone."""
    reason = f"status_{answer.status}"
    if 200 <= answer.status < 300:
        return Verdict("sent")
    if answer.status in (408, 425, 429) or answer.status >= 500:
        return Verdict("later", reason, answer.retry_after(now))
    if answer.status == 401:
        return Verdict("paused", reason, _PAUSE_CREDENTIALS)
    # 403 too: the access token may be barred from this one topic, which a user chose.
    return Verdict("refused", reason)
