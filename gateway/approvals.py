"""Decisions that agents ask of people: opened by a provider, resolved by the first answer, expiry or the turn's end.

Nothing is ever approved by default.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gateway import protocol
from gateway.clock import now, rfc3339
from gateway.errors import BadFrame, NodeUnavailable, NotFound, TooLarge
from gateway.eventlog.local import LocalEventLog
from gateway.ids import new_id
from gateway.nodes.control import ASK_SECONDS, Control, Solo
from gateway.pushing import Pushing
from gateway.store.base import Store
from gateway.store.records import Approval
from gateway.text import json_object, normalise
from providers import DECLINED, ApprovalRequest, Decision, ProviderError

if TYPE_CHECKING:
    from gateway.runner.running import RunningTurn


TITLE_CHARS = 1000
"""A longer title comes cut."""
OPTIONS = 32
"""More than a person can be asked to choose from."""
OPTION_CHARS = 200
"""Of an option's id; a longer label comes cut."""
DECIDE_SECONDS = ASK_SECONDS
"""How long the node on which an approval is open may take to decide it for another one."""
NEW_SECONDS = 1.0
"""How long the other nodes are asked for an approval that the store does not know: it may not be durable yet."""

_ID = re.compile(r"p-[0-9a-f]{24}")
"""What an approval's id looks like."""


class _Open(msgspec.Struct):
    record: Approval
    running: Any
    options: frozenset[str]
    decided: asyncio.Future[Decision]


class _Answer(msgspec.Struct):
    """What a node answers to another one's `decide`."""

    standing: protocol.StandingDecision | None = None
    counts: bool = False
    refused: str | None = None
    """Why the decision is none of those that were offered."""


