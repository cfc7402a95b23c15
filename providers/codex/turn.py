"""One turn: the user's message goes to a Codex thread, what comes back becomes events.

Tasks of a turn (one per open approval, one for steering) report through the same queue as Codex, so the turn
itself has one loop and one place that waits. `Run.close` ends them all, interrupts Codex, and is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections import deque
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeAlias

from providers.base import Message, Turn
from providers.codex.approvals import QUESTIONS, answer, no
from providers.codex.client import Client, Disconnected, Inbox, Incoming, Overflow, RpcError
from providers.codex.errors import disconnected
from providers.codex.mapping import Mapping
from providers.codex.threads import INTERRUPT_SECONDS, user_input
from providers.errors import ProviderError
from providers.events import Completed, Event, Progress

__all__ = ["Run"]

JSON: TypeAlias = dict[str, Any]
log = logging.getLogger(__name__)

START_SECONDS = 60.0
AGAIN_SECONDS = 0.1
HEARTBEAT_SECONDS = 15.0
"""How often a running tool counts as progress. A silent build is work; an unreachable backend is not."""


class Run:
    """The turn in its Codex thread, from `turn/start` to the last `turn/completed`."""

    def __init__(self, client: Client, inbox: Inbox, turn: Turn) -> None:
        self._client = client
        self._inbox = inbox
        self._turn = turn
        self._mapping = Mapping()
        self._turn_id: str | None = None
        self._starting = False
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._asking: dict[int | str, asyncio.Task[None]] = {}
        self._steering: asyncio.Task[None] | None = None
        self._steer = asyncio.Lock()
        self._late: deque[Message] = deque()
        """Messages that could not steer, yet; the thread gets them as its next turn, within this one."""
        self._steered: dict[str, Message] = {}
        """Messages that Codex has accepted and not yet told the model, by the ids that we gave them."""
        self._unanswered = False
        """Codex has put a steering message into the thread, and the model has not said anything since."""

    async def events(self) -> AsyncGenerator[Event]:
        """
        Raises:
            ProviderError
        """
        await self._start(user_input(self._turn.messages[-1].content))
        self._steering = self._task(self._take_steering())
        try:
            while True:
                incoming = await self._next()
                if incoming is None:
                    yield Progress()
                elif incoming.id is not None:
                    self._ask(incoming)
                elif incoming.params.get("threadId") != self._inbox.thread_id:
                    for event in self._mapping.feed_child(incoming.method, incoming.params):
                        yield event
                elif incoming.method == "serverRequest/resolved":
                    self._resolved(incoming.params["requestId"])
                elif incoming.method == "thread/closed":
                    raise disconnected()
                elif self._is_ours(incoming):
                    for event in await self._feed(incoming):
                        yield event
                        if isinstance(event, Completed):
                            return
        except Disconnected:
            self._ended.set()
            raise disconnected() from None
        except Overflow:
            raise ProviderError("provider_fault", "Codex sent more than could be taken.") from None
        except (KeyError, TypeError, AttributeError) as error:
            log.error("codex: a message is not of the expected shape: %s", type(error).__name__)
            raise ProviderError("provider_fault", "Codex sent something that is not understood.") from None

    async def close(self) -> None:
        """End the turn's tasks, and Codex's turn if it still runs: returns when it is really over.

        Bounded by INTERRUPT_SECONDS. A turn that cannot be ended costs the process, once its other turns are done.
        """
        for task in tuple(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))
        if self._ended.is_set() or not self._starting:
            return
        try:
            async with asyncio.timeout(INTERRUPT_SECONDS):
                await self._interrupt()
        except Disconnected:
            pass
        except (TimeoutError, Overflow) as error:
            log.warning("codex: a turn could not be interrupted: %s", type(error).__name__)
            self._client.retire()

    async def _interrupt(self) -> None:
        """Interrupt, and read on until the turn is over.

        A turn that was cancelled before Codex had named it is named by its first notification; one that Codex
        has accepted but not yet begun cannot be interrupted ("no active turn"), so it is asked again.
        """
        accepted = False
        while not self._ended.is_set():
            if self._turn_id is not None and not accepted:
                params = {"threadId": self._inbox.thread_id, "turnId": self._turn_id}
                with contextlib.suppress(RpcError):
                    await self._client.request("turn/interrupt", params)
                    accepted = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    self._watch(await self._inbox.get())

    def _watch(self, incoming: Incoming) -> None:
        if incoming.id is not None:
            self._client.respond(incoming.id, no(incoming.method))
        elif incoming.params.get("threadId") != self._inbox.thread_id:
            pass
        elif incoming.method == "turn/started" and self._turn_id is None:
            self._turn_id = incoming.params["turn"]["id"]
        elif incoming.method == "turn/completed" and self._is_ours(incoming):
            self._ended.set()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside the loop; its failure is raised in the loop."""

        async def reporting() -> None:
            try:
                await work
            except Exception as error:
                self._inbox.put(error)

        task = asyncio.create_task(reporting())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _next(self) -> Incoming | None:
        """The next message; None when it is time to say that a tool still runs."""
        while not self._inbox:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    return await self._inbox.get()
            except TimeoutError:
                if self._mapping.waiting_for_tools and not self._asking:
                    return None
        return await self._inbox.get()

    def _is_ours(self, incoming: Incoming) -> bool:
        """Whether it is about this turn: a resumed thread may first repeat something about earlier ones."""
        turn_id = incoming.params.get("turnId") or (incoming.params.get("turn") or {}).get("id")
        return turn_id is None or turn_id == self._turn_id

    async def _start(self, given: list[JSON]) -> None:
        """Begin a turn in the thread. Without input it is about what the thread holds already."""
        self._starting = True
        params = {"threadId": self._inbox.thread_id, "input": given}
        try:
            started = await self._client.request("turn/start", params, within=START_SECONDS)
        except RpcError:
            self._ended.set()
            raise ProviderError("upstream_error", "Codex could not begin the turn.", retryable=True) from None
        except Disconnected:
            self._ended.set()
            raise disconnected() from None
        except TimeoutError:
            raise ProviderError("timeout", "Codex did not begin the turn in time.", retryable=True) from None
        self._turn_id = started["turn"]["id"]

    async def _feed(self, incoming: Incoming) -> list[Event]:
        if incoming.method != "turn/completed":
            self._note_answers(incoming)
            return list(self._mapping.feed(incoming.method, incoming.params))
        async with self._steer:  # a message on its way either still makes it or is late
            self._ended.set()
        events = list(self._mapping.feed(incoming.method, incoming.params))
        late = [*self._steered.values(), *self._late]
        if late or self._unanswered:
            self._late.clear()
            self._steered.clear()
            self._unanswered = False
            self._ended.clear()
            self._turn_id = None
            await self._start(user_input("\n\n".join(message.content for message in late)) if late else [])
            return [event for event in events if not isinstance(event, Completed)]
        if self._steering is not None:
            self._steering.cancel()  # what it has not taken by now stays with the gateway
        return events

    def _note_answers(self, incoming: Incoming) -> None:
        """Codex accepts a message that comes while it ends its turn, puts it into the thread, and ends without asking
        the model again (0.163.0, about one in ten of those that come within the last milliseconds)."""
        if incoming.method in ("item/started", "item/completed"):
            item = incoming.params["item"]
            if item["type"] != "userMessage":
                self._unanswered = self._unanswered and incoming.method != "item/started"
            elif self._steered.pop(item.get("clientId") or "", None) is not None:
                self._unanswered = True

    def _ask(self, request: Incoming) -> None:
        """Let a person answer a request of Codex; anything that is not a known question is refused at once."""
        assert request.id is not None  # noqa: S101 - the caller looked
        if request.method not in QUESTIONS:
            self._client.refuse(request.id)
            return
        task = self._task(self._answer(request))
        self._asking[request.id] = task

    async def _answer(self, request: Incoming) -> None:
        assert request.id is not None  # noqa: S101 - the caller looked
        result = no(request.method)
        try:
            result = await answer(request, self._mapping, self._turn.approve)
        finally:  # cancelled or failed: an answer is owed, and it is no
            del self._asking[request.id]
            self._client.respond(request.id, result)

    def _resolved(self, request_id: int | str) -> None:
        """Codex no longer waits for this answer."""
        task = self._asking.get(request_id)
        if task is not None:
            task.cancel()

    async def _take_steering(self) -> None:
        numbers = itertools.count(1)
        async for message in self._turn.steering:
            self._late.append(message)  # from here on it is ours, also if the turn ends before we come any further
            async with self._steer:
                if self._ended.is_set() or self._turn_id is None or message not in self._late:
                    continue
                self._late.remove(message)
                name = f"{self._turn.turn_id}-{next(numbers)}"
                self._steered[name] = message
                params = {
                    "threadId": self._inbox.thread_id,
                    "input": user_input(message.content),
                    "clientUserMessageId": name,
                    "expectedTurnId": self._turn_id,
                }
                try:
                    await self._client.request("turn/steer", params)
                except RpcError:
                    del self._steered[name]
                    self._late.append(message)
