"""The turn engine, as clients see it: submit, steer, cancel, retry, delete.

submit → store.accept → runner.start     a new turn
         store.accept → steering         a message for the turn that runs
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias, TypeVar

import msgspec
import structlog

from gateway.agents import Agents
from gateway.attachments import Attachments
from gateway.clock import now
from gateway.errors import Busy, Draining, GatewayError, NoAttachments, NotFound, NotRetryable, QueueFull
from gateway.eventlog.position import new_epoch
from gateway.ids import new_id
from gateway.nodes.control import Control
from gateway.notices import Notices
from gateway.protocol import AttachmentReference, MessageBody
from gateway.runner.base import Runner
from gateway.runner.running import RunningTurn
from gateway.settings import Settings
from gateway.store.base import Store
from gateway.store.records import Accepted, NewTurn, Thread, Turn
from providers import Message

TITLE_CHARS = 80
DELETIONS = 5
"""How often a thread is tried to be deleted in which messages go on to be accepted."""
DELETION_SECONDS = 0.1
"""Between two of these tries: what was accepted last may be about to begin."""
STEERED = 100
"""Messages handed to one turn that its retry repeats."""

Result = TypeVar("Result")
Announce: TypeAlias = Callable[[Accepted], None]

_log = structlog.get_logger(__name__)


class TurnEngine:
    """What people may ask of turns. A change that was begun is not given up when the client goes away that asked."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        agents: Agents,
        attachments: Attachments,
        notices: Notices,
        runner: Runner,
        control: Control,
    ) -> None:
        self._settings = settings
        self._store = store
        self._agents = agents
        self._attachments = attachments
        self._notices = notices
        self._runner = runner
        self._changes: set[asyncio.Task[Any]] = set()
        control.on("steer", self._asked_to_steer)

    @property
    def draining(self) -> bool:
        """Whether no new message is taken."""
        return self._runner.draining

    async def submit(
        self,
        user_id: str,
        agent_name: str,
        message: MessageBody,
        *,
        retry_of: str | None = None,
        announce: Announce | None = None,
    ) -> Accepted:
        """Commit the message; start its turn, queue it, or hand it to the running turn. A repeated `id` starts nothing.

        `announce` is called once the message is committed, and before anything of its turn is logged.

        Raises:
            GatewayError: nothing was stored.
        """
        agent = self._agents.get(agent_name)
        agent.ready()
        if self.draining:
            raise Draining("this server is about to stop: send the message again after reconnecting", retry_after=1.0)
        if message.attachments and "attachments" not in agent.capabilities:
            raise NoAttachments(f"the agent {agent_name!r} takes no attachments", field="attachments")
        attached = await self._attachments.shown(user_id, [one.id for one in message.attachments])
        at = now()
        new = NewTurn(
            user_id=user_id,
            agent=agent_name,
            thread_id=message.thread_id or new_id("t"),
            thread_chosen_by_client=message.thread_id is not None,
            client_id=message.id,
            turn_id=new_id("u"),
            message_id=new_id("m"),
            answer_id=new_id("m"),
            content=message.content,
            attachments=attached,
            retry_of=retry_of,
            epoch=new_epoch(),
            title=title_of(message.content) or title_of(" ".join(one["name"] for one in attached)),
            queue_limit=0 if message.when_busy == "reject" else self._settings.limits.queue,
            at=at,
        )
        if message.when_busy == "reject":
            try:
                return await self._uninterrupted(self._accept(new, announce))
            except QueueFull:
                raise Busy("a turn runs in this thread, and this message was not to wait for it") from None
        if message.when_busy == "steer" and message.thread_id is not None and "steer" in agent.capabilities:
            return await self._uninterrupted(self._steer(new, announce))
        return await self._uninterrupted(self._accept(new, announce))

    async def _accept(self, new: NewTurn, announce: Announce | None) -> Accepted:
        return await self._begin(await self._store.accept(new), new, announce)

    async def _begin(self, accepted: Accepted, new: NewTurn, announce: Announce | None) -> Accepted:
        if announce is not None:
            announce(accepted)
        if not accepted.duplicate:
            _log_accepted(accepted, new)
            if accepted.turn.status == "running":
                await self._runner.start(accepted.turn)
        return accepted

    async def _steer(self, new: NewTurn, announce: Announce | None) -> Accepted:
        """Hand the message to the running turn if its provider waits for one, else accept it as any other."""
        thread = await self._store.thread(new.user_id, new.thread_id)
        if thread is not None:
            running = self._runner.in_thread(thread.key)
            if running is not None:
                steered = await self._hand_over(running, new, announce)
            elif (steered := await self._runner.steer_elsewhere(new)) is not None:
                handed = msgspec.structs.replace(steered.turn, content=new.content, attachments=new.attachments)
                steered = msgspec.structs.replace(steered, turn=handed)
                if announce is not None:
                    announce(steered)
            if steered is not None:
                return steered
        return await self._accept(new, announce)

    async def _hand_over(self, running: RunningTurn, new: NewTurn, announce: Announce | None) -> Accepted | None:
        """Commit the message and give it to a turn that runs here; None, and nothing is stored, if it takes none."""
        if not await running.steering.wanted():
            return None
        async with running.log.flushing:  # the turn cannot end meanwhile
            if running.finishing or running.stopped_by is not None:
                return None
            accepted = await self._store.accept(msgspec.structs.replace(new, steer_into=running.turn_id))
            if accepted.duplicate or not accepted.steered:
                return await self._begin(accepted, new, announce)
            attached = self._attachments.for_provider(new.user_id, new.attachments)
            if await running.steering.hand_over(Message("user", new.content, attached)):
                if announce is not None:
                    announce(accepted)
                running.log_user_message(accepted.turn)
                _log_accepted(accepted, new)
                return accepted
            await self._store.unsteer(new.message_id)
        return None

    async def _asked_to_steer(self, asked: dict[str, Any]) -> Any:
        """Another node has a message for a turn that runs here."""
        new = msgspec.convert(asked["new"], NewTurn)
        thread = await self._store.thread(new.user_id, new.thread_id)
        running = None if thread is None else self._runner.in_thread(thread.key)
        if running is None:
            return None
        try:
            accepted = await self._uninterrupted(self._hand_over(running, new, None))
        except GatewayError:  # the store will refuse the one who asks as well
            accepted = None
        if accepted is not None:  # without what who asks knows, and needs not: an answer has its bound
            turn = msgspec.structs.replace(accepted.turn, content="", attachments=[])
            thread = msgspec.structs.replace(accepted.thread, session=None)
            accepted = msgspec.structs.replace(accepted, turn=turn, thread=thread)
        return {"accepted": msgspec.to_builtins(accepted)}

    async def retry(self, user_id: str, turn_id: str) -> Accepted:
        """Start a new turn with the message of one that did not complete, and with what it was told while it ran.

        Raises:
            NotRetryable: it has not ended, or it completed.
        """
        thread, turn = await self._find(user_id, turn_id)
        if turn.status not in ("failed", "interrupted", "cancelled"):
            raise NotRetryable(f"the turn is {turn.status}: only one that failed or was stopped can be tried again")
        attached = [AttachmentReference(id=one["id"]) for one in turn.attachments]
        body = MessageBody(content=await self._asked(thread, turn), thread_id=thread.thread_id, attachments=attached)
        return await self.submit(user_id, thread.agent, body, retry_of=turn_id)

    async def _asked(self, thread: Thread, turn: Turn) -> str:
        """The turn's message and those that were handed to it while it ran: its provider may have lost them with it."""
        first = await self._store.message(thread.key, turn.message_id)
        if first is None:
            return turn.content
        page = await self._store.messages(thread.key, after=first.position, limit=STEERED)
        steered = [m.content for m in page if m.turn_id == turn.turn_id and m.role == "user"]
        return "\n\n".join([turn.content, *steered])

    async def cancel_turn(self, user_id: str, turn_id: str) -> None:
        """Stop a turn, running or queued. One that has ended stays as it is. Raises `NotFound`."""
        thread, _ = await self._find(user_id, turn_id)
        await self._uninterrupted(self._cancel_queued(thread.key, turn_id))
        await self._runner.cancel_running(thread.key, turn_id)

    async def cancel_thread(self, user_id: str, thread_id: str) -> None:
        """Stop the running turn of a thread and every queued one. Raises `NotFound`."""
        thread = await self._store.thread(user_id, thread_id)
        if thread is None:
            raise NotFound("there is no such thread", field="thread_id")
        await self._uninterrupted(self._cancel_queued(thread.key, None))
        await self._runner.cancel_running(thread.key, None)

    async def delete_thread(self, user_id: str, thread_id: str) -> None:
        """Stop whatever runs in a thread, and delete it with all that belongs to it.

        Raises:
            NotFound: the user has no such thread.
            Busy: messages to it are accepted faster than their turns can be stopped.
        """
        for others in reversed(range(DELETIONS)):
            await self.cancel_thread(user_id, thread_id)
            try:
                await self._delete_at_rest(user_id, thread_id)
                return
            except Busy:  # a message was accepted meanwhile: its turn is to be stopped as well
                if not others:
                    raise
            await asyncio.sleep(DELETION_SECONDS)

    async def _delete_at_rest(self, user_id: str, thread_id: str) -> None:
        thread = await self._store.thread(user_id, thread_id)
        if thread is not None:
            await self._runner.end_of(thread.key)
        hashes = set() if thread is None else await self._store.thread_hashes(thread.key)
        if not await self._store.delete(user_id, thread_id):
            raise NotFound("there is no such thread", field="thread_id")
        if thread is not None:
            await self._notices.deleted(thread)
            await self._runner.forget_thread(thread.key)
        await self._attachments.let_go(hashes)

    async def _uninterrupted(self, change: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _find(self, user_id: str, turn_id: str) -> tuple[Thread, Turn]:
        found = await self._store.turn(user_id, turn_id)
        if found is None:
            raise NotFound("there is no such turn", field="turn_id")
        return found

    async def _cancel_queued(self, thread_key: int, turn_id: str | None) -> None:
        if await self._store.cancel_queued(thread_key, turn_id, now()):
            await self._runner.show_cancelled(thread_key)

    async def __aenter__(self) -> TurnEngine:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Changes that are under way end, or with the runner's help fail, before the store closes."""
        if self._changes:
            await asyncio.wait(set(self._changes), timeout=5.0)
        for task in self._changes:
            task.cancel()


def title_of(content: str) -> str:
    """The title of a thread that begins with this message: its first line, shortened."""
    line = next((line.strip() for line in content.splitlines() if line.strip()), "")
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"


def _log_accepted(accepted: Accepted, new: NewTurn) -> None:
    _log.info(
        "turn_accepted",
        turn_id=accepted.turn.turn_id,
        thread_id=accepted.thread.thread_id,
        user_id=new.user_id,
        agent=new.agent,
        queued=accepted.queued,
        steered=accepted.steered,
        chars=len(new.content),
    )
