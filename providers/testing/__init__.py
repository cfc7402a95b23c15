"""The conformance kit: whether a provider keeps its contract, and if not, what it did.

    report = await check(EchoProvider(), message("Hi"))
    assert report.ok, report

Under pytest, one test per rule:

    @pytest.mark.parametrize("rule", RULES)
    async def test_the_contract(rule: str) -> None:
        await require(rule, EchoProvider, message("Hi"))

The turn should give an answer of at least two events. `check` plays it once for all rules that look at an answer, and
anew for those about closing, cancelling and two turns at once; it says `repeatable=False` of a backend that does not
give the same answer every time. A provider that is an async context manager is entered first. Tasks of a backend in the
same loop count as the provider's own: run a fake in a thread or a process.
"""

from providers.testing.kit import RULES, check, examine, message, require, turns_at_most
from providers.testing.play import Limits
from providers.testing.report import Finding, Report

__all__ = ["RULES", "Finding", "Limits", "Report", "check", "examine", "message", "require", "turns_at_most"]
