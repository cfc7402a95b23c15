"""The rules about the provider itself. No turn is played for them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from typing import Any, cast

from providers.base import CAPABILITIES, Message, Session, SessionProvider
from providers.errors import ProviderError
from providers.testing.play import Examination
from providers.testing.report import Broken
from providers.testing.rules import json_map, rule

__all__: list[str] = []

NO_SESSION = "no-such-session-of-the-conformance-kit"


@rule("stream is a plain def, or an async def with yield, that returns an async generator at once", plays=False)
async def _shape(it: Examination) -> None:
    if inspect.iscoroutinefunction(it.provider.stream):
        raise Broken("stream is a coroutine: it has to be awaited before it can be iterated")
    generator = it.provider.stream(it.turn)
    if not all(hasattr(generator, method) for method in ("__aiter__", "__anext__", "aclose", "athrow")):
        raise Broken(f"stream returns a {type(generator).__name__}, which is not an async generator")
    await generator.aclose()


@rule("it has a name and known capabilities", plays=False)
async def _identity(it: Examination) -> None:
    name: Any = it.provider.name
    capabilities: Any = it.provider.capabilities
    if not isinstance(name, str) or not name:
        raise Broken("name is not a non-empty string")
    if not isinstance(capabilities, frozenset):
        raise Broken(f"capabilities is a {type(capabilities).__name__}, not a frozenset")
    if unknown := capabilities - CAPABILITIES:
        raise Broken(f"unknown capabilities: {', '.join(sorted(map(str, unknown)))}")


@rule("sessions are listed newest first, and an unknown one is not_found", plays=False)
async def _sessions(it: Examination) -> None:
    if "sessions" not in it.provider.capabilities:
        return
    for method in ("sessions", "session_messages"):
        if not inspect.iscoroutinefunction(getattr(it.provider, method, None)):
            raise Broken(f"it has the capability, and no `async def {method}`")
    provider = cast("SessionProvider", it.provider)
    async with asyncio.timeout(it.limits.answer):
        listed = await provider.sessions(it.turn.user_id)
        _check_sessions(listed)
        if listed:
            said = await provider.session_messages(it.turn.user_id, listed[0].id)
            if not all(isinstance(message, Message) for message in said):
                raise Broken("session_messages returns something else than Message objects")
        try:
            await provider.session_messages(it.turn.user_id, NO_SESSION)
        except ProviderError as failure:
            if failure.code != "not_found":
                raise Broken(f"an unknown session is answered with {failure.code}") from None
        else:
            raise Broken("it finds messages in a session that there is not")


def _check_sessions(listed: Sequence[Session]) -> None:
    if not all(isinstance(session, Session) for session in listed):
        raise Broken("sessions returns something else than Session objects")
    ids = [session.id for session in listed]
    if not all(ids) or len(set(ids)) != len(ids):
        raise Broken("the id of a session is empty, or used twice")
    times = [session.updated_at for session in listed]
    if times != sorted(times, reverse=True):
        raise Broken("the newest is not first")
    for session in listed:
        json_map("the session to keep", session.session)
