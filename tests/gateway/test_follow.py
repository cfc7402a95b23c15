import json
from typing import Any

from gateway import protocol
from gateway.eventlog.local import LocalEventLog
from gateway.eventlog.log import ThreadLog
from gateway.follow import Follow
from gateway.store.sql import SqlStore
from gateway.view import TurnView
from tests.gateway.events import accept, add, ask, empty_log, end, say, think


class Running:
    """A turn that runs, as readers of its log see it."""

    def __init__(self, turn_id: str = "u1", start: int = 0) -> None:
        self.turn_id = turn_id
        self.start = start
        self.view = TurnView()


def follow(log: ThreadLog, position: int = 0, join_chars: int = 1_000) -> Follow:
    return Follow(log, position, join_chars=join_chars, on_news=lambda follow: None)


def frames(follower: Follow) -> list[dict[str, Any]]:
    taken = []
    while (frame := follower.take()) is not None:
        taken.append(json.loads(frame))
    return taken


def shown(follower: Follow) -> list[tuple[str, str | None]]:
    return [(frame["type"], frame.get("content")) for frame in frames(follower)]


def test_text_that_waits_is_joined_and_has_the_cursor_of_its_last_piece() -> None:
    log = empty_log()
    for piece in ("Hel", "lo", " there"):
        say(log, piece)
    (frame,) = frames(follow(log))
    assert (frame["content"], frame["cursor"]) == ("Hello there", "1000:3")


def test_a_reader_that_keeps_up_gets_each_piece_alone() -> None:
    log = empty_log()
    follower = follow(log)
    for number, piece in enumerate(("Hel", "lo", " there"), 1):
        say(log, piece)
        (frame,) = frames(follower)
        assert (frame["content"], frame["cursor"]) == (piece, f"1000:{number}")


def test_nothing_but_adjacent_text_of_one_item_of_one_turn_is_joined() -> None:
    log = empty_log()
    ask(log, "one")
    say(log, "a", "1")
    say(log, "b", "1")
    say(log, "c", "2")
    think(log, "d", "2")
    think(log, "e", "2")
    say(log, "f", "2")
    add(log, protocol.Reset, content="g")
    say(log, "h", "2")
    say(log, "i", "2", turn_id="u2")
    ask(log, "two", turn_id="u2")
    ask(log, "three", turn_id="u2")
    assert shown(follow(log)) == [
        ("user_message", "one"),
        ("message", "ab"),
        ("message", "c"),
        ("reasoning", "de"),
        ("message", "f"),
        ("reset", "g"),
        ("message", "h"),
        ("message", "i"),
        ("user_message", "two"),
        ("user_message", "three"),
    ]


def test_joined_text_is_no_longer_than_fits_a_frame() -> None:
    log = empty_log()
    for _ in range(10):
        say(log, "x" * 40)
    assert [len(frame["content"]) for frame in frames(follow(log, join_chars=100))] == [80] * 5


def test_a_piece_longer_than_the_limit_still_comes() -> None:
    log = empty_log()
    say(log, "x" * 400)
    say(log, "y")
    assert [len(frame["content"]) for frame in frames(follow(log, join_chars=100))] == [400, 1]


def test_a_reader_begins_right_behind_its_position() -> None:
    log = empty_log()
    for piece in "abcdef":
        say(log, piece)
    for position in range(7):
        joined = "".join(frame["content"] for frame in frames(follow(log, position)))
        assert joined == "abcdef"[position:]


def test_every_reader_joins_the_same_text_however_it_reads() -> None:
    log = empty_log()
    ask(log)
    readers = [(follow(log, join_chars=limit), every) for limit in (1, 7, 1_000) for every in (1, 2, 5, 11)]
    texts = ["" for _ in readers]
    for number in range(60):
        say(log, f"{number} ")
        for index, (reader, every) in enumerate(readers):
            if number % every == 0:
                texts[index] += "".join(f["content"] for f in frames(reader) if f["type"] == "message")
    for index, (reader, _) in enumerate(readers):
        texts[index] += "".join(f["content"] for f in frames(reader) if f["type"] == "message")
    assert texts == ["".join(f"{number} " for number in range(60))] * len(readers)


