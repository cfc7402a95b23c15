"""Attachments in the store: whose they are, and how long they live."""

import asyncio

import pytest

from gateway.errors import AttachmentsFull, NotFound
from gateway.store.base import Store
from gateway.store.records import Attachment
from tests.contract.test_store import attached, end, key_of, new


async def ids(store: Store, *wanted: str, user_id: str = "alice") -> set[str]:
    return {one.attachment_id for one in await store.attachments(user_id, wanted)}


async def test_an_attachment_is_given_to_its_user_alone(store: Store) -> None:
    await attached(store, "f", name="Grüße.png", size=7)
    assert await store.attachments("alice", ["f", "none"]) == [
        Attachment(
            attachment_id="f",
            user_id="alice",
            name="Grüße.png",
            content_type="image/png",
            size=7,
            sha256="hash of f",
            created_at=5_000,
        )
    ]
    assert await store.attachments("bob", ["f"]) == []
    assert await store.attachments("alice", []) == []


async def test_a_message_with_an_attachment_of_somebody_else_stores_nothing(store: Store) -> None:
    shown = await attached(store, "f", user_id="bob")
    for one in (shown, {"id": "none"}):
        with pytest.raises(NotFound):
            await store.accept(new("1", attachments=[one]))
    assert await store.thread("alice", "t") is None


async def test_a_user_has_room_for_so_many_bytes_and_another_for_as_many(store: Store) -> None:
    await attached(store, "f-1", size=600)
    for user, size, fits in (("alice", 401, False), ("alice", 400, True), ("alice", 1, False), ("bob", 1000, True)):
        put = Attachment(
            attachment_id=f"f-{user}-{size}",
            user_id=user,
            name="a.png",
            content_type="image/png",
            size=size,
            sha256="h",
            created_at=5_000,
        )
        if fits:
            await store.put_attachment(put, 1000)
        else:
            with pytest.raises(AttachmentsFull):
                await store.put_attachment(put, 1000)
        assert bool(await store.attachments(user, [put.attachment_id])) == fits


async def test_what_no_message_names_is_forgotten_after_its_time(store: Store) -> None:
    used = await attached(store, "used", created_at=1)
    await attached(store, "unused", created_at=1)
    await attached(store, "young", created_at=100)
    await store.accept(new("1", attachments=[used]))
    assert await store.forget_unused_attachments(100) == 1
    assert await ids(store, "used", "unused", "young") == {"used", "young"}
    assert await store.known_hashes(["hash of used", "hash of unused", "hash of young"]) == {
        "hash of used",
        "hash of young",
    }


async def test_an_attachment_goes_with_the_last_thread_that_uses_it(store: Store) -> None:
    shared, own = await attached(store, "shared"), await attached(store, "own", sha256="hash of shared")
    first = await store.accept(new("1", thread_id="t1", attachments=[shared, own]))
    await store.finish(end(first))
    again = await store.accept(new("2", thread_id="t1", attachments=[shared]))
    await store.finish(end(again))
    await store.finish(end(await store.accept(new("3", thread_id="t2", attachments=[shared]))))
    assert await store.thread_hashes(await key_of(store, "t1")) == {"hash of shared"}
    assert await store.delete("alice", "t1")
    assert await ids(store, "shared", "own") == {"shared"}
    assert await store.known_hashes(["hash of shared"]) == {"hash of shared"}
    assert await store.delete("alice", "t2")
    assert await ids(store, "shared", "own") == set()
    assert await store.known_hashes(["hash of shared"]) == set()


async def test_a_message_handed_to_a_running_turn_keeps_its_attachment_too(store: Store) -> None:
    await store.accept(new("1"))
    shown = await attached(store, "f", created_at=1)
    steered = await store.accept(new("2", steer_into="u-1", attachments=[shown]))
    assert steered.steered
    assert list(steered.turn.attachments) == [shown]
    assert await store.forget_unused_attachments(100) == 0


async def test_an_attachment_is_sent_or_forgotten_but_never_both(store: Store) -> None:
    for number in range(30):
        shown = await attached(store, f"f-{number}", created_at=1)
        sent, _ = await asyncio.gather(
            store.accept(new(str(number), thread_id=f"t-{number}", attachments=[shown])),
            store.forget_unused_attachments(100),
            return_exceptions=True,
        )
        assert bool(await ids(store, f"f-{number}")) == (not isinstance(sent, NotFound)), sent
