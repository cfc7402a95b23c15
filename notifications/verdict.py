"""What a transport says about one attempt to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from notifications.records import Device, Push

__all__ = ["Transport", "Verdict", "VerdictKind"]

VerdictKind: TypeAlias = Literal["sent", "unsent", "unknown", "later", "paused", "refused", "gone"]
"""`sent`: the service took it. `unsent`: it surely never reached the service. `unknown`: it may have.
`later`: the service did not take it and wants to be asked again. `paused`: the same, for a reason that has
nothing to do with this push (our credentials): everything on this channel waits. `refused`: never to be
repeated. `gone`: never to be repeated, and the token is void."""


@dataclass(frozen=True, slots=True)
class Verdict:
    kind: VerdictKind
    reason: str = ""
    """A word of the service's own vocabulary (`BadDeviceToken`) or of ours; never free text, never a token."""
    retry_after: float | None = None
    """Seconds that the service asked for."""
    gone_at: int | None = None
    """Of `gone`: since when (milliseconds), if the service says so."""
    device_only: bool = False
    """Of `later`: about this device (429), so no sign that the service is ill."""


class Transport(Protocol):
    """One push service.

    It is an async context manager if it holds connections: the owner enters it before the first push.
    """

    @property
    def limit(self) -> int:
        """How many pushes may be under way at once."""

    @property
    def channel_limit(self) -> int:
        """How many of them on one channel."""

    def channel(self, device: Device) -> str:
        """What fails together: an APNs host, the origin of a Web Push endpoint. Each has its own breaker."""

    def refusal(self, device: Device) -> str:
        """Why nothing could ever be sent to this device: a word for its `failed` outcome, or nothing.

        It judges the form only. For the moment when an app hands in a token.
        """

    async def send(self, device: Device, push: Push, *, delivery_id: str, expires_at: int) -> Verdict:
        """Make one attempt, which may resend at once what was surely not sent; comes back within 15 s.

        `expires_at` is in milliseconds since 1970. Never raises but for cancellation; a cancelled attempt is `unknown`.
        """
        ...
