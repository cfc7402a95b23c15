import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import BadFrame, NotFound
from gateway.store.sql import SqlStore
from providers import ApprovalRequest, Completed, Decision, Event, Option, TextDelta, Turn
from tests.gateway.engine import engine

OPTIONS = (Option("approved", "Yes"), Option("later", "Later"), Option("declined", "No"))


async def asks(turn: Turn) -> AsyncGenerator[Event]:
    decision = await turn.approve(ApprovalRequest("command", "Run it?", {"command": "ls"}, "c1", OPTIONS))
    yield TextDelta("a", f"{decision.option} {decision.text} {decision.expired}")
    yield Completed()


async def test_the_first_answer_wins_and_a_later_one_gets_what_stands(store: SqlStore, tmp_path: Path) -> None:
    async with engine(store, tmp_path, a=asks) as parts:
        phone = parts.client()
        await phone.send()
        request = await phone.until("approval_request")
        assert (request["kind"], request["detail"], request["call_id"]) == ("command", {"command": "ls"}, "c1")
        assert [option["id"] for option in request["options"]] == ["approved", "later", "declined"]
        first, counts = await parts.approvals.decide("alice", request["approval_id"], "later", "at noon", "phone")
        assert (first.decision, first.by, counts) == ("later", "phone", True)
        # At once, and when it is in the store.
        for _ in range(2):
            standing, counts = await parts.approvals.decide("alice", request["approval_id"], "approved", None, "tablet")
            assert (standing.decision, standing.by, counts) == ("later", "phone", False)
            await parts.logs.checkpoint()
        assert (await phone.until("done"))["content"] == "later at noon False"


async def test_nobody_else_sees_or_decides_it(store: SqlStore, tmp_path: Path) -> None:
    async with engine(store, tmp_path, a=asks) as parts:
        phone = parts.client()
        await phone.send()
        approval_id = (await phone.until("approval_request"))["approval_id"]
        for state in ("open", "decided"):
            for user, name in (("bob", approval_id), ("alice", "p-none")):
                with pytest.raises(NotFound) as caught:
                    await parts.approvals.decide(user, name, "approved", None, None)
                assert caught.value.message == "there is no such approval", state
            await parts.approvals.decide("alice", approval_id, "approved", None, None)
        await phone.until("done")


async def test_what_was_not_offered_is_refused_and_it_stays_open(store: SqlStore, tmp_path: Path) -> None:
    async with engine(store, tmp_path, a=asks) as parts:
        phone = parts.client()
        await phone.send()
        approval_id = (await phone.until("approval_request"))["approval_id"]
        for decision in ("", "Approved", "expired", "cancelled"):
            with pytest.raises(BadFrame) as caught:
                await parts.approvals.decide("alice", approval_id, decision, None, None)
            assert caught.value.field == "decision"
        await parts.approvals.decide("alice", approval_id, "declined", None, None)
        assert (await phone.until("done"))["content"] == "declined None False"


async def test_without_an_answer_it_expires_as_declined(store: SqlStore, tmp_path: Path) -> None:
    async with engine(store, tmp_path, {"approval": {"timeout_seconds": 0.1}}, a=asks) as parts:
        phone = parts.client()
        await phone.send()
        request = await phone.until("approval_request")
        resolved = await phone.until("approval_resolved")
        assert (resolved["decision"], resolved["by"]) == ("expired", None)
        assert (await phone.until("done"))["content"] == "declined None True"
        standing, counts = await parts.approvals.decide("alice", request["approval_id"], "approved", None, None)
        assert (standing.decision, counts) == ("expired", False)


