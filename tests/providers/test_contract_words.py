"""What a plug-in may write that was made from the contract's own words alone."""

from __future__ import annotations

from providers import Message, ProviderError, Turn


def test_an_error_is_made_of_its_four_parts_in_their_order() -> None:
    error = ProviderError("overloaded", "No room now.", True, 2.5)
    assert (error.code, error.message, error.retryable, error.retry_after) == ("overloaded", "No room now.", True, 2.5)
    assert error.refused, "such a code says that no work was done"


def test_a_turn_is_made_of_the_parts_that_concern_a_provider() -> None:
    turn = Turn(thread_id="t", turn_id="u", messages=[Message("user", "Hi")])
    assert (turn.session, turn.options) == (None, {})
