"""The transport to Firebase Cloud Messaging (HTTP v1), data messages only: the app decides what to show.

There is no `collapse_key`: FCM keeps messages of at most four keys for a phone that is away and drops the
others, so one key per turn would lose answers. A repeated message carries the same `turn_id`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import msgspec

from notifications import payload
from notifications.errors import NotSent, Unanswered
from notifications.google_token import GoogleToken, ServiceAccount, TokenRefused
from notifications.http1 import Answer, Http1
from notifications.records import Device, Push
from notifications.verdict import Verdict

__all__ = ["ENDPOINT", "Fcm", "FcmSettings"]

ENDPOINT = "https://fcm.googleapis.com"
_MOST_TTL = 28 * 86_400
_PAUSE_CREDENTIALS = 300.0
_DEFAULT_QUOTA_WAIT = 60.0
"""What Firebase asks for when a 429 names no time."""


@dataclass(frozen=True, slots=True)
class FcmSettings:
    credentials_path: Path
    endpoint: str | None = None
    token_endpoint: str | None = None
    """Instead of the one that the credentials name."""
    ca_path: Path | None = None
    request_seconds: float = 9.0
    attempt_seconds: float = 14.0
    connections: int = 50


class Fcm:
    """An async context manager."""

    def __init__(self, settings: FcmSettings, *, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError or ValueError, without a word of the credentials in it."""
        self._settings = settings
        self._clock = clock
        account = ServiceAccount.load(settings.credentials_path)
        self._http = Http1(ca_path=settings.ca_path, connections=settings.connections)
        self._token = GoogleToken(account, settings.token_endpoint, self._http, clock)
        base = (settings.endpoint or ENDPOINT).rstrip("/")
        self._url = f"{base}/v1/projects/{quote(account.project_id, safe='')}/messages:send"

    @property
    def limit(self) -> int:
        return self._settings.connections

    @property
    def channel_limit(self) -> int:
        return self.limit

    def channel(self, device: Device) -> str:
        return "fcm"

    def refusal(self, device: Device) -> str:
        token = device.token
        return "" if 0 < len(token) <= 4096 and token.isascii() and token.isprintable() else "INVALID_ARGUMENT"

    async def __aenter__(self) -> Fcm:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def send(self, device: Device, push: Push, *, delivery_id: str, expires_at: int) -> Verdict:
        reason = self.refusal(device)
        if reason:
            return Verdict("refused", reason)
        try:
            data = payload.fcm_data(push)
        except payload.PayloadTooLarge:
            return Verdict("refused", "payload_too_large")
        ttl = min(_MOST_TTL, max(0, expires_at // 1000 - int(self._clock())))
        message: dict[str, Any] = {
            "token": device.token,
            "data": data,
            "android": {"priority": "NORMAL" if push.kind == "seen" else "HIGH", "ttl": f"{ttl}s"},
        }
        body = msgspec.json.encode({"message": message})
        deadline = asyncio.get_running_loop().time() + self._settings.attempt_seconds
        verdict, token = await self._post(body, deadline)
        if verdict.reason == "UNAUTHENTICATED" and token:
            # Renew once: tokens can be revoked before their time.
            self._token.refused(token)
            verdict, _ = await self._post(body, deadline)
        return verdict

    async def _post(self, body: bytes, deadline: float) -> tuple[Verdict, str]:
        """The verdict, and the access token that was used, if it came so far."""
        loop = asyncio.get_running_loop()
        left = deadline - loop.time()
        if left < 0.5:
            return Verdict("unsent", "timeout"), ""
        try:
            async with asyncio.timeout(left / 2):
                token = await self._token.get(within=left / 2)
        except TokenRefused as refused:
            if refused.permanent:
                return Verdict("paused", refused.reason, refused.retry_after or _PAUSE_CREDENTIALS), ""
            return Verdict("unsent", refused.reason, refused.retry_after), ""
        except TimeoutError:
            return Verdict("unsent", "token_timeout"), ""
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        within = min(self._settings.request_seconds, deadline - loop.time())
        try:
            answer = await self._http.post(self._url, headers, body, within=within)
        except NotSent as unsent:
            return Verdict("unsent", unsent.reason), token
        except Unanswered as unanswered:
            return Verdict("unknown", unanswered.reason), token
        return judge(answer, self._clock()), token


class _Detail(msgspec.Struct):
    errorCode: str = ""


class _Error(msgspec.Struct):
    status: str = ""
    details: list[_Detail] = []


class _Body(msgspec.Struct):
    error: _Error


def judge(answer: Answer, now: float) -> Verdict:
    """What an answer of FCM means. Source: Firebase, "FCM error codes" and "Scale"."""
    if answer.status == 200:
        return Verdict("sent")
    known: _Error | None = None
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
        known = msgspec.json.decode(answer.body, type=_Body).error
    codes = [detail.errorCode for detail in known.details if detail.errorCode] if known else []
    reason = _word(codes[0] if codes else known.status if known else "") or f"status_{answer.status}"
    retry_after = answer.retry_after(now)
    if "UNREGISTERED" in codes or (answer.status == 404 and known is not None):
        # A 404 that is not in Google's words comes from a wrong endpoint: no reason to forget every phone.
        return Verdict("gone", reason)
    if answer.status == 401:
        return Verdict("paused", "UNAUTHENTICATED", retry_after or _PAUSE_CREDENTIALS)
    if answer.status == 403 and "SENDER_ID_MISMATCH" not in codes:
        return Verdict("paused", reason, retry_after or _PAUSE_CREDENTIALS)
    if answer.status == 429:
        return Verdict("later", reason, retry_after or _DEFAULT_QUOTA_WAIT)
    if answer.status >= 500 or (answer.status == 404 and known is None):
        return Verdict("later", reason, retry_after)
    return Verdict("refused", reason)


def _word(value: str) -> str:
    return value if value.isascii() and value.replace("_", "").isalnum() and len(value) <= 64 else ""
