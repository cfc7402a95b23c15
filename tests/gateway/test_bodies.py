"""Bodies that come slowly, or not to their end."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.endpoints.multipart import name_in
from tests.e2e.inprocess import GatewayHere, gateway_here
from tests.server import TOKENS


@pytest.fixture
async def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GatewayHere]:
    monkeypatch.setattr("gateway.endpoints.bodies.PIECE_SECONDS", 0.2)
    async with gateway_here(tmp_path, monkeypatch) as here:
        yield here


@pytest.mark.parametrize(
    ("path", "content_type", "begun"),
    [
        ("/api/attachments", "image/png", b"\x89PNG\r\n\x1a\n and pixels"),
        ("/api/attachments", "multipart/form-data; boundary=x", b"--x\r\n"),
        (
            "/api/attachments",
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n\x89PNG\r\n\x1a\n',
        ),
        ("/api/demo/messages", "application/json", b'{"content": '),
    ],
)
async def test_a_body_that_stops_coming_is_given_up_and_leaves_nothing(
    gateway: GatewayHere, tmp_path: Path, path: str, content_type: str, begun: bytes
) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKENS['alice']}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: 1000\r\n\r\n"
    )
    writer.write(head.encode() + begun)
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"}}")
    writer.close()
    await writer.wait_closed()
    assert answer.split()[1] == b"408"
    assert b'"code":"timeout"' in answer
    assert b'"retryable":true' in answer
    assert [path for path in (tmp_path / "attachments").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "disposition",
    [
        "attachment; filename*",
        "attachment; filename*=",
        "attachment; filename*=utf-9''%ff",
        "attachment; filename*=UTF-8''%E2%82",
        "attachment; filename*0*=x''a; filename*1=b; filename*99999999999999999999=c",
        'attachment; filename="' + "\\" * 1000,
        "attachment; filename=\xff\xfe; filename*=UTF-8'de'%ZZ",
        ";" * 1000,
        "=;*=*;'''",
        "attachment; filename*=''" + "%41" * 1000,
    ],
)
def test_no_header_breaks_the_reading_of_a_name(disposition: str) -> None:
    name = name_in(disposition)
    assert name is None or isinstance(name, str)
