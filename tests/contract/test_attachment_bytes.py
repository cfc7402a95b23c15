"""What the attachments' service promises about bytes, whether they are on the disk or in Postgres."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from gateway.attachmentbytes import LEFT_ALONE_SECONDS, StoredBytes
from gateway.attachments import Attachments
from gateway.clock import now
from gateway.errors import AttachmentsFull, NotFound, StoreUnavailable, TooLarge
from gateway.store.records import Attachment
from gateway.store.sql import SqlStore
from providers import ProviderError
from tests.contract.test_store import end, new

PNG = b"\x89PNG\r\n\x1a\n and pixels"
ROOM = 10_000_000


@pytest.fixture
async def node(store_url: str, tmp_path: Path) -> AsyncIterator[tuple[SqlStore, Attachments]]:
    async with SqlStore.open(store_url) as store:
        yield store, Attachments(store, tmp_path / "attachments", 2_000_000, ROOM)


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


async def read(attachments: Attachments, attachment: Attachment) -> bytes:
    return b"".join([piece async for piece in await attachments.open(attachment)])


async def rows(store: SqlStore) -> list[str]:
    """The names under which the database keeps bytes."""
    query = "SELECT DISTINCT name FROM attachment_bytes"
    return await store.database.read(lambda c: list(c.exec_driver_sql(query).scalars()))


async def kept(store: SqlStore, tmp_path: Path) -> int:
    """How many different contents are kept, finished or not."""
    files = [path for path in (tmp_path / "attachments").rglob("*") if path.is_file()]
    return len(files) + len(await rows(store))


async def test_the_same_content_is_kept_once_and_every_byte_comes_back(
    node: tuple[SqlStore, Attachments], tmp_path: Path
) -> None:
    store, attachments = node
    content = PNG + os.urandom(1_700_000)
    first = await attachments.take(
        "alice", "a.png", pieces(*(content[i : i + 999] for i in range(0, len(content), 999)))
    )
    second = await attachments.take("bob", "b.png", pieces(content))
    assert (first.sha256, first.size) == (second.sha256, len(content))
    assert await kept(store, tmp_path) == 1
    assert await read(attachments, first) == content
    (given,) = attachments.for_provider("bob", await attachments.shown("bob", [second.attachment_id]))
    assert await given.read() == content


async def test_a_provider_that_reads_while_the_store_is_away_gets_the_bytes_when_it_is_back(
    node: tuple[SqlStore, Attachments], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, attachments = node
    one = await attachments.take("alice", None, pieces(PNG))
    (given,) = attachments.for_provider("alice", await attachments.shown("alice", [one.attachment_id]))
    found, tries = store.attachments, 0

    async def away(user_id: str, ids: Sequence[str]) -> list[Attachment]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StoreUnavailable("it is away")
        return await found(user_id, ids)

    monkeypatch.setattr(store, "attachments", away)
    async with asyncio.timeout(5):
        assert await given.read() == PNG
    assert tries == 2


async def test_bytes_go_with_the_last_attachment_that_has_them(
    node: tuple[SqlStore, Attachments], tmp_path: Path
) -> None:
    store, attachments = node
    for name in ("1", "2"):
        one = await attachments.take("alice", None, pieces(PNG))
        shown = await attachments.shown("alice", [one.attachment_id])
        await store.finish(end(await store.accept(new(name, thread_id=f"t-{name}", attachments=shown))))
    for name, left in (("1", 1), ("2", 0)):
        thread = await store.thread("alice", f"t-{name}")
        assert thread is not None
        hashes = await store.thread_hashes(thread.key)
        assert await store.delete("alice", f"t-{name}")
        await attachments.let_go(hashes)
        assert await kept(store, tmp_path) == left
    with pytest.raises(NotFound):
        await attachments.open(one)


async def test_a_refused_and_a_cancelled_upload_leave_nothing(
    node: tuple[SqlStore, Attachments], tmp_path: Path
) -> None:
    store, attachments = node
    with pytest.raises(TooLarge):
        await attachments.take("alice", None, pieces(PNG, b"x" * 3_000_000))
    full = Attachments(store, tmp_path / "attachments", 2_000_000, 10)
    with pytest.raises(AttachmentsFull):
        await full.take("alice", None, pieces(PNG))
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
    assert await kept(store, tmp_path) == 0


async def test_what_another_node_took_can_be_read_here(postgres_url: str, tmp_path: Path) -> None:
    content = PNG + os.urandom(700_000)
    async with SqlStore.open(postgres_url) as one, SqlStore.open(postgres_url) as other:
        taken = await Attachments(one, tmp_path / "one", 2_000_000, ROOM).take("alice", None, pieces(content))
        assert await read(Attachments(other, tmp_path / "other", 2_000_000, ROOM), taken) == content


async def test_uploads_beside_removals_on_two_nodes_keep_their_bytes(postgres_url: str, tmp_path: Path) -> None:
    """Whoever was told of an attachment that nobody has forgotten since finds its bytes."""
    async with SqlStore.open(postgres_url) as one, SqlStore.open(postgres_url) as other:
        here, there = (Attachments(store, tmp_path, 2_000_000, ROOM) for store in (one, other))
        for _ in range(20):
            await here.take("alice", None, pieces(PNG))
            await asyncio.gather(
                one.forget_unused_attachments(now() + 1),
                there.take("bob", None, pieces(PNG)),
                other.forget_unused_attachments(now() + 1),
                here.take("carol", None, pieces(PNG)),
            )
            query = "SELECT count(*) FROM attachments"
            left = await one.database.read(lambda c, q=query: c.exec_driver_sql(q).scalar_one())
            assert (len(await rows(one)) == 1) == (left > 0)
            await one.forget_unused_attachments(now() + 1)
            assert await rows(one) == []


async def test_two_uploads_at_once_do_not_fill_the_room_twice(postgres_url: str, tmp_path: Path) -> None:
    async with SqlStore.open(postgres_url) as one, SqlStore.open(postgres_url) as other:
        tight = [Attachments(store, tmp_path, 2_000_000, 2 * len(PNG)) for store in (one, other)] * 4
        taken = await asyncio.gather(*(a.take("alice", None, pieces(PNG)) for a in tight), return_exceptions=True)
        assert sum(isinstance(one, Attachment) for one in taken) == 2
        assert sum(isinstance(one, AttachmentsFull) for one in taken) == 6


async def test_what_a_node_left_unfinished_when_it_died_is_swept_away(postgres_url: str) -> None:
    async with SqlStore.open(postgres_url) as store:
        await store.put_bytes("upload-old", 0, b"x", now() - int(LEFT_ALONE_SECONDS * 1000) - 1)
        await store.put_bytes("upload-young", 0, b"x", now())
        await StoredBytes(store).sweep()
        assert await rows(store) == ["upload-young"]


async def test_bytes_that_go_while_they_are_read_do_not_pass_for_the_whole(postgres_url: str, tmp_path: Path) -> None:
    async with SqlStore.open(postgres_url) as store:
        attachments = Attachments(store, tmp_path, 2_000_000, ROOM)
        taken = await attachments.take("alice", None, pieces(PNG, *[os.urandom(300_000)] * 3))
        async with contextlib.aclosing(await attachments.open(taken)) as opened:
            assert await anext(opened)
            await store.forget_unused_attachments(now() + 1)
            with pytest.raises(LookupError):
                async for _ in opened:
                    pass
        (given,) = attachments.for_provider(
            "alice", [{"id": taken.attachment_id, "name": "a", "content_type": "image/png", "size": 1}]
        )
        with pytest.raises(ProviderError):
            await given.read()
