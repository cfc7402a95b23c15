"""Where a text may be cut without breaking what a person sees as one character."""

from __future__ import annotations

import re
from collections.abc import Callable

import regex

__all__ = ["largest_prefix", "well_formed"]

_ILL_FORMED = re.compile("[\x00\ud800-\udfff]")
_CLUSTER = regex.compile(r"\X")
_PLAIN = re.compile("[\x20-\x7e](?=[\x20-\x7e])")
_NEAR = 64


def well_formed(text: str) -> str:
    """`text` with NUL and lone surrogates as U+FFFD, one for one: no encoder and no database refuses it."""
    return _ILL_FORMED.sub("�", text)


def largest_prefix(text: str, most: int, fits: Callable[[str], bool]) -> str:
    """The longest prefix that `fits` and ends between two extended grapheme clusters (UAX #29).

    `most` is a number of code points that can surely not be exceeded; only so much of `text` is looked at,
    so the cost does not depend on its length. `fits` must hold for every prefix of a prefix it holds for.

    A text that begins with one cluster too large to fit (a megabyte of combining marks) gives the empty
    prefix: that too ends at a boundary, and whoever shows it has the title and can fetch the rest.
    """
    if len(text) <= most and fits(text):
        return text
    low, high = 0, min(most, len(text))
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[:middle]):
            low = middle
        else:
            high = middle - 1
    return text[: _boundary(text, low)]


def _boundary(text: str, at: int) -> int:
    """The last cluster boundary at or before `at`.

    Every rule of UAX #29 looks back any distance but ahead by only one code point, so the clusters up to
    and with the one that holds `at` come out right without seeing more. Between two printable ASCII
    characters there is always a boundary: most texts have one nearby to start from.
    """
    if at >= len(text):
        return len(text)
    start = 0
    for plain in _PLAIN.finditer(text, max(0, at - _NEAR), at + 1):
        start = plain.end()
    boundary = start
    for cluster in _CLUSTER.finditer(text[start : at + 1]):
        boundary = start + cluster.start()
    return boundary
