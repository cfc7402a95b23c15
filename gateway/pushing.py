"""Telling phones that are not looking: what is pushed when, and the outbox that sends it.

turn ends → store.finish writes one outbox row per device → Outbox leases, sends, retries → outcome
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

import structlog

from gateway.clock import now
from gateway.errors import StoreUnavailable
from gateway.fetchtokens import KEY_NAME, FetchTokens
from gateway.ids import new_id
from gateway.logs import log_failure
from gateway.runner.verdict import Ending, Failure
from gateway.settings import PushSettings, Settings, SettingsError
from gateway.store.base import Store
from gateway.store.records import Approval, PushPlan
from notifications.apns import Apns, ApnsSettings
from notifications.fcm import Fcm, FcmSettings
from notifications.ntfy import Ntfy, NtfySettings
from notifications.outbox import Outbox
from notifications.records import BODY_PREFIX, Delivery, Device, Outcome, Platform, Push
from notifications.verdict import Transport, Verdict
from notifications.webpush import WebPush, WebPushSettings

NOT_CONFIGURED = "transport_not_configured"
DRAIN_SECONDS = 3.0
"""How long pushes that are under way at the end may take. What takes longer is sent again at the next start."""

_log = structlog.get_logger(__name__)


class Unconfigured:
    """Stands for a push service that the operator has not set up: every push to it fails, and says why."""

    limit = channel_limit = 8

    def channel(self, device: Device) -> str:
        return "unconfigured"

    def refusal(self, device: Device) -> str:
        return NOT_CONFIGURED

    async def send(self, device: Device, push: Push, *, delivery_id: str, expires_at: int) -> Verdict:
        return Verdict("refused", NOT_CONFIGURED)


class Pushing:
    """Makes the pushes of turns and approvals, and runs the outbox."""

    def __init__(self, settings: Settings, store: Store, transports: Mapping[Platform, Transport], key: bytes) -> None:
        self._settings = settings.push
        self._link = settings.base_url()
        self._store = store
        self._transports = transports
        self._outbox = Outbox(store.outbox, transports, grace=self._grace_ms)
        self.fetch_tokens = FetchTokens(key)

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, settings: Settings, store: Store) -> AsyncIterator[Pushing]:
        """Push until the block ends; what is under way then gets a moment to end.

        Raises:
            SettingsError: a transport's settings are wrong.
        """
        async with contextlib.AsyncExitStack() as stack:
            transports = _transports(settings.push)
            for platform, transport in transports.items():
                if isinstance(transport, contextlib.AbstractAsyncContextManager):
                    transports[platform] = await stack.enter_async_context(transport)
            pushing = cls(settings, store, transports, await store.secret(KEY_NAME))
            if settings.redis_url is None:  # no other node is sending
                await store.release_pushes(now())
            running = asyncio.create_task(pushing._outbox.run(), name="outbox")
            running.add_done_callback(log_failure(_log, "outbox_failed"))
            try:
                yield pushing
            finally:
                pushing._outbox.drain()
                await asyncio.wait({running}, timeout=DRAIN_SECONDS)
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    def of_turn(
        self,
        *,
        turn_id: str,
        thread_id: str,
        message_id: str,
        agent: str,
        status: Ending,
        content: str,
        failure: Failure | None,
    ) -> PushPlan | None:
        """The push of a turn that ends now. None for one that a person stopped: they know."""
        if status == "cancelled":
            return None
        body = content or (failure.message if failure is not None else "")
        return self._plan(
            Push(
                kind="turn",
                title="",
                body=body[:BODY_PREFIX],
                length=len(body),
                thread_id=thread_id,
                turn_id=turn_id,
                message_id=message_id,
                agent=agent,
                status=status,
                fetch_token=self.fetch_tokens.make(turn_id, now() + self._ttl_ms),
                link=self._link,
                id_only=self._settings.id_only,
            ),
            now() + self._ttl_ms,
        )

    async def ask(self, approval: Approval, agent: str, message_id: str) -> None:
        """Tell the user's devices that a decision is needed. A store that does not answer is logged, not raised."""
        title = str(approval.request.get("title", ""))
        push = Push(
            kind="approval",
            title=f"{agent} asks",
            body=title[:BODY_PREFIX],
            length=len(title),
            thread_id=approval.thread_id,
            turn_id=approval.turn_id,
            message_id=message_id,
            agent=agent,
            status="running",
            approval_id=approval.approval_id,
            fetch_token=self.fetch_tokens.make(approval.turn_id, approval.expires_at),
            link=self._link,
            id_only=self._settings.id_only,
        )
        try:
            await self._store.enqueue_push(approval.turn_id, self._plan(push, approval.expires_at), now())
        except StoreUnavailable:
            _log.error("approval_not_pushed", approval_id=approval.approval_id)
        self.wake()

    async def test(self, device: Device) -> tuple[Outcome, str]:
        """Send a test push now, and tell how it went."""
        at = now()
        push = Push(
            kind="test",
            title="Agentline",
            body="This is a test notification.",
            length=28,
            thread_id="test",
            turn_id=new_id("test"),
            message_id="test",
            agent="agentline",
            status="completed",
        )
        delivery = Delivery(
            key=0,
            lease=0,
            delivery_id=str(uuid.uuid4()),
            device=device,
            push=push,
            policy="always",
            created_at=at,
            expires_at=at + self._ttl_ms,
            attempts=0,
        )
        return await self._outbox.test(delivery)

    def refusal(self, device: Device) -> str:
        """Why this device could never be sent anything, in a word, or nothing."""
        return self._outbox.refusal(device)

    def wake(self) -> None:
        """Rows were written."""
        self._outbox.wake()

    def described(self) -> dict[str, Any]:
        """What an app needs to know to register: which platforms are set up, and the key of Web Push."""
        shown: dict[str, Any] = {
            platform: not isinstance(transport, Unconfigured) for platform, transport in self._transports.items()
        }
        web = self._transports["web"]
        return {"platforms": shown, "webpush_key": web.application_server_key if isinstance(web, WebPush) else None}

    def _plan(self, push: Push, expires_at: int) -> PushPlan:
        return PushPlan(push=push, policy=self._settings.policy, grace_ms=self._grace_ms, expires_at=expires_at)

    @property
    def _grace_ms(self) -> int:
        return round(self._settings.grace_seconds * 1000)

    @property
    def _ttl_ms(self) -> int:
        return round(self._settings.ttl_seconds * 1000)


def _transports(settings: PushSettings) -> dict[Platform, Transport]:
    """Every platform's transport. Reads the keys' files."""
    transports: dict[Platform, Transport] = dict.fromkeys(("ios", "android", "web", "ntfy"), Unconfigured())
    name = ""
    try:
        if settings.apns is not None:
            name = "apns"
            transports["ios"] = Apns(ApnsSettings(**settings.apns.model_dump()))
        if settings.fcm is not None:
            name = "fcm"
            transports["android"] = Fcm(FcmSettings(**settings.fcm.model_dump()))
        if settings.webpush is not None:
            name = "webpush"
            transports["web"] = WebPush(WebPushSettings(**settings.webpush.model_dump()))
        if settings.ntfy is not None:
            name = "ntfy"
            token = settings.ntfy.token.get_secret_value() if settings.ntfy.token is not None else None
            transports["ntfy"] = Ntfy(NtfySettings(**settings.ntfy.model_dump() | {"token": token}))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(f"push.{name}: {reason or type(error).__name__}") from error
    return transports
