"""The kinds of values that settings have: what each must look like, and what becomes of it. Errors repeat no value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from gateway.origins import parse_origin

__all__ = ["Bytes", "DatabaseUrl", "Origins", "PublicUrl", "RedisUrl", "Seconds", "Tokens"]

_VISIBLE = re.compile(r"[!-~]+")
_REDIS_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_REDIS_TLS_WORDS = {"ssl_cert_reqs": ("required", "optional", "none"), "ssl_check_hostname": ("true", "false")}
"""With the files, what a `rediss://` URL may say behind its `?`. Of redis-py's other options some would change what
answers look like, or how long they may take."""


def _tokens(tokens: Any) -> Any:
    # Done before pydantic looks, so that no error's location is a key of the map: people swap user and token.
    if not isinstance(tokens, Mapping):
        raise ValueError("must be a map from user to token")
    seen: set[str] = set()
    for user, token in tokens.items():
        plain = token.get_secret_value() if isinstance(token, SecretStr) else token
        if not isinstance(user, str) or not 0 < len(user) <= 128 or not user.isprintable() or user != user.strip():
            raise ValueError("a user's name has 1 to 128 printable characters")
        if not isinstance(plain, str) or not _VISIBLE.fullmatch(plain):
            raise ValueError("a token is text of visible ASCII characters without spaces")
        if plain in seen:
            raise ValueError("two users have the same token")
        seen.add(plain)
    return tokens


def _origins(value: Any) -> Any:
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError("must be origins separated by commas")
    cleaned = tuple(entry.strip().rstrip("/") for entry in entries if entry.strip())
    for entry in cleaned:
        try:
            parse_origin(entry)
        except ValueError:
            raise ValueError("every entry must be scheme://host[:port] or host[:port]") from None
    return cleaned


def _public_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or "@" in parts.netloc or not _VISIBLE.fullmatch(value):
        raise ValueError("must be a URL such as https://chat.example.org, without user, query or fragment")
    return value.rstrip("/")


def _database_url(value: SecretStr) -> SecretStr:
    scheme, separator, rest = value.get_secret_value().partition("://")
    if scheme in ("postgres", "postgresql", "postgresql+asyncpg") and separator:
        return SecretStr(f"postgresql+asyncpg://{rest}")
    if scheme not in ("sqlite", "sqlite+aiosqlite") or not separator:
        raise ValueError("must begin with sqlite:/// or postgresql://")
    return SecretStr(f"sqlite://{rest}")


def _redis_url(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        if parts.scheme == "unix":
            named = not parts.hostname and len(parts.path) > 1
        else:
            named = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
            named = named and re.fullmatch(r"(/[0-9]*)?", parts.path) is not None
    except ValueError:
        named = False
    if not named or not options.get("db", "0").isdecimal():
        raise ValueError("must be a URL such as redis://:password@host:6379/0 or unix:///run/redis.sock?db=0")
    known = ["db", *_REDIS_TLS_FILES, *_REDIS_TLS_WORDS] if parts.scheme == "rediss" else ["db"]
    if not options.keys() <= set(known):
        raise ValueError(f"has an option that is not known here; known: {', '.join(known)}")
    for name in options.keys() & set(_REDIS_TLS_FILES):
        if not os.access(options[name], os.R_OK):
            raise ValueError(f"names with {name} a file that cannot be read")
    for name in options.keys() & _REDIS_TLS_WORDS.keys():
        if options[name] not in (words := _REDIS_TLS_WORDS[name]):
            raise ValueError(f"has for {name} something else than {', '.join(words[:-1])} or {words[-1]}")
    return value


Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bytes: TypeAlias = Annotated[int, Field(ge=1024, le=64 * 1024 * 1024)]
Tokens: TypeAlias = Annotated[dict[str, SecretStr], BeforeValidator(_tokens)]
"""User to token."""
Origins: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_origins)]
"""As a list, or as text with commas between."""
PublicUrl: TypeAlias = Annotated[str, AfterValidator(_public_url)]
"""Without a slash at the end."""
DatabaseUrl: TypeAlias = Annotated[SecretStr, AfterValidator(_database_url)]
"""With SQLAlchemy's driver where that is not the default."""
RedisUrl: TypeAlias = Annotated[SecretStr, AfterValidator(_redis_url)]
