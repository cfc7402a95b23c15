"""The rules about turns that do not simply run to their end, or not alone."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from providers.base import DECLINED, ApprovalRequest, Decision
from providers.events import ToolResult
from providers.testing.play import Examination, Silence
from providers.testing.report import Broken, described
from providers.testing.rules import json_map, rule

__all__: list[str] = []

APPROVAL_SECONDS = 0.2
"""How long the kit looks whether a provider goes on without the approval that it asked for."""


@rule("closing it early stops it at once and leaves no task", turns=1)
async def _closing(it: Examination) -> None:
    before = asyncio.all_tasks()
    generator = it.stream(replace(it.turn, steering=Silence()))
    try:
        async with asyncio.timeout(it.limits.answer):
            await anext(generator)
    except (StopAsyncIteration, TimeoutError):
        raise Broken("there was no first event") from None
    finally:
        await it.close(generator)
    await _no_task_left(it, before)


@rule("cancelling its task stops it at once and leaves no task", turns=1)
async def _cancelling(it: Examination) -> None:
    before = asyncio.all_tasks()
    begun = asyncio.Event()

    async def consume() -> None:
        generator = it.stream(replace(it.turn, steering=Silence()))
        try:
            async for _ in generator:
                begun.set()
        finally:
            begun.set()
            with suppress(RuntimeError):
                await generator.aclose()

    task = asyncio.create_task(consume())
    try:
        async with asyncio.timeout(it.limits.answer):
            await begun.wait()
    except TimeoutError:
        await it.stop(task)
        raise Broken("there was no first event") from None
    finished = task.done()
    if not await it.stop(task):
        raise Broken(f"it still ran {it.limits.stop:g} s after it was cancelled")
    if not finished and not task.cancelled():
        failure = task.exception()
        raise Broken(f"CancelledError became {described(failure) if failure else 'a normal end'}")
    await _no_task_left(it, before)


@rule("two turns at once do not mix", turns=2)
async def _mixing(it: Examination) -> None:
    alone = await it.answer()
    turns = [
        replace(it.turn, turn_id=f"{it.turn.turn_id}-{mark}", thread_id=f"{it.turn.thread_id}-{mark}") for mark in "ab"
    ]
    for recording in await asyncio.gather(*map(it.play, turns)):
        if recording.problem is not None:
            raise Broken(f"with another turn beside it {recording.problem}")
        if it.repeatable and recording.text != alone.text:
            raise Broken("a turn says something else when another one runs beside it")


@rule("an approval that is declined, or never answered, is honoured", turns=1)
async def _approvals(it: Examination) -> None:
    recording = await it.answer()
    asked = recording.asked
    for request in asked:
        json_map("the detail of an approval", request.detail)
        ids = [option.id for option in request.options]
        if not request.title or not ids or len(set(ids)) != len(ids):
            raise Broken("an approval has no title, no options, or two options of one id")
    declined = {request.call_id for request in asked if request.call_id is not None}
    for event in recording.events:
        if isinstance(event, ToolResult) and event.call_id in declined and event.status == "completed":
            raise Broken("a tool that was declined has completed")
    if asked:
        await _unanswered_approval(it)


async def _unanswered_approval(it: Examination) -> None:
    reached = asyncio.Event()

    async def never(request: ApprovalRequest) -> Decision:
        reached.set()
        await asyncio.Event().wait()
        return Decision(DECLINED.id)

    async def consume() -> None:
        async with aclosing(it.stream(replace(it.turn, approve=never, steering=Silence()))) as events:
            async for _ in events:
                pass

    task = asyncio.create_task(consume())
    waiting = asyncio.create_task(reached.wait())
    try:
        await asyncio.wait({task, waiting}, timeout=it.limits.answer, return_when=asyncio.FIRST_COMPLETED)
        if not reached.is_set():
            if it.repeatable:
                raise Broken("it asked once, and not again with the same turn")
            return
        done, _ = await asyncio.wait({task}, timeout=APPROVAL_SECONDS)
        if done:
            raise Broken("it went on before the approval was answered")
    finally:
        waiting.cancel()
        stopped = await it.stop(task)
    if not stopped:
        raise Broken("cancelling does not reach it while an approval is open")


async def _no_task_left(it: Examination, before: set[asyncio.Task[Any]]) -> None:
    """Tasks may need a moment to end, but no longer than closing itself may take."""
    deadline = time.monotonic() + it.limits.stop
    while left := asyncio.all_tasks() - before:
        if time.monotonic() > deadline:
            raise Broken(f"{len(left)} task(s) still run: {', '.join(sorted({_place(task) for task in left}))}")
        await asyncio.wait(left, timeout=0.05)


def _place(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)
