"""Every provider keeps the contract: one suite, one backend each (see `backends.py`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from providers import registry
from providers.testing import RULES, Report, check, turns_at_most
from tests.contract.backends import BACKENDS, Backend


@pytest.fixture(scope="module", params=list(BACKENDS))
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with BACKENDS[request.param](tmp_path_factory.mktemp("backend")) as backend:
        yield backend


@pytest.fixture(scope="module")
def report(backend: Backend) -> Report:
    """One run of the kit, whose findings the tests look at one by one."""
    return asyncio.run(check(backend.provider(), backend.turn, limits=backend.limits))


@pytest.mark.parametrize("rule", RULES)
def test_a_provider_keeps_the_contract(report: Report, rule: str) -> None:
    (finding,) = [finding for finding in report.findings if finding.rule == rule]
    assert finding.problem is None, finding
    assert not finding.skipped, report


def test_its_turn_asks_for_an_approval_where_it_is_meant_to(backend: Backend, report: Report) -> None:
    """Otherwise the rule about approvals would be kept for want of any."""
    assert report.turns == turns_at_most() - (0 if backend.must_ask else 1)


def test_every_provider_of_this_distribution_is_here() -> None:
    ours = {name for name, entry in registry.installed().items() if entry.value.startswith("providers.")}
    assert ours == {name.partition("-")[0] for name in BACKENDS}