async def test_the_end_of_the_turn_cancels_what_is_open(store: SqlStore, tmp_path: Path) -> None:
    async with engine(store, tmp_path, a=asks) as parts:
        phone = parts.client()
        accepted = await phone.send()
        request = await phone.until("approval_request")
        await parts.turns.cancel_turn("alice", accepted.turn.turn_id)
        assert (await phone.until("approval_resolved"))["decision"] == "cancelled"
        assert (await phone.until("done"))["status"] == "cancelled"
        standing, _ = await parts.approvals.decide("alice", request["approval_id"], "approved", None, None)
        assert standing.decision == "cancelled"
        assert phone.kinds.count("approval_resolved") == 1


async def test_several_may_be_open_at_once_and_each_gets_its_own_answer(store: SqlStore, tmp_path: Path) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        decisions = await asyncio.gather(
            *(turn.approve(ApprovalRequest("tool", f"{number}?", options=OPTIONS)) for number in range(3))
        )
        yield TextDelta("a", " ".join(decision.option for decision in decisions))
        yield Completed()

    async with engine(store, tmp_path, a=stream) as parts:
        phone = parts.client()
        await phone.send()
        requests = [await phone.until("approval_request") for _ in range(3)]
        for request, decision in zip(requests[::-1], ("approved", "later", "declined"), strict=True):
            await parts.approvals.decide("alice", request["approval_id"], decision, None, None)
        by_title = dict(zip((r["title"] for r in requests), ("declined", "later", "approved"), strict=True))
        done = await phone.until("done")
        assert done["content"].split() == [by_title[f"{number}?"] for number in range(3)]


async def test_nothing_is_asked_once_the_turn_is_over(store: SqlStore, tmp_path: Path) -> None:
    """A provider's stray task may ask at any moment; an event behind `done` would break the log."""
    decisions: list[Decision] = []
    stray: list[asyncio.Task[Any]] = []

    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        async def ask() -> None:
            while len(decisions) < 3:
                await asyncio.sleep(0)
                if over.is_set():
                    decisions.append(await turn.approve(ApprovalRequest("tool", "Still there?")))

        over = asyncio.Event()
        stray.append(asyncio.create_task(ask()))
        try:
            yield TextDelta("a", "x")
            yield Completed()
        finally:
            asyncio.get_running_loop().call_later(0, over.set)

    async with engine(store, tmp_path, a=stream) as parts:
        phone = parts.client()
        accepted = await phone.send()
        await phone.until("done")
        stored = await parts.ended(accepted)
        async with asyncio.timeout(5):
            await stray[0]
        assert [decision.approved for decision in decisions] == [False] * 3
        assert phone.kinds.count("approval_request") == phone.kinds.count("approval_resolved")
        log = await parts.logs.hold(stored.thread_key)
        assert log.position.cursor == phone.frames[-1]["cursor"]
        assert phone.kinds[-1] == "done"


async def test_a_request_that_is_not_made_of_json_is_the_provider_s_fault(store: SqlStore, tmp_path: Path) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        await turn.approve(ApprovalRequest("tool", "?", {"x": object()}))
        yield Completed()

    async with engine(store, tmp_path, a=stream) as parts:
        stored = await parts.run()
        assert stored.error is not None
        assert stored.error["code"] == "provider_fault"


async def test_odd_text_in_a_request_is_normalised_and_its_options_can_be_chosen(
    store: SqlStore, tmp_path: Path
) -> None:
    async def stream(turn: Turn) -> AsyncGenerator[Event]:
        odd = (Option("\ud800", "\x00"), *OPTIONS)
        decision = await turn.approve(
            ApprovalRequest("tool", "t" * 50_000 + "\ud800", {"\ud800": "\ud800"}, "\x00", odd)
        )
        yield TextDelta("a", decision.option)
        yield Completed()

    async with engine(store, tmp_path, a=stream) as parts:
        phone = parts.client()
        await phone.send()
        request = await phone.until("approval_request")
        assert request["detail"] == {"\ufffd": "\ufffd"}
        await parts.approvals.decide("alice", request["approval_id"], request["options"][0]["id"], None, None)
        assert (await phone.until("done"))["content"] == "\ufffd"
