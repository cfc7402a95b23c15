"""Attachments by HTTP and in messages, up to what the backend is sent."""

import asyncio
import base64
import os
import select
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.conftest import NewClient
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import answer as says
from tests.fakes.messages_script import failure, text
from tests.server import GatewayProcess

LIMIT = 200_000
PNG = b"\x89PNG\r\n\x1a\n"
PDF = b"%PDF-1.7\n"
FILES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0 and so on",
    "image/gif": b"GIF89a and so on",
    "image/webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "application/pdf": PDF,
}


@pytest.fixture(scope="module")
def gateway_environment() -> dict[str, Any]:
    return {"LIMITS__ATTACHMENT_BYTES": str(LIMIT), "LIMITS__USER_ATTACHMENT_BYTES": "2000000"}


def fresh(kind: bytes = PNG, size: int = 1000) -> bytes:
    """A file that no other test has."""
    return kind + os.urandom(size - len(kind))


async def upload(gateway: GatewayProcess, content: Any, user: str = "alice", **headers: str) -> httpx2.Response:
    async with gateway.http(user) as http:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await http.post("/api/attachments", content=content, headers=named)


async def uploaded(gateway: GatewayProcess, content: bytes, name: str = "a.png") -> dict[str, Any]:
    answer = await upload(gateway, content, Content_Disposition=f'attachment; filename="{name}"')
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def kept(gateway: GatewayProcess) -> set[bytes]:
    return {path.read_bytes() for path in (gateway.state_dir / "attachments").rglob("*") if path.is_file()}


async def test_an_image_is_uploaded_once_and_reaches_the_backend_now_and_from_the_history(
    gateway: GatewayProcess, new_client: NewClient, messages_api: MessagesApi
) -> None:
    content = fresh()
    shown = await uploaded(gateway, content, "tides.png")
    assert shown == {"id": shown["id"], "name": "tides.png", "content_type": "image/png", "size": 1000}
    messages_api.script = says(text("A picture."))
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    assert "attachments" in phone.ready["capabilities"]
    accepted = await phone.message("What is this?", attachments=[{"id": shown["id"]}], thread_id="pictures")
    told = await phone.receive(until="user_message")
    assert told[-1]["attachments"] == [shown]
    await phone.finish(accepted["turn_id"])
    second = await phone.message("And now?", thread_id="pictures")
    await phone.finish(second["turn_id"])
    for call in messages_api.calls:
        image, said = call.body["messages"][0]["content"]
        assert base64.b64decode(image["source"]["data"]) == content
        assert said == {"type": "text", "text": "What is this?"}
    assert len(messages_api.calls) == 2
    turn = await gateway.get(f"/api/turns/{accepted['turn_id']}")
    assert turn["user_message"]["attachments"] == [shown]
    history = (await gateway.get("/api/threads/pictures/messages"))["messages"]
    assert history[0]["attachments"] == [shown]
    other = new_client(gateway)
    await other.connect()
    await other.send("attach", thread_id="pictures")
    assert (await other.receive(until="snapshot"))[-1]["messages"][0]["attachments"] == [shown]


