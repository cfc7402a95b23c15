"""Google's token endpoint and FCM's HTTP v1 endpoint, strict about both."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.fakes.push_http import Action, Reply, Request, serve
from tests.fakes.push_tls import Authority

LIMIT = 4096
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"


def error(status: int, name: str, code: str | None = None, retry_after: str | None = None) -> Reply:
    """An error in Google's words."""
    details = [{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}] if code else []
    body = {"error": {"code": status, "message": "for people", "status": name, "details": details}}
    headers = {"content-type": "application/json"}
    if retry_after is not None:
        headers["retry-after"] = retry_after
    return Reply(status, json.dumps(body).encode(), headers)


@functools.cache
def _key() -> rsa.RSAPrivateKey:
    """One for all fakes of a run: making it takes longer than most tests."""
    return rsa.generate_private_key(65537, 2048)


@dataclass
class FcmFake:
    folder: Path
    project: str = "example-project"
    email: str = "sender@example-project.iam.gserviceaccount.com"
    latency: float = 0.0
    script: Callable[[int, dict[str, Any]], Action | None] = lambda number, message: None
    token_script: Callable[[int], Action | None] = lambda number: None
    messages: list[dict[str, Any]] = field(default_factory=list)
    """What reached phones."""
    requests: int = 0
    token_requests: int = 0
    tokens: set[str] = field(default_factory=set)
    """Access tokens in force."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    def __post_init__(self) -> None:
        key = _key()
        self.public = key.public_key()
        self.private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode("ascii")

    @property
    def times(self) -> Counter[str]:
        """How often each turn reached a phone."""
        return Counter(message["data"]["turn_id"] for message in self.messages)

    @property
    def credentials_path(self) -> Path:
        path = self.folder / "service-account.json"
        account = {
            "type": "service_account",
            "project_id": self.project,
            "private_key_id": "kid-1",
            "private_key": self.private,
            "client_email": self.email,
            "token_uri": f"{self.url}/token",
        }
        path.write_text(json.dumps(account), "utf-8")
        return path

    @asynccontextmanager
    async def serving(self, authority: Authority) -> AsyncIterator[FcmFake]:
        async with serve(self.handle, authority) as url:
            self.url = url
            yield self

    async def until(self, holds: Callable[[], bool], within: float = 15.0) -> None:
        async with asyncio.timeout(within):
            while not holds():
                self.arrived.clear()
                await self.arrived.wait()

    async def handle(self, request: Request) -> Action:
        if request.path == "/token":
            return self.grant(request)
        self.requests += 1
        action = self.receive(request, self.requests)
        if self.latency:
            await asyncio.sleep(self.latency)
        self.arrived.set()
        return action

    def grant(self, request: Request) -> Action:
        self.token_requests += 1
        scripted = self.token_script(self.token_requests)
        if scripted is not None:
            return scripted
        form = parse_qs(request.body.decode("ascii"), strict_parsing=True)
        try:
            assert request.method == "POST"
            assert request.headers["content-type"] == "application/x-www-form-urlencoded"
            assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
            claims = jwt.decode(
                form["assertion"][0],
                self.public,
                algorithms=["RS256"],
                audience=f"{self.url}/token",
                issuer=self.email,
                options={"require": ["iss", "aud", "iat", "exp", "scope"]},
            )
            assert claims["scope"] == SCOPE
            assert claims["exp"] - claims["iat"] <= 3600
            assert abs(claims["iat"] - time.time()) < 300
        except (AssertionError, KeyError, jwt.PyJWTError):
            return Reply(400, b'{"error": "invalid_grant"}')
        token = f"ya29.{self.token_requests}"
        self.tokens.add(token)
        return Reply(200, json.dumps({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}).encode())

    def receive(self, request: Request, number: int) -> Action:
        if request.path != f"/v1/projects/{self.project}/messages:send" or request.method != "POST":
            return Reply(404, b"<html>not here</html>")
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return error(401, "UNAUTHENTICATED")
        invalid = error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT")
        try:
            body = json.loads(request.body.decode("utf-8"))
            message = body["message"]
            data = message["data"]
            android = message["android"]
        except (ValueError, KeyError, TypeError):
            return invalid
        well_formed = (
            set(body) == {"message"}
            and set(message) <= {"token", "data", "android"}
            and set(android) <= {"priority", "ttl", "collapse_key"}
            and android.get("priority") in ("HIGH", "NORMAL")
            and re.fullmatch(r"\d+s", android.get("ttl", "")) is not None
            and int(android["ttl"][:-1]) <= 2_419_200
            and all(isinstance(key, str) and isinstance(value, str) for key, value in data.items())
            and not any(key in ("from", "message_type") or key.startswith(("google", "gcm")) for key in data)
            and len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()) <= LIMIT
        )
        if not well_formed:
            return invalid
        action = self.script(number, message)
        if action is not None:
            return action
        self.messages.append(message)
        name = f"projects/{self.project}/messages/{number}"
        return Reply(200, json.dumps({"name": name}).encode(), {"content-type": "application/json"})
