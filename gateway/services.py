"""Everything that a running gateway consists of, built from its settings and closed in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from gateway.agents import Agents
from gateway.approvals import Approvals
from gateway.attachments import Attachments
from gateway.auth import AnyOf, Authenticator, authenticator, users_of
from gateway.devicetokens import DeviceTokens
from gateway.eventlog.local import LocalEventLog
from gateway.hub import Hub
from gateway.loopwatch import LoopWatch
from gateway.metrics import Metrics
from gateway.nodes.control import Control, RedisControl, Solo
from gateway.nodes.link import RedisLink
from gateway.nodes.presence import Presence, Standing
from gateway.notices import Notices
from gateway.pushing import Pushing
from gateway.resume import Resume
from gateway.runner.local import LocalRunner
from gateway.senddeadline import SendDeadlines
from gateway.sessions import Sessions
from gateway.settings import Settings
from gateway.store.base import Store
from gateway.store.sql import SqlStore
from gateway.turns import TurnEngine


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
    runner: LocalRunner
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
        _linked(settings) as link,
        SqlStore.open(settings.database, on_push_outcome=metrics.pushed) as store,
        Pushing.open(settings, store) as pushing,
        Agents.open(settings) as agents,
    ):
        control: Control = Solo() if link is None else RedisControl(link)
        device_tokens = DeviceTokens(store, users_of(settings), control)
        await device_tokens.refresh()
        logs = LocalEventLog(store)
        notices = Notices(store, hub, pushing, control)
        approvals = Approvals(store, logs, pushing, settings.approval.timeout_seconds, control)
        limits = settings.limits
        attachments = Attachments(
            store, state_path / "attachments", limits.attachment_bytes, limits.user_attachment_bytes
        )
        send_deadlines = SendDeadlines(settings.send_seconds)
        background = [
            asyncio.create_task(logs.keep_checkpointing(), name="checkpoints"),
            asyncio.create_task(logs.keep_trimming(), name="trimming"),
            asyncio.create_task(attachments.keep_sweeping(), name="attachments"),
            asyncio.create_task(send_deadlines.keep(), name="send deadlines"),
            asyncio.create_task(device_tokens.keep(), name="device tokens"),
            asyncio.create_task(control.run(), name="control"),
        ]
        try:
            runner = LocalRunner(store, logs, agents, attachments, approvals, notices, pushing, metrics, frame_bytes)
            async with runner, TurnEngine(settings, store, agents, attachments, notices, runner) as turns:
                presence = Presence(lambda: Standing(connections=hub.counts(), running=runner.count), link)
                hub.on_change = presence.changed
                background.append(asyncio.create_task(presence.run(), name="presence"))
                await runner.recover()
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
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)


@contextlib.asynccontextmanager
async def _linked(settings: Settings) -> AsyncIterator[RedisLink | None]:
    """The link to Redis, if this is one node among many."""
    if settings.redis_url is None:
        yield None
        return
    async with RedisLink(settings.redis_url.get_secret_value()) as link:
        yield link
