"""`agentline pair`: ask the running gateway for a one-time code, and draw it.

Through the gateway, not its database: a phone can only pair while it runs, a second program writing to the database
could be of another version, and it works the same wherever the database is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO

import httpx2
import msgspec

from gateway.auth import owner_token
from gateway.pairing import Picture
from gateway.settings import OWNER, Settings, SettingsError

ANSWER_SECONDS = 10.0


class PairFailed(Exception):
    """There is no code. Its text is one line for the operator."""


class _Code(msgspec.Struct):
    url: str
    warning: str | None


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    token: str


def show_code(settings: Settings, user: str | None, out: TextIO, err: TextIO) -> None:
    """Draw the picture on `out`; warn on `err` where a phone could not reach what it says.

    Raises:
        SettingsError: there is no such user, or no port to ask at.
        PairFailed: the gateway does not answer, or refuses.
        OwnerTokenError
    """
    if settings.port == 0:
        raise SettingsError("the port is 0, which may be any: give the gateway's with --port")
    asking = _user(settings, user)
    code = _ask(settings.model_copy(update={"public_url": None}).base_url(), asking)
    for line in Picture.of(code.url).lines(colours=out.isatty()):
        out.write(f"{line}\n")
    out.write(f"{code.url}\n")
    out.flush()
    err.write(f"scan this within two minutes to pair a device of {asking.name}; it works once\n")
    if code.warning is not None:
        err.write(f"warning: {code.warning}\n")
    err.flush()


def _user(settings: Settings, name: str | None) -> _User:
    tokens = settings.auth.tokens
    if not tokens:
        if name not in (None, OWNER):
            raise SettingsError(f"there is no user {name!r}: without AGENTLINE_AUTH__TOKENS there is only {OWNER!r}")
        return _User(OWNER, owner_token(settings).token)
    if name is None:
        if OWNER not in tokens and len(tokens) > 1:
            raise SettingsError(f"say for whom with --user, one of: {', '.join(tokens)}")
        name = OWNER if OWNER in tokens else next(iter(tokens))
    if name not in tokens:
        raise SettingsError(f"there is no user {name!r}; there are: {', '.join(tokens)}")
    return _User(name, tokens[name].get_secret_value())


def _ask(base_url: str, user: _User) -> _Code:
    try:
        with httpx2.Client(timeout=ANSWER_SECONDS, trust_env=False) as http:  # never through a proxy
            answer = http.post(f"{base_url}/api/pair/codes", headers={"Authorization": f"Bearer {user.token}"})
    except httpx2.HTTPError:
        raise PairFailed(
            f"no gateway answers at {base_url}: start it, or say where it is with --host, --port"
        ) from None
    if answer.status_code == 401:
        raise PairFailed(
            f"the gateway at {base_url} does not take the token of {user.name!r}: does it run with these settings?"
        )
    try:
        if answer.status_code != 200:
            raise ValueError
        return msgspec.json.decode(answer.content, type=_Code)
    except (ValueError, msgspec.DecodeError):
        raise PairFailed(f"what answers at {base_url} made no code: HTTP status {answer.status_code}") from None
