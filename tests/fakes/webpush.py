"""A push service and the browser behind it: checks VAPID, then decrypts with the subscription's own key.

The decryption follows RFC 8291 by itself, with no code in common with the sender's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.fakes.push_http import Action, Reply, Request, serve
from tests.fakes.push_tls import Authority

LIMIT = 4096


def base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def unbase64url(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dataclass
class Browser:
    """One subscription, with the keys that only the browser has."""

    name: str
    application_server_key: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    secret: bytes = field(default_factory=lambda: os.urandom(16))
    shown: list[dict[str, Any]] = field(default_factory=list)

    @property
    def point(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)

    def decrypt(self, body: bytes) -> bytes:
        """RFC 8188 with the keys of RFC 8291. Raises ValueError."""
        if len(body) < 86 + 17:
            raise ValueError("too short")
        salt, record_size, key_length = body[:16], int.from_bytes(body[16:20]), body[20]
        if key_length != 65 or len(body) - 86 > record_size:
            raise ValueError("not a single record with a P-256 key")
        point = body[21:86]
        shared = self.key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))
        material = _hkdf(self.secret, shared, b"WebPush: info\0" + self.point + point, 32)
        content_key = _hkdf(salt, material, b"Content-Encoding: aes128gcm\0", 16)
        nonce = _hkdf(salt, material, b"Content-Encoding: nonce\0", 12)
        try:
            padded = AESGCM(content_key).decrypt(nonce, body[86:], None)
        except InvalidTag:
            raise ValueError("not for this browser") from None
        plain, delimiter, padding = padded.rpartition(b"\x02")
        if not delimiter or padding.strip(b"\0"):
            raise ValueError("no last record")
        return plain


def _hkdf(salt: bytes, material: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(material)


@dataclass
class WebPushFake:
    script: Callable[[int, Browser], Action | None] = lambda number, browser: None
    latency: float = 0.0
    browsers: dict[str, Browser] = field(default_factory=dict)
    requests: int = 0
    headers: list[dict[str, str]] = field(default_factory=list)
    vapid: set[str] = field(default_factory=set)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    @property
    def times(self) -> Counter[str]:
        """How often each turn was shown."""
        return Counter(shown["turn_id"] for browser in self.browsers.values() for shown in browser.shown)

    @asynccontextmanager
    async def serving(self, authority: Authority | None) -> AsyncIterator[WebPushFake]:
        async with serve(self.handle, authority) as url:
            self.url = url
            yield self

    async def until(self, holds: Callable[[], bool], within: float = 15.0) -> None:
        async with asyncio.timeout(within):
            while not holds():
                self.arrived.clear()
                await self.arrived.wait()

    def subscribe(self, name: str, application_server_key: str) -> str:
        """What the browser hands to the app: a subscription as JSON text."""
        browser = self.browsers[name] = Browser(name, application_server_key)
        return json.dumps(
            {
                "endpoint": f"{self.url}/push/{name}",
                "expirationTime": None,
                "keys": {"p256dh": base64url(browser.point), "auth": base64url(browser.secret)},
            }
        )

    async def handle(self, request: Request) -> Action:
        self.requests += 1
        action = self.receive(request, self.requests)
        if self.latency:
            await asyncio.sleep(self.latency)
        self.arrived.set()
        return action

    def receive(self, request: Request, number: int) -> Action:
        browser = self.browsers.get(request.path.removeprefix("/push/"))
        if browser is None:
            return Reply(410)
        refused = self.refusal(request, browser)
        if refused is not None:
            return refused
        action = self.script(number, browser)
        if action is not None:
            return action
        try:
            browser.shown.append(json.loads(browser.decrypt(request.body)))
        except ValueError:
            return Reply(400, b"undecryptable")  # a real service cannot tell; a test must
        self.headers.append(request.headers)
        return Reply(201, b"", {"location": f"{self.url}/message/{number}"})

    def refusal(self, request: Request, browser: Browser) -> Action | None:
        headers = request.headers
        found = re.fullmatch(r"vapid t=([\w.-]+), ?k=([\w-]+)", headers.get("authorization", ""))
        if request.method != "POST" or found is None:
            return Reply(401)
        token, key = found.groups()
        if key != browser.application_server_key:
            return Reply(403)
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64url(key))
        try:
            claims = jwt.decode(
                token, public, algorithms=["ES256"], audience=self.url, options={"require": ["aud", "exp", "sub"]}
            )
        except jwt.PyJWTError:
            return Reply(403)
        if claims["exp"] > time.time() + 86_400 or not claims["sub"].startswith(("mailto:", "https:")):
            return Reply(403)
        self.vapid.add(token)
        if not headers.get("ttl", "").isdigit() or int(headers["ttl"]) == 0:
            return Reply(400, b"no TTL")
        if headers.get("content-encoding") != "aes128gcm" or headers.get("urgency") not in ("low", "normal", "high"):
            return Reply(400)
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", headers.get("topic", "")):
            return Reply(400, b"topic")
        if len(request.body) > LIMIT:
            return Reply(413)
        return None
