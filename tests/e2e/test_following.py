"""What a client that follows a thread is shown: in which order, in which pieces, and what never comes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.client import place
from tests.e2e.conftest import NewClient, agents_for
from tests.e2e.rules import hanging, kinds
from tests.e2e.scripts import Paced
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import BlockStart, BlockStop, Raw, answer, end, start, text
from tests.server import GatewayProcess

FRAME_BYTES = 16 * 1024


@pytest.fixture(scope="module")
def gateway_environment(upstream_port: int) -> dict[str, Any]:
    limits = {"LIMITS__SERVER_FRAME_BYTES": str(FRAME_BYTES), "LIMITS__CLIENT_FRAME_BYTES": str(2**20)}
    return {"AGENTS": agents_for(upstream_port), **limits}


# --- attach, detach ---


async def test_attached_comes_before_the_frames_it_announces(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone, tablet = new_client(gateway), new_client(gateway)
    await phone.connect()
    await tablet.connect()
    accepted = await hanging(phone, "announced")
    await tablet.send("attach", thread_id="announced", cursor=accepted["cursor"])
    frames = [f for f in await tablet.receive(until="message") if f["type"] != "thread_updated"]
    shown = kinds(frames)
    assert shown[0] == "attached"
    assert sorted(shown[1:]) == ["message", "typing", "user_message"]
    assert frames[0]["cursor"] == accepted["cursor"], "where the replay starts"
    assert frames[0]["turns"] == [{"turn_id": accepted["turn_id"], "status": "running", "queued": 0}]
    await phone.send("cancel", thread_id="announced")
    await tablet.finish(accepted["turn_id"])


async def test_attach_without_a_cursor_shows_a_snapshot_and_goes_on_behind_it(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    paced = Paced().think(["hm"]).say(["one ", "two ", "three"]).finish()
    messages_api.script = paced.script
    phone, tablet = new_client(gateway, agent="claude"), new_client(gateway)
    await phone.connect()
    await tablet.connect()
    accepted = await phone.message("Hi")
    for gate in paced.gates[:3]:
        gate.opened.set()
        await phone.receive(until=lambda f: f["type"] in ("message", "reasoning"))
    await tablet.attach(accepted["thread_id"])
    snapshot = await tablet.next()
    assert snapshot["type"] == "snapshot"
    assert snapshot["cursor"] == phone.cursors[accepted["thread_id"]]
    assert [(m["role"], m["content"]) for m in snapshot["messages"]] == [("user", "Hi")]
    assert (snapshot["turn"]["content"], snapshot["turn"]["reasoning"]) == ("one two ", "hm")
    paced.open_all()
    done = await tablet.finish(accepted["turn_id"])
    assert done["content"] == tablet.texts[accepted["turn_id"]] == "one two three"
    assert await phone.finish(accepted["turn_id"]) == done


async def test_detached_is_the_last_frame_of_a_thread(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    """While the text rushes in; what came behind `detached` would fail the client."""
    messages_api.script = answer(text(*(f"{n} " for n in range(2000))))
    phone, tablet = new_client(gateway, agent="claude"), new_client(gateway)
    await phone.connect()
    await tablet.connect()
    accepted = await phone.message("Hi")
    thread_id = accepted["thread_id"]
    await tablet.attach(thread_id, accepted["cursor"])
    await tablet.receive(until="message")
    await tablet.send("detach", thread_id=thread_id)
    await tablet.receive(until="detached")
    await phone.finish(accepted["turn_id"])
    assert kinds(await tablet.quiet()) == []
    await tablet.send("detach", thread_id=thread_id)
    assert (await tablet.receive(until="detached"))[-1]["thread_id"] == thread_id  # again: there is nothing to stop
    attached = await tablet.attach(thread_id, tablet.cursors[thread_id])
    assert attached["recovered"] is True
    assert await tablet.finish(accepted["turn_id"]) == phone.done[accepted["turn_id"]]


async def test_a_second_attach_starts_over_from_its_cursor(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/tool\n/items 3", thread_id="over")
    await phone.finish(accepted["turn_id"])
    first = [f for f in phone.frames if f["type"] in ("user_message", "tool_call", "tool_result", "done")]
    for _ in range(3):
        phone.forget()
        await phone.attach("over", accepted["cursor"])
        await phone.finish(accepted["turn_id"])
        assert [f for f in phone.frames if f["type"] in ("user_message", "tool_call", "tool_result", "done")] == first


@pytest.mark.parametrize("cursor", ["nonsense", "1:1", "1:999999999999999999", "9" * 40 + ":1", "-1:5", ""])
async def test_a_cursor_that_was_never_given_gets_a_snapshot(
    gateway: GatewayProcess, new_client: NewClient, cursor: str
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/echo x")
    await phone.finish(accepted["turn_id"])
    attached = await phone.attach(accepted["thread_id"], cursor)
    assert attached["recovered"] is False
    assert (await phone.next())["type"] == "snapshot"


async def test_a_cursor_beyond_the_head_gets_a_snapshot(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/echo x")
    done = await phone.finish(accepted["turn_id"])
    epoch, offset = place(done["cursor"])
    attached = await phone.attach(accepted["thread_id"], f"{epoch}:{offset + 1}")
    assert attached["recovered"] is False


# --- typing ---


async def test_typing_begins_before_the_text_and_ends_before_done(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/echo x")
    await phone.finish(accepted["turn_id"])
    shown = [(f["type"], f.get("active")) for f in phone.frames if f["type"] in ("typing", "message", "done")]
    assert shown == [("typing", True), ("message", None), ("typing", False), ("done", None)]


async def test_whoever_attaches_later_sees_typing_too(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone, tablet = new_client(gateway), new_client(gateway)
    await phone.connect()
    await tablet.connect()
    accepted = await hanging(phone, "later")
    await tablet.attach("later")
    typing = (await tablet.receive(until="typing"))[-1]
    assert (typing["turn_id"], typing["active"]) == (accepted["turn_id"], True)
    await phone.send("cancel", turn_id=accepted["turn_id"])
    frames = await tablet.receive(until="done")
    assert [(f["type"], f.get("active")) for f in frames if f["type"] in ("typing", "done")] == [
        ("typing", False),
        ("done", None),
    ]


# --- text ---


async def test_text_items_are_separated_by_a_blank_line(gateway: GatewayProcess, new_client: NewClient) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/items 3")
    done = await phone.finish(accepted["turn_id"])
    assert done["content"] == "Paragraph 1.\n\nParagraph 2.\n\nParagraph 3."
    pieces = [f for f in phone.frames if f["type"] == "message"]
    firsts = {f["item_id"]: f["content"] for f in reversed(pieces)}
    assert [content.startswith("\n\n") for content in reversed(firsts.values())] == [False, True, True]


@pytest.mark.parametrize(
    ("script", "before", "after"),
    [("/reset", "", "This text stands instead."), ("/reset item", "kept", "kept\n\nThis text stands instead.")],
)
async def test_a_reset_replaces_the_text_so_far(
    gateway: GatewayProcess, new_client: NewClient, script: str, before: str, after: str
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message(f"/echo kept\n{script}")
    done = await phone.finish(accepted["turn_id"])
    assert [f["content"] for f in phone.frames if f["type"] == "reset"] == [before]
    assert done["content"] == after


async def test_a_tool_call_that_never_comes_back_has_failed_by_done(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    phone = new_client(gateway)
    await phone.connect()
    accepted = await phone.message("/tool\n/tool failed\n/tool open\n/crash")
    done = await phone.finish(accepted["turn_id"])
    results = [f["status"] for f in phone.frames if f["type"] == "tool_result"]
    assert results == ["completed", "failed", "failed"]
    assert (done["status"], done["error"]["code"]) == ("failed", "provider_fault")
    assert "asked to crash" not in str(phone.frames)


EMOJI = "👩‍👩‍👧 👍🏽 🏳️‍🌈 🇩🇪 é e\u0301 \U0001d49c שלום \u200b\u2028"


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (r"\ud83d\udc69\u200d\ud83d\udc67", "👩\u200d👧"),
        (r"a\ud83db", "a\ufffdb"),
        (r"a\udc69b", "a\ufffdb"),
        (r"a\u0000b", "a\ufffdb"),
        (EMOJI, EMOJI),
    ],
)
async def test_text_is_the_same_on_both_sides_and_what_cannot_be_stored_becomes_ufffd(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient, raw: str, kept: str
) -> None:
    """From the phone to the upstream, and from the upstream to the phone."""
    events = f'{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{raw}"}}}}'
    messages_api.script = [
        *start(),
        BlockStart({"type": "text", "text": ""}),
        Raw(f"event: content_block_delta\ndata: {events}\n\n".encode()),
        BlockStop(),
        *end(),
    ]
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    await phone.send_text(f'{{"type":"message","content":"{raw}"}}')
    accepted = (await phone.receive(until="accepted"))[-1]
    done = await phone.finish(accepted["turn_id"])
    assert messages_api.calls[0].question == kept
    assert next(f["content"] for f in phone.frames if f["type"] == "user_message") == kept
    assert done["content"] == kept
    turn = await gateway.get(f"/api/turns/{accepted['turn_id']}")
    assert (turn["content"], turn["user_message"]["content"]) == (kept, kept)


# --- size ---


async def test_what_is_longer_than_a_frame_comes_cut_and_whole_by_http(
    gateway: GatewayProcess, messages_api: MessagesApi, new_client: NewClient
) -> None:
    """The client refuses any frame over the limit."""
    question, whole = "é\u0001" * FRAME_BYTES, "👍🏽\u0002" * FRAME_BYTES
    messages_api.script = answer(text(whole))
    phone = new_client(gateway, agent="claude")
    await phone.connect()
    accepted = await phone.message(question)
    done = await phone.finish(accepted["turn_id"])
    assert (done["truncated"], done["length"]) == (True, len(whole))
    assert 0 < len(done["content"]) < len(whole)
    assert whole.startswith(done["content"])
    assert phone.texts[accepted["turn_id"]] == whole, "the text itself comes in as many frames as it takes"
    asked = next(f for f in phone.frames if f["type"] == "user_message")
    assert (asked["truncated"], asked["length"]) == (True, len(question))
    assert messages_api.calls[0].question == question
    turn = await gateway.get(f"/api/turns/{accepted['turn_id']}")
    assert (turn["content"], turn["user_message"]["content"]) == (whole, question)
    attached = await phone.attach(accepted["thread_id"])
    snapshot = await phone.next()
    assert attached["recovered"] is False
    answered = snapshot["messages"][-1]
    assert (answered["truncated"], answered["length"]) == (True, len(whole))


async def test_a_message_that_waits_is_followed_from_its_own_first_event(
    gateway: GatewayProcess, new_client: NewClient
) -> None:
    first, second = new_client(gateway), new_client(gateway)
    await first.connect()
    running = await first.message("/pieces 40 0.03")
    await first.receive(until=lambda frame: frame["type"] == "message")
    await second.connect()
    waiting = await second.message("/echo mine", thread_id=running["thread_id"])
    assert waiting["queued"] == 1
    await second.finish(waiting["turn_id"])
    logged = [frame for frame in second.frames if "cursor" in frame and frame["type"] != "accepted"]
    assert {frame["turn_id"] for frame in logged} == {waiting["turn_id"]}
    assert logged[0]["type"] == "user_message"
    await first.finish(running["turn_id"])
