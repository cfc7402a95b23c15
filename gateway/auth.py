"""Who is asking: tokens, and where in a request they stand."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from pydantic import SecretStr

from gateway.settings import OWNER, Settings

__all__ = [
    "SUBPROTOCOL",
    "AnyOf",
    "Authenticator",
    "HeaderToken",
    "Identity",
    "NoToken",
    "OwnerToken",
    "OwnerTokenError",
    "PresentedToken",
    "StaticTokens",
    "SubprotocolToken",
    "authenticator",
    "owner_token",
    "presented_token",
    "token_digest",
    "token_url",
    "users_of",
]

SUBPROTOCOL = "agentline.v1"
_BEARER_SUBPROTOCOL = "bearer."
_OWNER_TOKEN_FILE = "owner-token"  # noqa: S105 - a file's name


@dataclass(frozen=True, slots=True)
class Identity:
    """A user whose token was accepted."""

    user_id: str
    expires_at: float | None = None
    """Seconds since 1970 UTC; None: never."""
    owner: bool = False
    """Whether this is the person who runs the gateway."""
    token_id: str | None = None
    """Of a paired device's token, which may be revoked at any time; None: of a token that stays."""


class Authenticator(Protocol):
    """Turns a token into a user. One that is known takes no time worth mentioning."""

    async def authenticate(self, token: str) -> Identity | None:
        """Who the token belongs to; None if it is no good, for whatever reason."""
        ...


class StaticTokens:
    """One fixed token per user. The user `owner` has the owner's rights."""

    def __init__(self, tokens: Mapping[str, str | SecretStr]) -> None:
        self._users = tuple(
            (token_digest(_plain(token)), Identity(user, owner=user == OWNER)) for user, token in tokens.items()
        )

    async def authenticate(self, token: str) -> Identity | None:
        """As in `Authenticator`. How long it takes tells nothing about any token, nor which user's it is."""
        digest = token_digest(token)
        found = None
        for known, identity in self._users:
            if hmac.compare_digest(known, digest):
                found = identity
        return found


class AnyOf:
    """The first of several that knows the token."""

    def __init__(self, *authenticators: Authenticator) -> None:
        self._authenticators = authenticators

    async def authenticate(self, token: str) -> Identity | None:
        """As in `Authenticator`."""
        for one in self._authenticators:
            if (identity := await one.authenticate(token)) is not None:
                return identity
        return None


def users_of(settings: Settings) -> frozenset[str]:
    """Everybody whom the settings know: the token of a device is good for nobody else."""
    return frozenset(settings.auth.tokens or (OWNER,))


def authenticator(settings: Settings) -> Authenticator:
    """The one that the settings ask for. Reads, and at the very first start makes, the owner token's file.

    Raises:
        OwnerTokenError: the file cannot be read or made.
        SettingsError: the state directory cannot be used.
    """
    if settings.auth.tokens:
        return StaticTokens(settings.auth.tokens)
    return StaticTokens({OWNER: owner_token(settings).token})


class OwnerTokenError(Exception):
    """The owner token cannot be read or made. Its text is one line for the operator and does not hold the token."""


@dataclass(frozen=True, slots=True)
class OwnerToken:
    token: str = field(repr=False)
    path: Path
    created: bool
    """Whether this call made it: then it is shown, this once."""


def owner_token(settings: Settings) -> OwnerToken:
    """The token of the user `owner`, from its file in the state directory, which is made if it is not there.

    Processes that start at the same time get the same token: the file appears under its name whole, and once.

    Raises:
        OwnerTokenError, SettingsError
    """
    path = settings.prepare_state_dir() / _OWNER_TOKEN_FILE
    try:
        created = not path.exists() and _create(path, secrets.token_urlsafe(32))
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
        raise OwnerTokenError(f"the owner token's file {path} cannot be used: {reason}") from None
    if not token:
        raise OwnerTokenError(f"the owner token's file {path} is empty: remove it, and the next start makes a new one")
    return OwnerToken(token, path, created)


def _create(path: Path, token: str) -> bool:
    """Write the file with mode 0600, unless someone else was first. Returns whether it was us."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, this fails if the name is taken
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def token_url(base_url: str, token: str) -> str:
    """A link that opens the console signed in. The token is in the fragment, which browsers send to no server."""
    return f"{base_url}/#token={token}"


@dataclass(frozen=True, slots=True)
class NoToken:
    """The request shows none; one may follow as the first frame."""


@dataclass(frozen=True, slots=True)
class HeaderToken:
    """From `Authorization: Bearer`. A bad one is answered with HTTP 401."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SubprotocolToken:
    """From `Sec-WebSocket-Protocol`. A bad one is accepted and then closed: browsers cannot read a refused upgrade."""

    token: str = field(repr=False)
    """Empty, which is no one's token, if it could not be decoded."""


PresentedToken: TypeAlias = NoToken | HeaderToken | SubprotocolToken


def presented_token(authorization: str | None, subprotocols: Sequence[str] = ()) -> PresentedToken:
    """The token that a request shows; the header goes before the subprotocol.

    `authorization` of another scheme than Bearer counts as none: it is for a proxy on the way.
    """
    scheme, _, token = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return HeaderToken(token.strip())
    for offered in subprotocols:
        if offered.startswith(_BEARER_SUBPROTOCOL):
            return SubprotocolToken(_decode(offered.removeprefix(_BEARER_SUBPROTOCOL)))
    return NoToken()


def _decode(encoded: str) -> str:
    bare = encoded.rstrip("=")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        return ""


def _plain(token: str | SecretStr) -> str:
    return token.get_secret_value() if isinstance(token, SecretStr) else token


def token_digest(token: str) -> bytes:
    """What is kept and compared instead of a token: its SHA-256. Enough for tokens that nobody can guess."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
