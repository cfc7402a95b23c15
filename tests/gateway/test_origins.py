"""The rule for the `Origin` header."""

from __future__ import annotations

import pytest

from gateway.origins import origin_allowed, parse_origin
from gateway.settings import Settings

PLAIN = Settings()
PUBLIC = Settings(public_url="https://chat.example/base")
LISTED = Settings.model_validate({"allowed_origins": "https://app.example, bare.example, ported.example:3000"})


@pytest.mark.parametrize(
    ("origin", "host", "settings", "allowed"),
    [
        (None, "h:1", PLAIN, True),
        ("http://h:1", "h:1", PLAIN, True),
        ("https://h:1", "h:1", PLAIN, True),
        ("https://H", "h", PLAIN, True),
        ("https://h", "h:443", PLAIN, True),
        ("http://h", "h:80", PLAIN, True),
        ("https://h", "h:80", PLAIN, True),
        ("http://[::1]:8080", "[::1]:8080", PLAIN, True),
        ("http://h:2", "h:1", PLAIN, False),
        ("https://h:8443", "h", PLAIN, False),
        ("http://h.evil.example:1", "h:1", PLAIN, False),
        ("http://evil.example", "h:1", PLAIN, False),
        ("null", "h:1", PLAIN, False),
        ("null", "null", PLAIN, False),
        ("", "h:1", PLAIN, False),
        ("h:1", "h:1", PLAIN, False),
        ("http://h:1/path", "h:1", PLAIN, False),
        ("http://h:1@evil.example", "h:1", PLAIN, False),
        ("http://h:99999", "h:1", PLAIN, False),
        ("http://[", "h:1", PLAIN, False),
        ("http://h:1", None, PLAIN, False),
        ("http://h:1", "h:bad", PLAIN, False),
        ("https://chat.example", "127.0.0.1:8080", PUBLIC, True),
        ("http://chat.example", "127.0.0.1:8080", PUBLIC, True),
        ("https://chat.example:8443", "127.0.0.1:8080", PUBLIC, False),
        ("https://app.example", "h", LISTED, True),
        ("https://app.example:443", "h", LISTED, True),
        ("http://app.example", "h", LISTED, False),
        ("https://app.example:444", "h", LISTED, False),
        ("https://sub.app.example", "h", LISTED, False),
        ("http://bare.example", "h", LISTED, True),
        ("https://bare.example:9", "h", LISTED, True),
        ("http://ported.example:3000", "h", LISTED, True),
        ("http://ported.example", "h", LISTED, False),
        ("capacitor://bare.example", "h", LISTED, True),
    ],
)
def test_pages_of_the_own_host_and_listed_ones_may_call_and_others_may_not(
    origin: str | None, host: str | None, settings: Settings, allowed: bool
) -> None:
    assert origin_allowed(origin, host, settings) is allowed


@pytest.mark.parametrize("text", ["", "*", "https://*.example", "null", "NULL", "https://", "a b", "http://a?b", "a#b"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an origin"):
        parse_origin(text)
