"""The attachments' service: what it leaves on the disk, and what it sweeps away."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.attachmentbytes import LEFT_ALONE_SECONDS
from gateway.attachments import UNUSED_MS, Attachments
from gateway.clock import now
from gateway.errors import NotFound, TooLarge
from gateway.store.base import Store
from gateway.store.records import Attachment
from gateway.store.sql import SqlStore
from providers import ProviderError

PNG = b"\x89PNG\r\n\x1a\n and pixels"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with SqlStore.open(f"sqlite:///{tmp_path}/store.db") as store:
        yield store


@pytest.fixture
def attachments(store: Store, tmp_path: Path) -> Attachments:
    return Attachments(store, tmp_path / "attachments", 1_000_000, 10_000_000)


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


def files(tmp_path: Path) -> list[Path]:
    return sorted(path for path in (tmp_path / "attachments").rglob("*") if path.is_file())


def age(path: Path) -> None:
    long_ago = time.time() - LEFT_ALONE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))


async def test_the_same_content_is_one_file_and_every_byte_comes_back(attachments: Attachments, tmp_path: Path) -> None:
    content = PNG + os.urandom(700_000)
    first = await attachments.take(
        "alice", "a.png", pieces(*(content[i : i + 999] for i in range(0, len(content), 999)))
    )
    second = await attachments.take("bob", "b.png", pieces(content))
    assert (first.sha256, first.size) == (second.sha256, len(content))
    assert len(files(tmp_path)) == 1
    opened = await attachments.open(first)
    assert b"".join([piece async for piece in opened]) == content
    (given,) = attachments.for_provider("bob", await attachments.shown("bob", [second.attachment_id]))
    assert await given.read() == content


@pytest.mark.parametrize("name", ["a\x00b\x1b[31m.png", "a\u202egnp.exe", " . "])
async def test_a_name_holds_nothing_that_cannot_be_printed(attachments: Attachments, name: str) -> None:
    kept = await attachments.take("alice", name, pieces(PNG))
    assert kept.name
    assert kept.name.isprintable()


async def test_a_refused_and_a_cancelled_upload_leave_no_file(attachments: Attachments, tmp_path: Path) -> None:
    with pytest.raises(TooLarge):
        await attachments.take("alice", None, pieces(PNG, b"x" * 2_000_000))

    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield PNG + b"x" * 500_000
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(attachments.take("alice", None, endless()))
    await begun.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert files(tmp_path) == []


async def test_the_sweep_removes_what_nobody_owns_and_nothing_else(
    attachments: Attachments, store: Store, tmp_path: Path
) -> None:
    kept = await attachments.take("alice", None, pieces(PNG))
    unused = Attachment(
        attachment_id="f-old",
        user_id="alice",
        name="old.png",
        content_type="image/png",
        size=3,
        sha256="ab" * 32,
        created_at=now() - UNUSED_MS - 1,
    )
    await store.put_attachment(unused, 10_000_000)
    directory = tmp_path / "attachments"
    of_unused, orphan, young = (directory / digest[:2] / digest for digest in ("ab" * 32, "cd" * 32, "ef" * 32))
    partial, young_partial = directory / "partial-1", directory / "partial-2"
    for path in (of_unused, orphan, young, partial, young_partial):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    own = directory / kept.sha256[:2] / kept.sha256
    for path in (of_unused, orphan, partial, own):
        age(path)
    await attachments.sweep()
    assert files(tmp_path) == sorted([own, young, young_partial])
    with pytest.raises(NotFound):
        await attachments.get("alice", "f-old")


async def test_a_file_that_is_lost_is_not_found_and_fails_a_turn_in_words(
    attachments: Attachments, tmp_path: Path
) -> None:
    kept = await attachments.take("alice", None, pieces(PNG))
    files(tmp_path)[0].unlink()
    with pytest.raises(NotFound):
        await attachments.open(kept)
    (given,) = attachments.for_provider("alice", await attachments.shown("alice", [kept.attachment_id]))
    with pytest.raises(ProviderError, match="cannot be read"):
        await given.read()


async def test_an_upload_beside_the_removal_of_its_twin_keeps_its_bytes(
    attachments: Attachments, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await attachments.take("alice", None, pieces(PNG))
    await store.forget_unused_attachments(now() + 1)
    known_hashes, asked = store.known_hashes, asyncio.Event()
    twin: asyncio.Task[Attachment]

    async def slowly(hashes: list[str]) -> set[str]:
        known = await known_hashes(hashes)
        asked.set()
        await asyncio.wait({twin}, timeout=0.3)  # as long as the removal lasts, the upload cannot be done
        return known

    async def after_the_question() -> Attachment:
        await asked.wait()
        return await attachments.take("alice", None, pieces(PNG))

    monkeypatch.setattr(store, "known_hashes", slowly)
    twin = asyncio.create_task(after_the_question())
    await attachments.let_go({first.sha256})
    opened = await attachments.open(await twin)
    assert b"".join([piece async for piece in opened]) == PNG
