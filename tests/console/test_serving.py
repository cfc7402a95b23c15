"""The console's files over HTTP: what is served, and what the headers forbid."""

from __future__ import annotations

import re
from pathlib import Path

import httpx2
import pytest

from gateway.endpoints.console import CONTENT_SECURITY_POLICY, MEDIA_TYPES, read_static_files
from tests.server import GatewayProcess

FILES = read_static_files()
STATIC = Path(__file__).parents[2] / "gateway" / "static"


@pytest.fixture
def http(gateway: GatewayProcess) -> httpx2.AsyncClient:
    return gateway.http(user=None)


@pytest.mark.parametrize("path", sorted(FILES))
async def test_each_file_comes_with_its_type_the_policy_and_a_tag_that_revalidates(
    http: httpx2.AsyncClient, path: str
) -> None:
    async with http:
        answer = await http.get(path)
        head = await http.head(path)
        again = await http.get(path, headers={"If-None-Match": f'"other", W/{answer.headers["etag"]}'})
        changed = await http.get(path, headers={"If-None-Match": '"other"'})
        plain = await http.get(path, headers={"Accept-Encoding": "gzip;q=0"})
    assert answer.status_code == 200
    assert answer.content == FILES[path].content == plain.content
    assert "content-encoding" not in plain.headers
    assert answer.headers["content-type"] == FILES[path].media_type
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]
    assert (again.status_code, again.content) == (304, b"")
    assert changed.status_code == 200


async def test_every_file_of_the_console_is_served_and_nothing_else(http: httpx2.AsyncClient) -> None:
    there = {f"/{file.relative_to(STATIC)}" for file in STATIC.rglob("*") if file.is_file()}
    assert {path if path != "/" else "/index.html" for path in FILES} == there
    assert {Path(path).suffix for path in there} <= set(MEDIA_TYPES)
    async with http:
        for path in ("/index.html", "/console", "/console/", "/../pyproject.toml", "/console/..%2f..%2fapp.py"):
            assert (await http.get(path)).status_code == 404
        assert (await http.post("/")).status_code == 405


def test_the_policy_lets_nothing_inline_and_nobody_else_in() -> None:
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    for rule in ("default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert rule in CONTENT_SECURITY_POLICY.split("; ")
    page = FILES["/"].content.decode()
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=|javascript:", page)


def test_no_file_names_another_host() -> None:
    allowed = {"www.w3.org", "agents.example.org"}
    """The namespace of SVG, and an example in a comment."""
    for path, file in FILES.items():
        if file.media_type != "image/png":
            hosts = set(re.findall(r"(?:https?|wss?):?//([a-z0-9.-]+)", file.content.decode()))
            assert hosts <= allowed, path


def test_no_module_makes_markup_of_a_string() -> None:
    for path, file in FILES.items():
        if path.endswith(".js"):
            source = file.content.decode()
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source
            ), path


def test_the_service_worker_keeps_exactly_the_files_that_there_are() -> None:
    source = FILES["/service-worker.js"].content.decode()
    listed = set(re.findall(r'^  "(/[^"]*)",$', source, re.MULTILINE))
    assert listed == set(FILES) - {"/service-worker.js"}


def test_every_import_and_every_linked_file_is_there() -> None:
    for path, file in FILES.items():
        if path.endswith(".js") and path != "/service-worker.js":
            for target in re.findall(r'from "(\./|\.\./)([^"]+)"', file.content.decode()):
                base = path.rsplit("/", 2 if target[0] == "../" else 1)[0]
                if "export" not in target[1]:
                    assert f"{base}/{target[1]}" in FILES, (path, target)
    for linked in re.findall(r'(?:href|src)="(/[^"#]*)"', FILES["/"].content.decode()):
        assert linked in FILES
