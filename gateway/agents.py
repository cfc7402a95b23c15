"""The agents of this gateway: each a provider with its options, or the reason why there is none."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

import providers
from gateway.deadlines import Limits
from gateway.errors import AgentUnavailable, NoSuchAgent
from gateway.settings import AgentSettings, Settings
from providers import CAPABILITIES, Provider
from providers.registry import create

_log = structlog.get_logger(__name__)


class TurnLimits(Limits, Protocol):
    """The deadlines of an agent's turns."""

    @property
    def connect_seconds(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Agent:
    name: str
    provider_name: str
    provider: Provider | None
    reason: str | None
    """Why there is no provider, for the operator; None if there is one."""
    options: Mapping[str, Any]
    limits: TurnLimits

    @property
    def capabilities(self) -> list[str]:
        """What the provider says of itself, as far as it is a capability. What it leaves out is unsupported; one that
        says nothing at all, or says it in another form than a set, harms nobody."""
        given = getattr(self.provider, "capabilities", None)
        return sorted(name for name in CAPABILITIES if isinstance(given, Collection) and name in given)

    def ready(self) -> Provider:
        """The provider. Raises `AgentUnavailable` if there is none."""
        if self.provider is None:
            raise AgentUnavailable(f"the agent {self.name!r} is not configured: {self.reason}")
        return self.provider


class Agents:
    """All configured agents by name."""

    def __init__(self, agents: Mapping[str, Agent], default_limits: TurnLimits) -> None:
        self._agents = dict(agents)
        self._default_limits = default_limits

    def __iter__(self) -> Iterator[Agent]:
        return iter(self._agents.values())

    def get(self, name: str) -> Agent:
        """The agent of that name. Raises `NoSuchAgent`."""
        agent = self._agents.get(name)
        if agent is None:
            raise NoSuchAgent(f"there is no agent {name[:40]!r}; there are: {', '.join(self._agents)}")
        return agent

    def of(self, name: str) -> Agent:
        """The agent of a turn that was accepted earlier, perhaps under other settings: never fails."""
        gone = Agent(name, name, None, "it is no longer in the settings", {}, self._default_limits)
        return self._agents.get(name, gone)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator[Agents]:
        """Make every agent's provider, and close them all at the end. One that cannot start does not stop the rest."""
        async with contextlib.AsyncExitStack() as stack:
            agents = {}
            for name, configured in settings.agents.items():
                agents[name] = await _open(name, configured, settings, stack)
                if agents[name].reason is not None:
                    _log.warning("agent_unavailable", agent=name, reason=agents[name].reason)
            yield cls(agents, settings.turn)


async def _open(name: str, configured: AgentSettings, settings: Settings, stack: contextlib.AsyncExitStack) -> Agent:
    provider: Provider | None = None
    reason: str | None = None
    try:
        provider = create(configured.provider, configured.options)
        if isinstance(provider, contextlib.AbstractAsyncContextManager):
            entered = await stack.enter_async_context(provider)
            provider = entered if hasattr(entered, "stream") else provider  # an `__aenter__` may return nothing
    except (providers.UnknownProvider, ImportError, TypeError, ValueError, OSError, providers.ProviderError) as error:
        provider, reason = None, _readable(error)
    except Exception as error:  # a plug-in's own bug must not stop the other agents
        provider, reason = None, f"its provider failed to start ({type(error).__name__})"
        _log.error("provider_failed_to_start", agent=name, exc_info=error)
    return Agent(name, configured.provider, provider, reason, configured.options, settings.deadlines(name))


def _readable(error: Exception) -> str:
    """Why a provider cannot be made, for the operator."""
    unknown = re.search(r"unexpected keyword argument '([^']*)'", str(error))
    if isinstance(error, TypeError) and unknown is not None:
        return f"it has no option {unknown[1]!r}"
    return str(error)