async def test_a_picture_without_a_word_is_a_message_and_its_name_the_title(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    shown = await uploaded(gateway, fresh(), "moon.png")
    body = {"content": "", "attachments": [{"id": shown["id"]}], "thread_id": "wordless"}
    assert (await gateway.post("/api/claude/messages", body)).status_code == 202
    assert [block["type"] for block in (await messages_api.called()).body["messages"][0]["content"]] == ["image"]
    assert (await gateway.get("/api/threads/wordless"))["title"] == "moon.png"


async def test_a_retry_sends_the_attachments_again(
    gateway: GatewayProcess, new_client: NewClient, messages_api: MessagesApi
) -> None:
    shown = await uploaded(gateway, fresh())
    messages_api.script = failure(400, "invalid_request_error")
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    accepted = await phone.message("?", attachments=[{"id": shown["id"]}])
    assert (await phone.finish(accepted["turn_id"]))["status"] == "failed"
    messages_api.script = says(text("Yes."))
    answer = await gateway.post(f"/api/turns/{accepted['turn_id']}/retry")
    assert answer.status_code == 202
    assert (await phone.finish(answer.json()["turn_id"]))["content"] == "Yes."
    assert messages_api.calls[-1].body["messages"] == messages_api.calls[0].body["messages"]


async def test_a_repeated_send_with_other_attachments_is_a_conflict(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    first, second = await uploaded(gateway, fresh()), await uploaded(gateway, fresh())
    body = {"content": "x", "id": "att-1", "attachments": [{"id": first["id"]}]}
    accepted = (await gateway.post("/api/claude/messages", body)).json()
    again = (await gateway.post("/api/claude/messages", body)).json()
    assert (again["turn_id"], again["duplicate"]) == (accepted["turn_id"], True)
    answer = await gateway.post("/api/claude/messages", body | {"attachments": [{"id": second["id"]}]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "id_conflict")


async def test_what_cannot_be_attached_is_refused_and_says_why(gateway: GatewayProcess) -> None:
    shown = await uploaded(gateway, fresh())
    reference = {"id": shown["id"]}
    for agent, user, attachments, status, code, field in (
        ("claude", "alice", [{"id": "f-none"}], 404, "not_found", "attachments"),
        ("claude", "bob", [reference], 404, "not_found", "attachments"),
        ("claude", "alice", [reference, reference], 400, "bad_request", "attachments"),
        ("claude", "alice", [reference] * 11, 400, "bad_request", "attachments"),
        ("claude", "alice", [{"id": 1}], 400, "bad_request", "attachments.0.id"),
        ("demo", "alice", [reference], 409, "no_attachments", "attachments"),
    ):
        answer = await gateway.post(
            f"/api/{agent}/messages", {"content": "x", "attachments": attachments, "thread_id": "refused"}, user
        )
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["field"]) == (status, code, field)
        async with gateway.http(user) as http:
            assert (await http.get("/api/threads/refused")).status_code == 404


@pytest.mark.parametrize("content_type", FILES)
async def test_every_type_is_told_by_its_content_whatever_is_said_of_it(
    gateway: GatewayProcess, content_type: str
) -> None:
    content = fresh(FILES[content_type])
    answer = await upload(
        gateway, content, Content_Type="text/html", Content_Disposition='attachment; filename="x.html"'
    )
    assert (answer.status_code, answer.json()["content_type"]) == (201, content_type)
    async with gateway.http() as http:
        given = await http.get(f"/api/attachments/{answer.json()['id']}")
    assert given.content == content
    assert given.headers["content-type"] == content_type
    assert given.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in given.headers["content-security-policy"]
    assert given.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG", b"<html><script>alert(1)</script>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"MZ" * 500],
)
async def test_what_is_no_image_or_document_is_refused(gateway: GatewayProcess, content: bytes) -> None:
    before = kept(gateway)
    answer = await upload(gateway, content, Content_Type="image/png")
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_type")
    assert kept(gateway) == before