class Approvals:
    """The approvals that are open in this process; those that are over are in the store."""

    def __init__(
        self,
        store: Store,
        logs: LocalEventLog,
        pushing: Pushing,
        timeout_seconds: float,
        control: Control | None = None,
    ) -> None:
        self._store = store
        self._pushing = pushing
        self._logs = logs
        self._timeout_seconds = timeout_seconds
        self._open: dict[str, _Open] = {}
        self._control = Solo() if control is None else control
        self._control.on("approval", self._known_to_another)
        self._control.on("decide", self._decide_for_another)

    async def ask(self, running: RunningTurn, request: ApprovalRequest) -> Decision:
        """Ask the turn's user, and wait for the answer. `declined` when nobody gives one in time.

        Cancelled with the turn, and then resolved as `cancelled`.
        """
        if running.stopped_by is not None or running.finishing:
            return Decision(DECLINED.id, expired=True)
        asked = now()
        approval_id = new_id("p")
        shown = _shown(approval_id, request, asked + int(self._timeout_seconds * 1000))
        record = Approval(
            approval_id=approval_id,
            thread_id=running.log.thread_id,
            turn_id=running.turn_id,
            request=msgspec.to_builtins(shown),
            decision=None,
            by=None,
            text=None,
            created_at=asked,
            expires_at=asked + int(self._timeout_seconds * 1000),
            resolved_at=None,
        )
        decided: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        offered = frozenset(option.id for option in shown["options"])
        opened = self._open[approval_id] = _Open(record, running, offered, decided)
        running.answer.log(protocol.ApprovalRequest, **shown)
        self._remember(opened)
        running.deadlines.pause()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._pushing.ask(record, running.agent.name, running.turn.answer_id)
                return await decided
        except asyncio.CancelledError:
            if approval_id in self._open:
                self._resolve(opened, "cancelled", None, None)
            raise
        except TimeoutError:
            if approval_id not in self._open:  # answered in the very moment of expiry
                return decided.result() if not decided.cancelled() else Decision(opened.record.decision or DECLINED.id)
            self._resolve(opened, "expired", None, None)
            return Decision(DECLINED.id, expired=True)
        finally:
            running.deadlines.resume()

    async def decide(
        self, user_id: str, approval_id: str, decision: str, text: str | None, by: str | None
    ) -> tuple[protocol.StandingDecision, bool]:
        """Answer an approval, on whichever node it is open. The first answer wins; a later one changes nothing.

        Returns what stands, and whether this was the answer that counts.

        Raises:
            NotFound: this user has no such approval.
            BadFrame: the decision is none of the offered ones.
            NodeUnavailable: it is open on a node that does not answer. If that one is dead, its approvals are resolved
                as `cancelled` once another one has taken over its turns.
            TooLarge: it is open on another node, and `text` is longer than nodes can tell each other.
        """
        decided = self._decide_here(user_id, approval_id, decision, text, by)
        if decided is not None:
            return decided
        record = await self._store.approval(user_id, approval_id)
        if record is not None and record.decision is not None:
            return _standing(record), False
        if record is None and not await self._is_new_elsewhere(user_id, approval_id):
            raise _unknown()
        try:
            return await self._decide_elsewhere(user_id, approval_id, decision[: OPTION_CHARS + 1], text, by)
        except NodeUnavailable:
            record = await self._store.approval(user_id, approval_id)  # it may have been resolved meanwhile
            if record is None:
                raise _unknown() from None
            if record.decision is None:
                raise
            return _standing(record), False

    async def _is_new_elsewhere(self, user_id: str, approval_id: str) -> bool:
        """Whether the user has this approval, but it was not durable yet a moment ago."""
        if not _ID.fullmatch(approval_id):
            return False
        try:
            await self._control.ask("approval", within=NEW_SECONDS, user_id=user_id, approval_id=approval_id)
        except NodeUnavailable:
            return await self._store.approval(user_id, approval_id) is not None
        return True

    async def _decide_elsewhere(
        self, user_id: str, approval_id: str, decision: str, text: str | None, by: str | None
    ) -> tuple[protocol.StandingDecision, bool]:
        question: dict[str, Any] = {
            "user_id": user_id,
            "approval_id": approval_id,
            "decision": decision,
            "text": text,
            "by": by,
        }
        try:
            said = await self._control.ask("decide", within=DECIDE_SECONDS, **question)
        except ValueError:
            raise TooLarge("text: it is too long to be passed on to the server that runs this turn") from None
        answer = msgspec.convert(said, _Answer)
        if answer.refused is not None:
            raise BadFrame(answer.refused, field="decision")
        assert answer.standing is not None  # noqa: S101 - the other node gives one of the two
        return answer.standing, answer.counts

    async def _known_to_another(self, payload: dict[str, Any]) -> bool | None:
        return self._knows(**payload) or None

    def _knows(self, user_id: str, approval_id: str) -> bool:
        opened = self._open.get(approval_id)
        if opened is not None and opened.running.log.user_id == user_id:
            return True
        return self._logs.pending_approval(user_id, approval_id) is not None

    async def _decide_for_another(self, payload: dict[str, Any]) -> dict[str, Any] | None:
        try:
            decided = self._decide_here(**payload)
        except BadFrame as error:
            return {"refused": error.message}
        if decided is None:
            return None
        return {"standing": msgspec.to_builtins(decided[0]), "counts": decided[1]}

    def _decide_here(
        self, user_id: str, approval_id: str, decision: str, text: str | None, by: str | None
    ) -> tuple[protocol.StandingDecision, bool] | None:
        """As `decide`; None if nothing is known of it here."""
        opened = self._open.get(approval_id)
        if opened is None or opened.running.log.user_id != user_id:
            pending = self._logs.pending_approval(user_id, approval_id)
            return None if pending is None or pending.decision is None else (_standing(pending), False)
        if decision not in opened.options:
            raise BadFrame(f"decision: expected one of {', '.join(sorted(opened.options))}", field="decision")
        self._resolve(opened, decision, text, by)
        if not opened.decided.done():
            opened.decided.set_result(Decision(decision, text))
        return _standing(opened.record), True

    def cancel(self, running: RunningTurn) -> None:
        """Resolve what a turn that ends has left open."""
        for opened in list(self._open.values()):
            if opened.running is running:
                self._resolve(opened, "cancelled", None, None)
                if not opened.decided.done():  # somebody the provider left behind still waits
                    opened.decided.set_result(Decision(DECLINED.id))

    def cancel_recovered(self, running: RunningTurn) -> None:
        """Resolve what a turn had open when the process died that ran it."""
        for event in list(running.view.approvals.values()):
            offered = frozenset(option.id for option in event.options)
            record = Approval(
                approval_id=event.approval_id,
                thread_id=event.thread_id,
                turn_id=event.turn_id,
                request=msgspec.to_builtins(event),
                decision=None,
                by=None,
                text=None,
                created_at=now(),
                expires_at=now(),
                resolved_at=None,
            )
            decided: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
            self._resolve(_Open(record, running, offered, decided), "cancelled", None, None)

    def _resolve(self, opened: _Open, decision: str, text: str | None, by: str | None) -> None:
        self._open.pop(opened.record.approval_id, None)
        opened.record = msgspec.structs.replace(opened.record, decision=decision, text=text, by=by, resolved_at=now())
        opened.running.answer.log(
            protocol.ApprovalResolved, approval_id=opened.record.approval_id, decision=decision, by=by
        )
        self._remember(opened)

    def _remember(self, opened: _Open) -> None:
        log = opened.running.log
        log.approvals[opened.record.approval_id] = opened.record
        self._logs.touch(log)


def _shown(approval_id: str, request: ApprovalRequest, expires_at: int) -> dict[str, Any]:
    options: Sequence[protocol.ApprovalOption] = [
        protocol.ApprovalOption(normalise(option.id), normalise(option.label)[:OPTION_CHARS])
        for option in request.options
    ]
    if len(options) > OPTIONS or any(len(option.id) > OPTION_CHARS for option in options):
        message = "The agent's provider broke its contract: an approval has too many options, or too long ones."
        raise ProviderError("provider_fault", message)
    try:
        detail = json_object(request.detail)
    except ValueError:
        message = "The agent's provider broke its contract: the detail of an approval is not made of JSON values."
        raise ProviderError("provider_fault", message) from None
    return {
        "approval_id": approval_id,
        "call_id": None if request.call_id is None else normalise(request.call_id),
        "kind": request.kind,
        "title": normalise(request.title)[:TITLE_CHARS],
        "detail": detail,
        "options": options,
        "free_text": request.free_text,
        "expires_at": rfc3339(expires_at),
    }


def _unknown() -> NotFound:
    return NotFound("there is no such approval", field="approval_id")


def _standing(record: Approval) -> protocol.StandingDecision:
    return protocol.StandingDecision(
        timestamp=rfc3339(record.resolved_at or record.created_at),
        thread_id=record.thread_id,
        turn_id=record.turn_id,
        approval_id=record.approval_id,
        decision=record.decision or "",
        by=record.by,
    )
