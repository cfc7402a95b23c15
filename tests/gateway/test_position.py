import pytest

from gateway.eventlog.position import Position


def test_a_cursor_names_the_place_it_was_made_from() -> None:
    for position in (Position(0, 0), Position(1_795_160_400_123, 128), Position(3, 10**17)):
        assert Position.parse(position.cursor) == position


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        ":",
        "1:",
        ":1",
        "1:2:3",
        "-1:2",
        "1:-2",
        " 1:2",
        "1:2\n",
        "1:2 ",
        "1.0:2",
        "\u0663:\u0661",
        "a:b",
        "9" * 19 + ":1",
    ],
)
def test_what_is_no_cursor_of_ours_names_no_place(cursor: str) -> None:
    assert Position.parse(cursor) is None
