"""Opening a Codex thread for one turn, and letting go of it afterwards so that a terminal can have it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

from providers.base import Message, Turn
from providers.codex.client import Client, Disconnected, Inbox, Overflow, RpcError
from providers.codex.errors import disconnected
from providers.codex.options import Options
from providers.errors import ProviderError

__all__ = ["SESSION_KEY", "Threads", "user_input"]

JSON: TypeAlias = dict[str, Any]
T = TypeVar("T")
log = logging.getLogger(__name__)

SESSION_KEY = "codex_thread_id"
STARTS_AT_ONCE = 8
"""Thread starts and resumes in flight. Measured: 300 at once leave Codex without an answer for over 30 s."""
OPEN_SECONDS = 60.0
RELEASE_SECONDS = 5.0
INTERRUPT_SECONDS = 5.0
INVALID_REQUEST = -32600
GONE = ("no rollout found", "thread not found", "thread not loaded", "invalid session id", "is archived")
"""Codex has one code for all refusals; only its words tell them apart."""
CLOSING = "is closing"
ELSEWHERE = "active writer"


def user_input(text: str) -> list[JSON]:
    return [{"type": "text", "text": text, "text_elements": []}]


def _items(messages: Sequence[Message]) -> list[JSON]:
    """Messages as items of the Responses API."""
    kinds = {"user": "input_text", "assistant": "output_text"}
    return [
        {"type": "message", "role": m.role, "content": [{"type": kinds[m.role], "text": m.content}]}
        for m in messages
        if m.content
    ]


class Threads:
    """One user of a Codex thread at a time, and a bounded number of starts at once."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._starting = asyncio.Semaphore(STARTS_AT_ONCE)
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()
        self._unloads = (options.config or {}).get("thread_unload_delay_secs", 0) == 0
        """Whether Codex unloads a thread at once; an older one does not know that it should."""

    @contextlib.asynccontextmanager
    async def _alone(self, thread_id: str, within: float) -> AsyncIterator[None]:
        """Two turns in one Codex thread would steer each other; two of our threads can have adopted the same."""
        lock = self._locks.setdefault(thread_id, asyncio.Lock())
        self._users[thread_id] += 1
        try:
            try:
                async with asyncio.timeout(within):
                    await lock.acquire()
            except TimeoutError:
                raise ProviderError(
                    "overloaded", "Another conversation is using this Codex session.", retryable=True, refused=True
                ) from None
            try:
                yield
            finally:
                lock.release()
        finally:
            self._users[thread_id] -= 1
            if not self._users[thread_id]:
                del self._users[thread_id], self._locks[thread_id]

    @contextlib.asynccontextmanager
    async def open(self, client: Client, turn: Turn) -> AsyncIterator[Inbox]:
        """The Codex thread of the turn, loaded and followed: the one that its session names, or a new one that
        knows the conversation so far. Released on leaving.

        Raises:
            ProviderError
        """
        known = (turn.session or {}).get(SESSION_KEY)
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(known, str) and known:
                await stack.enter_async_context(self._alone(known, turn.connect_seconds))
                inbox = stack.enter_context(client.follow(known))
                async with self._starting:
                    found, cancelled = await _through(self._resume(client, known), client)
                if found:
                    stack.push_async_callback(self._release, client, inbox)
                if cancelled is not None:
                    raise cancelled
                if found:
                    yield inbox
                    return
                await stack.aclose()
            async with self._starting:
                thread_id, cancelled = await _through(self._start(client, turn), client)
            inbox = stack.enter_context(client.follow(thread_id))
            stack.push_async_callback(self._release, client, inbox)
            if cancelled is not None:
                raise cancelled
            await stack.enter_async_context(self._alone(thread_id, turn.connect_seconds))
            items = _items(turn.messages[:-1])
            if items:
                await _ask(client, "thread/inject_items", {"threadId": thread_id, "items": items})
            yield inbox

    async def _release(self, client: Client, inbox: Inbox) -> None:
        """Stop following the thread and wait until Codex has unloaded it, with all commands still running in it.

        So it goes for the threads of its sub-agents; one that still works is interrupted: its turn is over.
        Bounded by RELEASE_SECONDS; a process that does not even answer in time gets no further turn.
        """
        if client.retired:  # it is about to end anyway, and may not be answering
            return
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                loaded = await _unsubscribe(client, inbox.thread_id)
        except Disconnected:
            return
        except (TimeoutError, RpcError) as error:
            log.warning("codex: a thread was not released: %s", type(error).__name__)
            client.retire()
            return
        if self._unloads:
            try:
                async with asyncio.timeout(RELEASE_SECONDS):
                    await _closed(client, inbox, loaded)
            except (Disconnected, Overflow):
                pass
            except TimeoutError:
                self._unloads = False
                log.warning("codex: threads stay loaded: a terminal cannot continue them while the gateway runs")

    def _rules(self) -> JSON:
        """What holds in every thread, also in one that was begun with other rules in a terminal."""
        rules: JSON = {
            "approvalPolicy": self._options.approval_policy,
            "approvalsReviewer": "user",
            "sandbox": self._options.sandbox,
        }
        if self._options.model is not None:
            rules["model"] = self._options.model
        if self._options.model_provider is not None:
            rules["modelProvider"] = self._options.model_provider
        return rules

    async def _start(self, client: Client, turn: Turn) -> str:
        try:
            cwd = await asyncio.to_thread(self._options.directory, turn.user_id, turn.thread_id)
        except (OSError, ValueError):
            raise ProviderError(
                "upstream_error", "The working directory for this conversation cannot be made.", refused=True
            ) from None
        started = await _ask(client, "thread/start", {"cwd": cwd, **self._rules()})
        return str(started["thread"]["id"])

    async def _resume(self, client: Client, thread_id: str) -> bool:
        """False if Codex no longer has the thread."""
        params = {"threadId": thread_id, "excludeTurns": True, **self._rules()}
        deadline = asyncio.get_running_loop().time() + RELEASE_SECONDS
        while True:
            try:
                await _ask(client, "thread/resume", params, raw=True)
            except RpcError as error:
                if CLOSING in error.message and asyncio.get_running_loop().time() < deadline:
                    await asyncio.sleep(0.02)
                    continue
                if ELSEWHERE in error.message:
                    raise ProviderError(
                        "overloaded",
                        "This session is open in a terminal; close it there, then send again.",
                        retryable=True,
                    ) from None
                if error.code == INVALID_REQUEST and any(words in error.message for words in GONE):
                    return False
                raise ProviderError("upstream_error", "Codex could not open the session.", retryable=True) from None
            return True


