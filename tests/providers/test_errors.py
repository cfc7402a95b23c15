"""How a provider's error says whether its call may be repeated."""

from __future__ import annotations

import pytest

from providers import ERROR_CODES, ProviderError
from providers.errors import REFUSALS


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_only_codes_that_mean_no_work_was_done_allow_a_repetition_by_themselves(code: str) -> None:
    assert ProviderError(code, "x", True).refused is (code in REFUSALS)  # type: ignore[arg-type]
    assert not ProviderError(code, "x").refused  # type: ignore[arg-type]


def test_what_the_provider_says_itself_goes_before_the_code() -> None:
    assert not ProviderError("overloaded", "x", True, 2.0, refused=False).refused
    assert ProviderError("upstream_error", "x", True, refused=True).refused
    assert ProviderError("rate_limited", "x", True, 2.0).retry_after == 2.0
