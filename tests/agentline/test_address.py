"""Where the gateway is said to be."""

from __future__ import annotations

import pytest

from agentline import Agentline
from agentline.address import address


@pytest.mark.parametrize(
    ("url", "http", "socket"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "ws://127.0.0.1:8080/api/claude/ws"),
        ("https://chat.example/", "https://chat.example", "wss://chat.example/api/claude/ws"),
        ("https://example.org/agents/", "https://example.org/agents", "wss://example.org/agents/api/claude/ws"),
        ("wss://[::1]:8443", "https://[::1]:8443", "wss://[::1]:8443/api/claude/ws"),
    ],
)
def test_a_base_url_leads_to_both_interfaces(url: str, http: str, socket: str) -> None:
    found = address(url, "token")
    assert found.http == http
    assert found.socket("claude") == socket


def test_names_in_a_url_are_quoted() -> None:
    found = address("http://h", "token", device_id="my phone/1")
    assert found.socket("a/b") == "ws://h/api/a%2Fb/ws?device_id=my+phone%2F1"


def test_the_owners_link_is_enough() -> None:
    assert address("http://127.0.0.1:8080/#token=abc", None).bearer() == {"Authorization": "Bearer abc"}


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://h", "http://", "http://u:secret@h", "http://h?token=secret"]
)
def test_what_is_no_base_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="url: expected") as raised:
        Agentline(url, "token")
    assert "secret" not in str(raised.value)


def test_a_token_is_needed() -> None:
    with pytest.raises(ValueError, match="a token is needed"):
        Agentline("http://h")
