"""A conversation told to an agent that does not know it."""

from __future__ import annotations

from providers import Message
from providers.transcripts import transcript


def test_nothing_is_told_when_there_is_nothing_to_tell() -> None:
    assert transcript([]) == ""
    assert transcript([Message("assistant", "")]) == ""


def test_messages_are_told_in_order_and_by_whom() -> None:
    told = transcript([Message("user", "Hi"), Message("assistant", "Hello."), Message("assistant", "")])
    assert told == "This conversation began earlier:\n\nUser: Hi\n\nYou: Hello.\n\nNow the user writes:\n\n"


def test_of_a_long_conversation_the_oldest_messages_are_left_out_whole() -> None:
    told = transcript([Message("user", f"{number:03}" + "x" * 10_000) for number in range(100)])
    assert len(told) < 210_000
    assert "099x" in told
    assert "000x" not in told
