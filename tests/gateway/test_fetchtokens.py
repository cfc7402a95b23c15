from __future__ import annotations

import pytest

from gateway.fetchtokens import FetchTokens

HOUR = 3_600_000
tokens = FetchTokens(b"k" * 32)


def test_a_token_opens_its_turn_until_it_expires() -> None:
    token = tokens.make("u-1", 10 * HOUR)
    assert tokens.opens(token, "u-1", HOUR)
    assert tokens.opens(token, "u-1", 10 * HOUR - 1)
    assert not tokens.opens(token, "u-1", 10 * HOUR)


def test_a_token_opens_no_other_turn_and_none_under_another_key() -> None:
    token = tokens.make("u-1", 10 * HOUR)
    assert not tokens.opens(token, "u-2", HOUR)
    assert not FetchTokens(b"x" * 32).opens(token, "u-1", HOUR)


def test_the_expiry_cannot_be_moved() -> None:
    expiry, _, signature = tokens.make("u-1", HOUR).partition(".")
    later = f"{int(expiry, 16) + 3600:x}.{signature}"
    assert not tokens.opens(later, "u-1", HOUR // 2)


@pytest.mark.parametrize("token", ["", ".", "zz.", "a.b.c", "é.ü", "0x10.", "-1.x", " " * 5000])
def test_what_is_no_token_opens_nothing_and_raises_nothing(token: str) -> None:
    assert not tokens.opens(token, "u-1", 0)
