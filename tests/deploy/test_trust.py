"""Who asks, from where, and what of it is written down: what a proxy tells the gateway, and its log."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from tests.client import Client
from tests.deploy.conftest import OWNER, NewClient, NewGateway, NewProxy
from tests.deploy.proxies import IMPATIENT, PROXIES, Proxy
from tests.fakes.push_tls import make_authority
from tests.server import ROOT, TOKENS, GatewayProcess

PUBLIC = "chat.example.org"
LIES = {
    "X-Forwarded-For": "127.0.0.1",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "Forwarded": "for=127.0.0.1;host=evil.example",
    "X-Real-IP": "127.0.0.1",
}


async def opened(client: Client) -> int:
    """The status of its upgrade."""
    try:
        await client.connect()
    except InvalidStatus as refused:
        return refused.response.status_code
    await client.close()
    return 101


async def test_a_page_of_the_public_host_may_connect_and_a_foreign_one_may_not(
    proxy: Proxy, new_client: NewClient
) -> None:
    own = f"http://127.0.0.1:{proxy.port}"
    assert await opened(new_client(proxy, browser=True, origin=own)) == 101
    assert await opened(new_client(proxy, browser=True, origin=f"https://127.0.0.1:{proxy.port}")) == 101
    for foreign in ("https://evil.example", f"http://127.0.0.1:{proxy.port + 1}", "http://localhost", "null"):
        assert await opened(new_client(proxy, browser=True, origin=foreign)) == 403


async def test_metrics_through_a_proxy_want_the_owner_s_token(proxy: Proxy, gateway: GatewayProcess) -> None:
    async with httpx2.AsyncClient(base_url=gateway.url, trust_env=False) as direct:
        assert (await direct.get("/metrics")).status_code == 200, "open to this machine itself"
    async with proxy.http(None) as http:
        for headers in ({}, LIES, {**LIES, "Host": "localhost"}, {"Host": "127.0.0.1"}, {"X-Forwarded-For": ""}):
            assert (await http.get("/metrics", headers=headers)).status_code == 401, headers
        assert (await http.get("/metrics", headers={"Authorization": f"Bearer {OWNER}"})).status_code == 200
        alice = {"Authorization": f"Bearer {TOKENS['alice']}"}
        assert (await http.get("/metrics", headers=alice)).status_code == 403


@pytest.mark.parametrize("name", sorted(PROXIES))
async def test_the_gateway_learns_who_asked_whatever_he_says_himself(
    name: str, tmp_path: Path, new_proxy: NewProxy
) -> None:
    process = GatewayProcess(
        tmp_path / "echo", {"HOST": "127.0.0.2"}, command=(str(ROOT / "tests/deploy/echo.py"), "serve", "--port", "0")
    )
    process.start()
    try:
        proxy = new_proxy(name, [process.url])
        async with httpx2.AsyncClient(
            base_url=proxy.url, trust_env=False, transport=httpx2.AsyncHTTPTransport(local_address="127.0.0.9")
        ) as http:
            seen = (await http.get("/anything", headers=LIES)).json()
    finally:
        process.stop_now()
    headers: dict[str, list[str]] = {}
    for field, value in seen["headers"]:
        headers.setdefault(field, []).append(value)
    assert seen["client"] == "127.0.0.9"
    assert seen["scheme"] == "http"
    assert headers["host"] == [f"127.0.0.1:{proxy.port}"]
    assert headers["x-forwarded-for"] == ["127.0.0.9"]
    assert headers["x-forwarded-proto"] == ["http"]
    assert headers["x-forwarded-host"] == [f"127.0.0.1:{proxy.port}"]
    assert "evil.example" not in json.dumps(headers)


@pytest.mark.parametrize("name", sorted(PROXIES))
async def test_with_tls_sockets_open_pages_are_recognised_and_links_say_https(
    name: str, gateway: GatewayProcess, new_proxy: NewProxy, tmp_path: Path
) -> None:
    if name == "nginx":
        authority = make_authority(tmp_path)
        proxy = new_proxy(name, [gateway.url], certificate=authority.chain_path)
        ca_path = authority.ca_path
        host = f"127.0.0.1:{proxy.port}"
    else:
        proxy = new_proxy(name, [gateway.url], secure=True)
        ca_path = proxy.folder / "data" / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        host = f"localhost:{proxy.port}"
    await certified(proxy.port, ca_path)
    alice = {"Authorization": f"Bearer {TOKENS['alice']}"}
    async with httpx2.AsyncClient(
        base_url=f"https://{host}", trust_env=False, verify=trusting(ca_path), headers=alice, http2=True
    ) as http:
        answer = await http.post("/api/pair/codes", json={})
        assert answer.http_version == "HTTP/2"
        assert f"https://{host}/" in json.dumps(answer.json())
    if name == "nginx":
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{proxy.second_port}", trust_env=False) as http:
            plain = await http.get("/api/agents?x=1", headers={"Host": PUBLIC})
            assert (plain.status_code, plain.headers["location"]) == (301, f"https://{PUBLIC}/api/agents?x=1")
    url = f"wss://{host}/api/demo/ws"
    options: dict[str, Any] = {"ssl": trusting(ca_path), "additional_headers": alice, "proxy": None}
    async with connect(url, origin=Origin(f"https://{host}"), **options) as line:
        assert json.loads(await line.recv())["type"] == "ready"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, origin=Origin("https://evil.example"), **options)
    assert refused.value.response.status_code == 403


def trusting(ca_path: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca_path)


async def certified(port: int, ca_path: Path) -> None:
    """Wait until the proxy has its certificate: Caddy listens before."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("localhost", port, ssl=trusting(ca_path))
            except OSError:  # of which ssl.SSLError is one, and a certificate that is not there
                await asyncio.sleep(0.05)
                continue
            writer.transport.abort()
            return


@pytest.mark.parametrize("name", sorted(PROXIES))
async def test_no_token_and_no_query_is_in_what_a_proxy_writes_down(
    name: str, new_gateway: NewGateway, new_proxy: NewProxy, new_client: NewClient
) -> None:
    gateway = new_gateway(DRAIN_SECONDS="0")
    proxy = new_proxy(name, [gateway.url], IMPATIENT[name])
    device = "device-that-nobody-should-read"
    for browser in (False, True):
        for token in (TOKENS["alice"], "a-wrong-token"):
            phone = new_client(proxy, token=token, browser=browser, device_id=device)
            try:
                await phone.connect(wait_ready=False)
                await phone.close()
            except InvalidStatus:
                pass
    async with proxy.http() as http:
        await http.post("/api/demo/stream", json={"content": "a secret question"})
        await gateway.stop()
        for _ in range(2):  # and when no gateway is there
            await http.get(f"/api/threads?device_id={device}")
            with pytest.raises(InvalidStatus):
                await new_client(proxy, browser=True, device_id=device).connect()
    proxy.stop()
    lines = proxy.logs
    assert lines.count("/api/demo/ws") >= 4
    assert "/api/demo/stream" in lines
    for token in (TOKENS["alice"], "a-wrong-token"):
        encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
        assert token not in lines
        assert encoded not in lines
    assert "secret" not in lines
    # nginx's error log shows the request line of a request that failed, and that holds the query: no secret is in one.
    assert device not in "\n".join(
        line for line in lines.splitlines() if not re.match(r"\d{4}/\d\d/\d\d .*\[\w+\]", line)
    )
