"""The transport to browsers and UnifiedPush: encrypted for the device (RFC 8291), signed by us (VAPID, RFC 8292).

The encryption is `http_ece`, which pywebpush uses too. Not pywebpush itself: its request waits 10,000 s by
default, reads answers of any size, signs anew for every push, and importing it costs 0.4 s.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

import http_ece  # type: ignore[import-untyped]  # ships no types
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from notifications import payload
from notifications.errors import NotSent, Unanswered
from notifications.http1 import Answer, Http1
from notifications.records import Device, Push
from notifications.verdict import Verdict

__all__ = ["Subscription", "WebPush", "WebPushSettings", "public_key"]

_TOKEN_SECONDS = 12 * 3600
"""RFC 8292 section 2 allows at most 24 hours."""
_MOST_TTL = 28 * 86_400
_TOKENS = 1000
_INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class WebPushSettings:
    private_key_path: Path
    """A P-256 private key in PEM."""
    subject: str
    """`mailto:` or `https:` of the operator, for push services that have something to say."""
    ca_path: Path | None = None
    allow_http: bool = False
    """Endpoints without TLS, for a UnifiedPush server in one's own network."""
    request_seconds: float = 9.0
    connections: int = 100
    per_service: int = 25
    """How many pushes may be under way to one push service: a slow one leaves room for the others."""


class _Keys(msgspec.Struct, frozen=True):
    p256dh: str
    auth: str


class Subscription(msgspec.Struct, frozen=True):
    """`PushSubscription.toJSON()` of a browser, or what a UnifiedPush connector hands out."""

    endpoint: str
    keys: _Keys

    @classmethod
    def parse(cls, text: str, *, allow_http: bool = False) -> Subscription:
        """Raises ValueError, without a word of `text` in it, for what no push could be sent to."""
        try:
            found = msgspec.json.decode(text, type=cls)
            parts = urlsplit(found.endpoint)
            schemes = ("https", "http") if allow_http else ("https",)
            if parts.scheme not in schemes or not parts.hostname or parts.username is not None or parts.port == 0:
                raise ValueError
            if len(found.endpoint) > 2048 or not found.endpoint.isascii() or not found.endpoint.isprintable():
                raise ValueError
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), _unbase64(found.keys.p256dh))
            if len(_unbase64(found.keys.auth)) != 16:
                raise ValueError
        except (msgspec.MsgspecError, ValueError, UnicodeError):
            raise ValueError("this is not a Web Push subscription") from None
        return found

    @property
    def origin(self) -> str:
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc}".lower()


class WebPush:
    """An async context manager."""

    def __init__(self, settings: WebPushSettings, *, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError, or ValueError without a word of the key in it."""
        self._settings = settings
        self._clock = clock
        self._key = _private_key(settings.private_key_path)
        self._public = public_key(self._key)
        self._http = Http1(ca_path=settings.ca_path, connections=settings.connections)
        self._tokens: dict[str, tuple[str, float]] = {}

    @property
    def limit(self) -> int:
        return self._settings.connections

    @property
    def channel_limit(self) -> int:
        return self._settings.per_service

    @property
    def application_server_key(self) -> str:
        """What a browser's `pushManager.subscribe` wants as `applicationServerKey`."""
        return self._public

    def channel(self, device: Device) -> str:
        try:
            return Subscription.parse(device.token, allow_http=self._settings.allow_http).origin
        except ValueError:
            return _INVALID

    def refusal(self, device: Device) -> str:
        return "invalid_subscription" if self.channel(device) == _INVALID else ""

    async def __aenter__(self) -> WebPush:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, trace)

    async def send(self, device: Device, push: Push, *, delivery_id: str, expires_at: int) -> Verdict:
        try:
            subscription = Subscription.parse(device.token, allow_http=self._settings.allow_http)
        except ValueError:
            return Verdict("refused", "invalid_subscription")
        try:
            plain = payload.webpush(push)
        except payload.PayloadTooLarge:
            return Verdict("refused", "payload_too_large")
        now = self._clock()
        headers = {
            "authorization": f"vapid t={self._token(subscription.origin, now)}, k={self._public}",
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(min(_MOST_TTL, max(0, expires_at // 1000 - int(now)))),
            "urgency": "low" if push.kind == "seen" else "high",
            # A later push of the same turn replaces one that the browser has not fetched yet.
            "topic": payload.topic(push),
        }
        body = encrypt(plain, subscription)
        try:
            answer = await self._http.post(subscription.endpoint, headers, body, within=self._settings.request_seconds)
        except NotSent as unsent:
            return Verdict("unsent", unsent.reason)
        except Unanswered as unanswered:
            return Verdict("unknown", unanswered.reason)
        return judge(answer, now)

    def _token(self, origin: str, now: float) -> str:
        """The VAPID token for one push service, used for half its life."""
        token, good_until = self._tokens.get(origin, ("", 0.0))
        if now < good_until <= now + _TOKEN_SECONDS:
            return token
        claims = {"aud": origin, "exp": int(now) + _TOKEN_SECONDS, "sub": self._settings.subject}
        token = jwt.encode(claims, self._key, algorithm="ES256")
        if len(self._tokens) >= _TOKENS:
            self._tokens.clear()  # origins come from users' subscriptions
        self._tokens[origin] = (token, now + _TOKEN_SECONDS / 2)
        return token


def encrypt(plain: bytes, subscription: Subscription) -> bytes:
    """One record of aes128gcm, under a key of its own."""
    sealed: bytes = http_ece.encrypt(
        plain,
        private_key=ec.generate_private_key(ec.SECP256R1()),
        dh=_unbase64(subscription.keys.p256dh),
        auth_secret=_unbase64(subscription.keys.auth),
        version="aes128gcm",
    )
    return sealed


def judge(answer: Answer, now: float) -> Verdict:
    """What an answer of a push service means (RFC 8030 sections 5 and 7.3)."""
    reason = f"status_{answer.status}"
    if answer.status in (200, 201, 202, 204):
        return Verdict("sent")
    if answer.status in (404, 410):
        return Verdict("gone", reason)
    if answer.status in (408, 425, 429) or answer.status >= 500:
        return Verdict("later", reason, answer.retry_after(now), device_only=answer.status == 429)
    # 401 and 403 too: a subscription made with another application server key concerns this device only.
    return Verdict("refused", reason)


def public_key(key: ec.EllipticCurvePrivateKey) -> str:
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return base64.urlsafe_b64encode(point).rstrip(b"=").decode("ascii")


def _private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError):
        raise ValueError("the Web Push key is not a P-256 private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the Web Push key is not a P-256 private key in PEM")
    return key


def _unbase64(text: str) -> bytes:
    """Base64url with or without padding; browsers leave it out, some connectors write plain base64."""
    plain = text.replace("+", "-").replace("/", "_").rstrip("=")
    try:
        return base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except binascii.Error:
        raise ValueError from None
