"""Pairing, and the tokens of paired devices: looked up in memory, good and ended at once on every node.

POST /api/pair/codes → a code, kept as its digest for two minutes
POST /api/pair       → the code is used up → a token, kept as its digest until it is revoked
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Container
from types import TracebackType
from typing import Any, Self

import structlog

from gateway.auth import Identity, token_digest
from gateway.clock import now
from gateway.errors import NotFound, StoreUnavailable
from gateway.ids import new_id
from gateway.nodes.control import Control, Solo
from gateway.settings import OWNER
from gateway.sharedwork import SharedWork
from gateway.store.base import Store
from gateway.store.records import DeviceToken, NewDeviceToken, PairCode

CODE_SECONDS = 120
CODE_BYTES = 16
"""128 bits: whoever tries codes at random finds none, at any rate, in two minutes."""
TOKEN_BYTES = 32
TOKEN_CHARS = 43
REFRESH_SECONDS = 2.0
"""How soon a change that another process made is known here if the word of it is lost. With a slow database's answer
still under five seconds."""
LOOK_SECONDS = 0.1
"""Between two looks into the store for unknown tokens, however many are shown."""
LOOK_WAIT_SECONDS = 2.0
"""How long an unknown token waits for such a look before it counts as no good."""

_log = structlog.get_logger(__name__)


class TokenRevoked(Exception):
    """The device token that a connection was opened with is good no longer."""


class DeviceTokens:
    """All device tokens, as this process knows them. An `Authenticator`."""

    def __init__(self, store: Store, users: Container[str], control: Control | None = None) -> None:
        self._store = store
        self._users = users
        self._control = Solo() if control is None else control
        self._control.on("device_tokens", self._told)
        self._by_digest: dict[bytes, DeviceToken] = {}
        self._ids: frozenset[str] = frozenset()
        self._mark: tuple[int, int] | None = None
        """What the tokens here had in the store when they were read; None: they have changed since."""
        self._changing = asyncio.Lock()
        """Held from reading or changing the store's tokens until those here are the same."""
        self._looking = SharedWork(LOOK_SECONDS)
        self._watches: set[Watch] = set()

    async def authenticate(self, token: str) -> Identity | None:
        """As in `Authenticator`. Found by its digest, so that the time it takes tells nothing about any token.

        One that is not known is looked for in the store: another node may have given it a moment ago.
        """
        digest = token_digest(token)
        found = self._by_digest.get(digest)
        if found is None and len(token) == TOKEN_CHARS:
            await self._look()
            found = self._by_digest.get(digest)
        if found is None or found.user_id not in self._users:
            return None
        return Identity(found.user_id, owner=found.user_id == OWNER, token_id=found.token_id)

    async def new_code(self, user_id: str) -> tuple[str, PairCode]:
        """A one-time code for a device of the user. It is kept nowhere but in the answer."""
        code, at = secrets.token_urlsafe(CODE_BYTES), now()
        kept = PairCode(digest=token_digest(code), user_id=user_id, created_at=at, expires_at=at + CODE_SECONDS * 1000)
        await self._store.add_pair_code(kept)
        return code, kept

    async def pair(self, code: str, name: str) -> tuple[str, DeviceToken]:
        """Exchange a code for a token, which is kept nowhere but in the answer.

        Raises:
            NotFound: the code is unknown, used or has expired.
            LimitExceeded: the user has too many devices.
        """
        token = secrets.token_urlsafe(TOKEN_BYTES)
        new = NewDeviceToken(token_id=new_id("d"), digest=token_digest(token), name=name, created_at=now())
        async with self._changing:
            paired = await self._store.pair(token_digest(code), new)
            if paired is None:
                raise NotFound("this code is unknown, was used, or has expired: make a new one", field="code")
            self._mark = None
            self._know([*self._by_digest.values(), paired])
        await self._control.tell("device_tokens")
        _log.info("device_paired", user_id=paired.user_id, token_id=paired.token_id)
        return token, paired

    async def revoke(self, user_id: str, token_id: str) -> None:
        """End a token, its connections and its pushes. Raises `NotFound`."""
        async with self._changing:
            if not await self._store.remove_device_token(user_id, token_id):
                raise NotFound("there is no such paired device", field="id")
            self._mark = None
            self._know([token for token in self._by_digest.values() if token.token_id != token_id])
        await self._control.tell("device_tokens")
        _log.info("device_revoked", user_id=user_id, token_id=token_id)

    async def refresh(self, *, all_anew: bool = False) -> None:
        """Know what the store knows; with `all_anew` read it even if its mark is the same.

        Raises `StoreUnavailable`.
        """
        async with self._changing:
            found = await self._store.all_device_tokens(None if all_anew else self._mark)
            if found is not None:
                self._mark = found.mark
                self._know(found.tokens)

    async def keep(self) -> None:
        """Run until cancelled: `refresh` every few seconds."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await self.refresh()
            except StoreUnavailable:
                _log.error("device_tokens_not_read")
            except Exception:  # a token that is revoked must end here, sooner or later
                _log.exception("device_tokens_not_read")

    async def _told(self, payload: dict[str, Any]) -> None:
        try:
            await self.refresh(all_anew=True)
        except StoreUnavailable:
            _log.error("device_tokens_not_read")

    async def _look(self) -> None:
        try:
            async with asyncio.timeout(LOOK_WAIT_SECONDS):
                await self._looking.done(self.refresh)
        except (StoreUnavailable, TimeoutError):
            _log.error("device_tokens_not_read")

    def watch(self, token_id: str) -> Watch:
        """`async with`: its block ends with `TokenRevoked` when the token is revoked."""
        return Watch(token_id, self)

    def _know(self, tokens: list[DeviceToken]) -> None:
        self._by_digest = {token.digest: token for token in tokens}
        self._ids = frozenset(token.token_id for token in tokens)
        for watch in self._watches:
            watch.look()


class Watch:
    """Of one connection. `token_id` may be changed when it shows another token; None: one that stays."""

    __slots__ = ("_scope", "_tokens", "token_id")

    def __init__(self, token_id: str, tokens: DeviceTokens) -> None:
        self.token_id: str | None = token_id
        self._tokens = tokens
        self._scope = asyncio.timeout(None)

    def look(self) -> None:
        """End the block if the token is gone."""
        if self.token_id is not None and self.token_id not in self._tokens._ids and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._tokens._watches.add(self)
        self.look()  # it may have been revoked since it was shown
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens._watches.discard(self)
        try:
            await self._scope.__aexit__(kind, error, trace)
        except TimeoutError:
            raise TokenRevoked from None
