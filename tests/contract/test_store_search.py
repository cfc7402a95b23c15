"""Search over a user's messages."""

import time
from typing import Any

import pytest

from gateway.store.base import Store
from tests.contract.test_store import end, new


async def said(store: Store, name: str, content: str, answer: str = "", **changes: Any) -> None:
    accepted = await store.accept(new(name, **{"thread_id": f"t-{name}", "content": content} | changes))
    await store.finish(end(accepted, content=answer, at=changes.get("at", 5_000) + 1))


async def found(store: Store, *words: str, user_id: str = "alice", **options: Any) -> list[str]:
    wanted: dict[str, Any] = {"agent": None, "before": None, "limit": 50} | options
    hits = await store.search(user_id, words, **wanted)
    assert hits is not None
    return [hit.message.message_id for hit in hits]


async def test_questions_and_answers_are_found_newest_first(store: Store) -> None:
    await said(store, "1", "Tell me of tides", "Tides follow the moon", at=1_000)
    await said(store, "2", "And the wind?", "Wind is air that moves", at=2_000)
    await said(store, "3", "The TIDE tables", "None", at=3_000)
    assert await found(store, "tide") == ["m-3", "a-1", "m-1"]
    assert await found(store, "tide", "moon") == ["a-1"]
    assert await found(store, "tide", "wind") == []


async def test_nothing_of_another_user_is_found(store: Store) -> None:
    await said(store, "1", "secret tides")
    await said(store, "2", "tides", user_id="bob")
    assert await found(store, "tides") == ["m-1"]
    assert await found(store, "tides", user_id="bob") == ["m-2"]
    assert await found(store, "tides", user_id="eve") == []
    assert await store.search("bob", ["tides"], agent=None, before="m-1", limit=5) is None


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("Über alles", "über"),
        ("die STRASSE nach Łódź", "łÓDŹ"),
        ("ПРИВЕТ мир", "привет"),
        ("これは日本語です", "日本"),
        ("an emoji 👋🏽 here", "👋"),
        ("100% sure", "0%"),
        ("snake_case", "e_c"),
        ("a\\b", "a\\b"),
        ("glob [é*?] here", "[É*?]"),
        ("é^]x", "É^]X"),
        ('it\'s "quoted"; DROP TABLE', "'s"),
    ],
)
async def test_parts_of_words_are_found_in_whatever_case_and_script(store: Store, content: str, word: str) -> None:
    await said(store, "1", content)
    await said(store, "2", "something else: abc, aXb, 1000, snakeXcase, aéb")
    assert await found(store, word) == ["m-1"]


async def test_an_agent_and_a_place_narrow_the_search_and_pages_lose_none(store: Store) -> None:
    for number in range(7):
        agent = "demo" if number % 2 else "claude"
        await said(store, str(number), "tides", "tides", at=1_000 * (1 + number // 3), agent=agent)
    everything = await found(store, "tides")
    assert len(everything) == 14
    pages: list[str] = []
    before = None
    while page := await found(store, "tides", before=before, limit=3):
        pages += page
        before = page[-1]
    assert pages == everything
    assert await found(store, "tides", agent="demo") == [one for one in everything if int(one[2:]) % 2]
    assert await store.search("alice", ["tides"], agent=None, before="m-none", limit=5) is None


async def test_what_waits_in_a_queue_is_not_found(store: Store) -> None:
    await store.accept(new("1", content="tides run"))
    await store.accept(new("2", content="tides wait"))
    assert await found(store, "tides") == ["m-1"]


@pytest.mark.soak
async def test_a_search_over_many_messages_ends_soon_and_others_need_not_wait_for_it(store: Store) -> None:
    text = "Lorem ipsum dolor sit amet, consectetur adipiscing elit. " * 18
    for number in range(5_000):
        await said(store, str(number), text, text, thread_id=f"t-{number % 50}", at=1_000 + number)
    for word in ("zebra", "zébra"):
        began = time.monotonic()
        assert await found(store, word) == []
        print(f"{word}: {time.monotonic() - began:.3f} s over 10,000 messages of {len(text)} characters")
        assert time.monotonic() - began < 5
