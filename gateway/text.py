"""Text at the edges: what may not pass, and what is too long. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL, which Postgres refuses, and lone surrogates, which no encoder takes."""


def normalise(text: str) -> str:
    """`text` with each NUL and lone surrogate replaced by U+FFFD. A pair of surrogates that stand together
    becomes the character that they encode."""
    if text.isascii():
        return text.replace("\x00", "\ufffd") if "\x00" in text else text
    if _UNSTORABLE.search(text) is None:
        return text
    paired = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return paired.replace("\x00", "\ufffd")


def normalise_json(value: Any) -> Any:
    """A JSON value with every string in it normalised, keys included."""
    if isinstance(value, str):
        return normalise(value)
    if isinstance(value, dict):
        return {normalise(key): normalise_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [normalise_json(item) for item in value]
    return value


def json_object(value: Any) -> dict[str, Any]:
    """A mapping as a JSON object that every encoder and database takes; NaN becomes null.

    Raises:
        ValueError: it is no mapping, or something in it is no JSON value or a number beyond 64 bits.
    """
    try:
        made: dict[str, Any] = json_value(dict(value))
    except (TypeError, ValueError):
        raise ValueError("not made of JSON values") from None
    return made


def json_value(value: Any) -> Any:
    """Any JSON value, as `json_object` makes an object. Raises `ValueError`."""
    try:
        plain = normalise_json(msgspec.to_builtins(value, str_keys=True))
        made = msgspec.json.decode(msgspec.json.encode(plain))
        msgspec.msgpack.encode(made)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        raise ValueError("not made of JSON values") from None
    return made


def json_size(value: object) -> int:
    """Bytes that `value` takes in a frame."""
    return len(msgspec.json.encode(value))


def cut(text: str, limit: int) -> str:
    """The longest prefix of `text`, in code points, whose JSON form takes at most `limit` bytes, quotes included."""
    if len(text) * 6 + 2 <= limit or json_size(text) <= limit:
        return text
    low, high = 0, min(len(text), limit)
    while low < high:
        middle = (low + high + 1) // 2
        if json_size(text[:middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def cut_json(value: Any, limit: int) -> Any:
    """`value` with its longest strings and lists cut until its JSON form takes at most `limit` bytes.

    A person still sees the beginning of each; what has no such beginning becomes `{}`.
    """
    length = max(limit // 2, 1)
    while json_size(value) > limit:
        if length < 8:
            return {}
        value = _shortened(value, length)
        length //= 2
    return value


def _shortened(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return value[:length]
    if isinstance(value, dict):
        return {key[:length]: _shortened(item, length) for key, item in list(value.items())[:length]}
    if isinstance(value, list):
        return [_shortened(item, length) for item in value[:length]]
    return value


def snippet(content: str, words: Sequence[str], around: int = 80) -> str:
    """About `around` characters on either side of the first of the words in `content`, on one line."""
    match = re.search("|".join(re.escape(word) for word in words), content, re.IGNORECASE)
    begin, end = match.span() if match else (0, 0)
    first, last = max(begin - around, 0), min(end + around, len(content))
    shown = " ".join(content[first:last].split())
    return ("…" if first else "") + shown + ("…" if last < len(content) else "")
