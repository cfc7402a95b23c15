"""Sessions that began elsewhere, in a terminal say: listed, and adopted as threads."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import cast

from gateway.agents import Agents
from gateway.clock import now
from gateway.errors import NotFound, UpstreamFailed
from gateway.ids import new_id
from gateway.notices import Notices
from gateway.store.base import Store
from gateway.store.records import Adoption, Exchange, Thread
from gateway.text import normalise
from gateway.turns import title_of
from providers import Message, ProviderError, Session, SessionProvider

PROVIDER_SECONDS = 30.0
"""How long a provider may take to list its sessions, or to read one."""


class Sessions:
    """What the agents with the capability `sessions` can hand over."""

    def __init__(self, store: Store, agents: Agents, notices: Notices) -> None:
        self._store = store
        self._agents = agents
        self._notices = notices

    async def listed(self, user_id: str, agent_name: str) -> Sequence[Session]:
        """The sessions that the user may adopt, newest first.

        Raises:
            NotFound: the agent has no sessions.
            UpstreamFailed: its provider could not say.
        """
        provider = self._provider(agent_name)
        try:
            async with asyncio.timeout(PROVIDER_SECONDS):
                return await provider.sessions(user_id)
        except (ProviderError, TimeoutError) as error:
            raise _failed(error) from None

    async def adopt(self, user_id: str, agent_name: str, session_id: str) -> tuple[Thread, bool]:
        """The thread that goes on with the session, and whether it was made just now. Again gives the same thread.

        Raises:
            NotFound: the user may adopt no such session.
            UpstreamFailed: the provider could not say.
        """
        session = next((one for one in await self.listed(user_id, agent_name) if one.id == session_id), None)
        if session is None:
            raise NotFound("there is no such session", field="session_id")
        try:
            async with asyncio.timeout(PROVIDER_SECONDS):
                messages = await self._provider(agent_name).session_messages(user_id, session_id)
        except (ProviderError, TimeoutError) as error:
            raise _failed(error) from None
        at = now()
        exchanges = _exchanges(messages)
        title = session.title or (exchanges[0].question if exchanges else "") or session.cwd or agent_name
        thread, made = await self._store.adopt(
            Adoption(
                user_id=user_id,
                agent=agent_name,
                thread_id=_thread_id(agent_name, session_id),
                title=title_of(normalise(title)),
                session=session.session,
                exchanges=exchanges,
                epoch=at,
                at=at,
            )
        )
        if made:
            await self._notices.changed(user_id, thread.thread_id)
        return thread, made

    def _provider(self, agent_name: str) -> SessionProvider:
        agent = self._agents.get(agent_name)
        provider = agent.ready()
        if "sessions" not in agent.capabilities:
            raise NotFound(f"the agent {agent_name!r} has no sessions", field="agent")
        return cast("SessionProvider", provider)


def _thread_id(agent_name: str, session_id: str) -> str:
    """The same session is the same thread, for each user."""
    return "s-" + hashlib.sha256(f"{agent_name}\n{session_id}".encode()).hexdigest()[:32]


def _exchanges(messages: Sequence[Message]) -> list[Exchange]:
    """Messages as questions with their answers: several of one role in a row belong together."""
    joined: list[tuple[str, list[str]]] = []
    for message in messages:
        if not joined or joined[-1][0] != message.role:
            joined.append((message.role, []))
        joined[-1][1].append(normalise(message.content))
    texts = [(role, "\n\n".join(parts)) for role, parts in joined]
    if texts and texts[0][0] == "assistant":
        texts.insert(0, ("user", ""))
    if texts and texts[-1][0] == "user":
        texts.append(("assistant", ""))
    return [
        Exchange(
            turn_id=new_id("u"),
            message_id=new_id("m"),
            answer_id=new_id("m"),
            question=question,
            answer=answer,
        )
        for (_, question), (_, answer) in zip(texts[::2], texts[1::2], strict=True)
    ]


def _failed(error: ProviderError | TimeoutError) -> UpstreamFailed | NotFound:
    if isinstance(error, ProviderError) and error.code == "not_found":
        return NotFound("there is no such session", field="session_id")
    return UpstreamFailed(error.message if isinstance(error, ProviderError) else "the agent did not answer in time")