async def test_one_byte_too_many_is_refused_with_and_without_a_length(gateway: GatewayProcess) -> None:
    async def streamed(content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 10_000):
            yield content[start : start + 10_000]

    largest = fresh(size=LIMIT)
    before = kept(gateway)
    for content in (
        largest + b"x",
        streamed(largest + b"x"),
        fresh(size=4 * LIMIT),
        streamed(fresh(size=LIMIT * 3 // 2)),
    ):
        answer = await upload(gateway, content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert kept(gateway) == before
    assert (await upload(gateway, streamed(largest))).status_code == 201
    assert largest in kept(gateway)


async def test_a_form_with_the_file_is_taken_too(gateway: GatewayProcess) -> None:
    content = fresh(PDF, 150_000)
    async with gateway.http() as http:
        answer = await http.post(
            "/api/attachments", data={"note": "before"}, files={"file": ("Grüße.pdf", content, "image/png")}
        )
        assert answer.status_code == 201, answer.text
        assert (answer.json()["name"], answer.json()["content_type"]) == ("Grüße.pdf", "application/pdf")
        given = await http.get(f"/api/attachments/{answer.json()['id']}")
        assert given.content == content
        for files, field in (({"other": ("a.png", PNG)}, "file"),):
            answer = await http.post("/api/attachments", files=files)
            assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
        for body in (
            b"",
            b"--x\r\n",
            b"no form",
            b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + fresh(),
        ):
            answer = await http.post(
                "/api/attachments", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}
            )
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request"), body[:40]
        answer = await http.post("/api/attachments", content=PNG, headers={"Content-Type": "multipart/form-data"})
        assert answer.status_code == 400


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ("attachment; filename*=UTF-8''Gr%C3%BC%C3%9Fe%20.png", "Grüße .png"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:\\\\temp\\\\a.png"', "a.png"),
        ('attachment; filename=".."', "image.png"),
        ("", "image.png"),
        ("attachment", "image.png"),
        (f'attachment; filename="{"x" * 500}"', "x" * 200),
    ],
)
async def test_a_name_is_a_name_and_no_path(gateway: GatewayProcess, disposition: str, name: str) -> None:
    answer = await upload(gateway, fresh(), Content_Disposition=disposition)
    assert (answer.status_code, answer.json()["name"]) == (201, name)


async def test_an_attachment_is_its_owners_alone(gateway: GatewayProcess) -> None:
    shown = await uploaded(gateway, fresh())
    path = f"/api/attachments/{shown['id']}"
    for user, status in (("alice", 200), ("bob", 404), (None, 401)):
        async with gateway.http(user) as http:
            assert (await http.get(path)).status_code == status
            assert (await http.post("/api/attachments", content=b"")).status_code == (401 if user is None else 415)


async def test_a_file_goes_with_the_last_thread_that_shows_it(
    gateway: GatewayProcess, messages_api: MessagesApi
) -> None:
    content = fresh()
    first, second = await uploaded(gateway, content), await uploaded(gateway, content, "twin.png")
    assert first["id"] != second["id"]
    for shown, thread_id in ((first, "goes-1"), (first, "goes-2"), (second, "goes-3")):
        body = {"content": "x", "attachments": [{"id": shown["id"]}], "thread_id": thread_id}
        assert (await gateway.post("/api/claude/messages", body)).status_code == 202
    async with gateway.http() as http:
        for thread_id, still in (("goes-1", {200}), ("goes-2", {404}), ("goes-3", {404})):
            assert content in kept(gateway)
            assert (await http.delete(f"/api/threads/{thread_id}")).status_code == 204
            assert {(await http.get(f"/api/attachments/{first['id']}")).status_code} == still
        assert content not in kept(gateway)


async def test_an_upload_that_is_broken_off_leaves_nothing(gateway: GatewayProcess) -> None:
    before = kept(gateway)
    host, port = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    head = (
        f"POST /api/attachments HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer token-of-alice\r\n"
        f"Content-Length: 100000\r\n\r\n"
    )
    writer.write(head.encode() + fresh(size=50_000))
    await writer.drain()
    directory = gateway.state_dir / "attachments"
    async with asyncio.timeout(10):
        for some in (True, False):
            while True:
                if bool(list(directory.glob("partial-*"))) == some:
                    break
                await asyncio.sleep(0.01)  # the process beside us tells nobody
            writer.transport.abort()
    assert kept(gateway) == before
    assert not gateway.events("request_failed")


def send_all_then_read(gateway: GatewayProcess, content: bytes) -> bytes:
    """What a client gets that reads nothing before it has sent everything; it pauses after the first piece."""
    host, port = gateway.url.removeprefix("http://").split(":")
    head = (
        f"POST /api/attachments HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer token-of-alice\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port)), timeout=10) as sender:
        sender.sendall(head.encode() + content[:50_000])
        select.select([sender], [], [], 0.3)
        for start in range(50_000, len(content), 10_000):
            sender.sendall(content[start : start + 10_000])
        return sender.recv(4096)


async def test_a_client_that_sends_on_comes_to_read_why_it_was_refused(gateway: GatewayProcess) -> None:
    for content, status in ((b"no image".ljust(LIMIT, b"x"), b"415"), (PNG.ljust(LIMIT + 1, b"x"), b"413")):
        answer = await asyncio.to_thread(send_all_then_read, gateway, content)
        assert answer.split()[1] == status


async def test_a_user_has_so_much_room(gateway: GatewayProcess) -> None:
    before = kept(gateway)
    taken = 0
    for _ in range(12):
        content = fresh(size=LIMIT)
        answer = await upload(gateway, content, user="bob")
        if answer.status_code != 201:
            break
        taken += LIMIT
        before.add(content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "limit_exceeded")
    assert taken == 2_000_000
    assert kept(gateway) == before


def test_files_are_readable_by_the_operator_alone(gateway: GatewayProcess) -> None:
    directory = gateway.state_dir / "attachments"
    modes = {path.stat().st_mode & 0o077 for path in (directory, *directory.rglob("*"))}
    assert modes == {0}
    assert all(isinstance(path, Path) for path in directory.iterdir())