async def _through(work: Coroutine[Any, Any, T], client: Client) -> tuple[T, asyncio.CancelledError | None]:
    """The result of what loads a thread, and whether it was cancelled meanwhile.

    Once asked for, the answer is waited for all the same: what it loads must be released. Bounded by
    RELEASE_SECONDS from the cancellation on.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,), timeout=None if cancelled is None else RELEASE_SECONDS)
            if not task.done():
                client.retire()
                task.cancel()
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None and (task.cancelled() or task.exception() is not None):
        raise cancelled
    return task.result(), cancelled


async def _ask(client: Client, method: str, params: JSON, *, raw: bool = False) -> Any:
    """A request before the turn has begun: whatever goes wrong, the model was not asked."""
    try:
        return await client.request(method, params, within=OPEN_SECONDS)
    except RpcError:
        if raw:
            raise
        raise ProviderError("upstream_error", "Codex could not begin a session.", refused=True) from None
    except Disconnected:
        raise ProviderError("connection_failed", disconnected().message, retryable=True, refused=True) from None
    except TimeoutError:
        raise ProviderError("timeout", "Codex did not answer in time.", retryable=True, refused=True) from None


async def _unsubscribe(client: Client, thread_id: str) -> set[str]:
    """The threads that Codex will now unload."""
    loaded = set()
    for child, turn_id in client.children(thread_id).items():
        if turn_id is not None:
            with contextlib.suppress(RpcError):  # it has just ended by itself
                await client.request("turn/interrupt", {"threadId": child, "turnId": turn_id})
        loaded.add(child)
    loaded.add(thread_id)
    for each in tuple(loaded):
        result = await client.request("thread/unsubscribe", {"threadId": each})
        if result.get("status") != "unsubscribed":
            loaded.discard(each)
    return loaded


async def _closed(client: Client, inbox: Inbox, loaded: set[str]) -> None:
    while loaded:
        incoming = await inbox.get()
        if incoming.id is not None:
            client.refuse(incoming.id)
        elif incoming.method == "thread/closed":
            loaded.discard(incoming.params["threadId"])
