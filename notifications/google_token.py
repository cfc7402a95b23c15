"""The access token of a Google service account, by a signed assertion (RFC 7523)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import jwt
import msgspec

from notifications.errors import SendError
from notifications.http1 import Http1

__all__ = ["GoogleToken", "ServiceAccount", "TokenRefused"]

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_EARLY_SECONDS = 300.0


class ServiceAccount(msgspec.Struct, frozen=True):
    """What Google's console hands out as a JSON file."""

    project_id: str
    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105  an address

    @classmethod
    def load(cls, path: Path) -> ServiceAccount:
        """Raises OSError, or ValueError without a word of the file in it."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except msgspec.MsgspecError:
            raise ValueError("the FCM credentials are not a service account's JSON file") from None


class _Grant(msgspec.Struct):
    access_token: str
    expires_in: float = 3600.0


class TokenRefused(Exception):
    """Google gives no token. `permanent` if it refuses the account, else it may later."""

    def __init__(self, reason: str, *, permanent: bool, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.permanent = permanent
        self.retry_after = retry_after


class GoogleToken:
    """One token at a time; whoever needs a new one waits for the one request that gets it."""

    def __init__(
        self, account: ServiceAccount, endpoint: str | None, http: Http1, clock: Callable[[], float] = time.time
    ) -> None:
        """Raises ValueError if the account's key cannot sign."""
        self._account = account
        self._endpoint = endpoint or account.token_uri
        self._http = http
        self._clock = clock
        self._token = ""
        self._good_until = 0.0
        self._lock = asyncio.Lock()
        self._refusals = 0
        self._refused: TokenRefused | None = None
        try:
            self._assertion()
        except (ValueError, TypeError, jwt.PyJWTError):
            raise ValueError("the FCM credentials hold no RSA private key in PEM") from None

    async def get(self, *, within: float) -> str:
        """Raises TokenRefused. Those who waited for a refused request share its refusal."""
        if self._clock() < self._good_until:
            return self._token
        refusals = self._refusals
        async with self._lock:
            if self._clock() < self._good_until:
                return self._token
            if self._refused is not None and self._refusals != refusals:
                raise self._refused
            try:
                await self._fetch(within)
            except TokenRefused as refused:
                self._refusals += 1
                self._refused = refused
                raise
            return self._token

    def refused(self, used: str) -> None:
        """The service did not accept `used`: get another one next time."""
        if used == self._token:
            self._good_until = 0.0

    async def _fetch(self, within: float) -> None:
        form = urlencode({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": self._assertion()})
        headers = {"content-type": "application/x-www-form-urlencoded"}
        try:
            answer = await self._http.post(self._endpoint, headers, form.encode("ascii"), within=within)
        except SendError as failed:
            raise TokenRefused(f"token_{failed.reason}", permanent=False) from None
        if answer.status != 200:
            raise TokenRefused(
                f"token_status_{answer.status}",
                permanent=400 <= answer.status < 500 and answer.status != 429,
                retry_after=answer.retry_after(self._clock()),
            )
        try:
            grant = msgspec.json.decode(answer.body, type=_Grant)
        except msgspec.MsgspecError:
            raise TokenRefused("token_unreadable", permanent=False) from None
        self._token = grant.access_token
        self._good_until = self._clock() + max(grant.expires_in - _EARLY_SECONDS, grant.expires_in / 2)

    def _assertion(self) -> str:
        now = int(self._clock())
        return jwt.encode(
            {"iss": self._account.client_email, "scope": SCOPE, "aud": self._endpoint, "iat": now, "exp": now + 3600},
            self._account.private_key,
            algorithm="RS256",
            headers={"kid": self._account.private_key_id},
        )