def test_typing_is_shown_once_at_the_beginning_and_once_before_done() -> None:
    log = empty_log()
    log.running = Running()
    ask(log)
    follower = follow(log)
    assert [f["type"] for f in frames(follower)] == ["user_message", "typing"]
    say(log, "a")
    say(log, "b")
    log.running = None
    end(log, "ab")
    later = frames(follower)
    assert [f["type"] for f in later] == ["message", "typing", "done"]
    assert later[1]["active"] is False


def test_one_that_comes_in_the_middle_is_shown_typing_before_the_next_piece() -> None:
    log = empty_log()
    log.running = Running()
    ask(log)
    say(log, "a")
    say(log, "b")
    seen = frames(follow(log, 2))
    assert [f["type"] for f in seen] == ["typing", "message"]
    assert seen[0]["active"] is True


def test_one_that_reads_an_old_turn_is_not_shown_typing_of_a_later_one_too_early() -> None:
    log = empty_log()
    ask(log)
    say(log, "old")
    end(log, "old")
    log.running = Running("u2", start=3)
    ask(log, turn_id="u2")
    say(log, "new", turn_id="u2")
    kinds = [(f["type"], f["turn_id"]) for f in frames(follow(log))]
    assert kinds == [
        ("user_message", "u1"),
        ("message", "u1"),
        ("done", "u1"),
        ("user_message", "u2"),
        ("typing", "u2"),
        ("message", "u2"),
    ]


def test_no_typing_of_a_turn_that_is_over_before_it_is_read() -> None:
    log = empty_log()
    ask(log)
    say(log, "a")
    end(log, "a")
    assert [f["type"] for f in frames(follow(log))] == ["user_message", "message", "done"]


def test_a_reader_is_woken_by_every_event_but_asked_for_once() -> None:
    log = empty_log()
    woken: list[Follow] = []

    def on_news(follower: Follow) -> None:
        follower.ready = True
        woken.append(follower)

    follower = Follow(log, 0, join_chars=100, on_news=on_news)
    log.add_follower(follower)
    say(log, "a")
    say(log, "b")
    assert woken == [follower]
    follower.ready = False
    say(log, "c")
    assert woken == [follower] * 2
    log.remove_follower(follower)
    follower.ready = False
    say(log, "d")
    assert woken == [follower] * 2


async def test_one_far_behind_reads_the_store_page_by_page_and_goes_on_live_without_a_seam(
    store: SqlStore, logs: LocalEventLog
) -> None:
    turn = (await accept(store)).turn
    log = await logs.hold(turn.thread_key)
    follower = follow(log)
    written = ""
    for segment in range(80):  # more than fit one page of segments
        for piece in range(5):
            say(log, f"{segment}.{piece} ")
            written += f"{segment}.{piece} "
        logs.touch(log)
        await logs.checkpoint()
    log.forget(keep=7)
    assert log.base == 393

    text, loads = "", 0
    while text != written:
        frame = follower.take()
        if frame is not None:
            text += json.loads(frame)["content"]
            continue
        assert follower.behind
        assert await follower.load(logs)
        loads += 1
        if loads == 1:  # the log grows while the page is being read
            say(log, "late ")
            written += "late "
    assert loads == 3
    assert not follower.behind
    assert follower.take() is None


async def test_one_whose_place_is_no_longer_stored_is_told_so(store: SqlStore, logs: LocalEventLog) -> None:
    turn = (await accept(store)).turn
    log = await logs.hold(turn.thread_key)
    log.base = log.durable = 10
    follower = follow(log, 3)
    assert follower.take() is None
    assert follower.behind
    assert not await follower.load(logs)
