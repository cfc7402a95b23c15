"""Everything that a running gateway consists of, built from its settings and closed in reverse order."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog
from redis.exceptions import ResponseError

from gateway.agents import Agents
from gateway.approvals import Approvals
from gateway.attachments import Attachments
from gateway.auth import AnyOf, Authenticator, authenticator, users_of
from gateway.background import running
from gateway.devicetokens import DeviceTokens
from gateway.eventlog.local import LocalEventLog
from gateway.eventlog.streamed import StreamedEventLog
from gateway.hub import Hub
from gateway.loopwatch import LoopWatch
from gateway.metrics import Metrics
from gateway.nodes.control import Control, RedisControl, Solo
from gateway.nodes.installation import expect_own, installation_of
from gateway.nodes.link import RedisDown, RedisLink
from gateway.nodes.presence import Presence, Standing
from gateway.nodes.queue import TurnQueue
from gateway.notices import Notices
from gateway.pushing import Pushing
from gateway.resume import Resume
from gateway.runner.base import Runner
from gateway.runner.consumer import Consumer
from gateway.runner.local import LocalRunner
from gateway.runner.node import NodeRunner
from gateway.senddeadline import SendDeadlines
from gateway.sessions import Sessions
from gateway.settings import Settings, SettingsError
from gateway.store.base import Store
from gateway.store.sql import SqlStore
from gateway.turns import TurnEngine

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    settings: Settings
    authenticator: Authenticator
    device_tokens: DeviceTokens
    store: Store
    logs: LocalEventLog
    agents: Agents
    hub: Hub
    notices: Notices
    approvals: Approvals
    attachments: Attachments
    runner: Runner
    turns: TurnEngine
    resume: Resume
    sessions: Sessions
    send_deadlines: SendDeadlines
    loop_watch: LoopWatch
    pushing: Pushing
    metrics: Metrics
    link: RedisLink | None
    """None: this is the only node."""
    control: Control
    presence: Presence


@contextlib.asynccontextmanager
async def open_services(settings: Settings) -> AsyncIterator[Services]:
    """A gateway that runs until the block ends. What an earlier process left unfinished is settled first.

    Raises:
        SettingsError, OwnerTokenError, StoreUnavailable: it cannot start.
    """
    state_path = settings.prepare_state_dir()
    tokens = authenticator(settings)
    frame_bytes = settings.limits.server_frame_bytes
    hub, metrics = Hub(), Metrics()
    async with (
        LoopWatch() as loop_watch,
        _link(settings) as link,
        _store(settings, metrics) as store,
        Pushing.open(settings, store) as pushing,
        Agents.open(settings) as agents,
    ):
        installation = ""
        if link is not None:
            installation = await installation_of(store)
            await expect_own(link, installation)
        control: Control = Solo() if link is None else RedisControl(link)
        device_tokens = DeviceTokens(store, users_of(settings), control)
        await device_tokens.refresh()
        logs = LocalEventLog(store) if link is None else StreamedEventLog(store, link)
        notices = Notices(store, hub, pushing, control)
        approvals = Approvals(store, logs, pushing, settings.approval.timeout_seconds, control)
        limits = settings.limits
        attachments = Attachments(
            store, state_path / "attachments", limits.attachment_bytes, limits.user_attachment_bytes
        )
        send_deadlines = SendDeadlines(settings.send_seconds)
        kept: dict[str, Coroutine[Any, Any, None]] = {
            "checkpoints": logs.keep_checkpointing(),
            "trimming": logs.keep_trimming(),
            "attachments": attachments.keep_sweeping(),
            "send deadlines": send_deadlines.keep(),
            "device tokens": device_tokens.keep(),
            "log streams": logs.run(),
        }
        local = LocalRunner(store, logs, agents, attachments, approvals, notices, pushing, metrics, frame_bytes)
        runner: Runner = local
        lease = settings.lease_seconds
        if isinstance(logs, StreamedEventLog) and link is not None:
            queue = TurnQueue(link)
            consumer = Consumer(local, queue, store, logs, link, lease, settings.run_turns)
            runner = NodeRunner(local, consumer, queue, store, logs, link, control)
        turns = TurnEngine(settings, store, agents, attachments, notices, runner, control)
        presence = Presence(
            lambda: Standing(
                connections=hub.counts(), running=runner.count, lease_seconds=lease, installation=installation
            ),
            link,
        )
        hub.on_change = presence.changed
        async with running({**kept, "control": control.run(), "presence": presence.run()}):
            async with runner, turns:
                yield Services(
                    settings=settings,
                    authenticator=AnyOf(tokens, device_tokens),
                    device_tokens=device_tokens,
                    store=store,
                    logs=logs,
                    agents=agents,
                    hub=hub,
                    notices=notices,
                    approvals=approvals,
                    attachments=attachments,
                    runner=runner,
                    turns=turns,
                    resume=Resume(store, logs, metrics, frame_bytes),
                    sessions=Sessions(store, agents, notices),
                    send_deadlines=send_deadlines,
                    loop_watch=loop_watch,
                    pushing=pushing,
                    metrics=metrics,
                    link=link,
                    control=control,
                    presence=presence,
                )
            await logs.checkpoint()


@contextlib.asynccontextmanager
async def _link(settings: Settings) -> AsyncIterator[RedisLink | None]:
    """The link of one node among many; None if there is only this one."""
    if settings.redis_url is None:
        yield None
        return
    async with RedisLink(settings.redis_url.get_secret_value()) as link:
        try:
            await link.run("PING")
        except RedisDown as error:  # it starts all the same: what does not need Redis works, the rest heals
            _log.error("redis_down", reason=str(error))
        except ResponseError as error:  # of the commands with which a connection begins
            raise SettingsError(f"redis_url: Redis refuses the connection: {error}") from None
        yield link


@contextlib.asynccontextmanager
async def _store(settings: Settings, metrics: Metrics) -> AsyncIterator[SqlStore]:
    async with contextlib.AsyncExitStack() as stack:
        try:
            opened = SqlStore.open(settings.database, on_push_outcome=metrics.pushed)
            store = await stack.enter_async_context(opened)
        except ValueError as error:
            raise SettingsError(f"database_url: {error}") from None
        yield store
