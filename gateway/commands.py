"""What each frame of a client does. The answers go to the connection; refusals are raised."""

from __future__ import annotations

from functools import partial

from msgspec import UNSET

from gateway import protocol
from gateway.clock import timestamp
from gateway.connection import Connection
from gateway.errors import GatewayError, NotFound
from gateway.services import Services


async def perform(frame: protocol.AnyClientFrame, connection: Connection, services: Services) -> None:
    """Do what the frame asks for, on behalf of the connection's user. `auth` is the endpoint's affair.

    Raises:
        GatewayError: it was refused, and nothing was changed.
    """
    user_id = connection.user_id
    match frame:
        case protocol.SendMessage():
            connection.expect_room(frame.thread_id)
            announce = partial(services.resume.announce, connection)
            accepted = await services.turns.submit(user_id, connection.agent, frame, announce=announce)
            await services.resume.follow_turn(connection, accepted)
        case protocol.Attach():
            await services.resume.attach(connection, frame.thread_id, frame.cursor)
        case protocol.Detach():
            if (
                connection.following(frame.thread_id) is None
                and await services.store.thread(user_id, frame.thread_id) is None
            ):
                raise NotFound("there is no such thread", field="thread_id")
            connection.unfollow(frame.thread_id)
        case protocol.Cancel(turn_id=str() as turn_id):
            await services.turns.cancel_turn(user_id, turn_id)
        case protocol.Cancel(thread_id=str() as thread_id):
            await services.turns.cancel_thread(user_id, thread_id)
        case protocol.Approval():
            by = connection.device_id or user_id
            standing, mine = await services.approvals.decide(user_id, frame.approval_id, frame.decision, frame.text, by)
            if not mine or connection.following(standing.thread_id) is None:
                connection.reply(standing)
        case protocol.Seen():
            await services.notices.seen(user_id, frame.thread_id, frame.message_id, connection)
        case protocol.Ping():
            connection.reply(protocol.Pong(timestamp=timestamp(), nonce=frame.nonce))


def refusal(error: GatewayError, client_id: str | None = None, thread_id: str | None = None) -> protocol.Error:
    """The `error` frame that tells of a refusal, with the ids that the refused frame named."""
    return protocol.Error(
        timestamp=timestamp(),
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        retry_after=UNSET if error.retry_after is None else error.retry_after,
        id=UNSET if client_id is None else client_id,
        thread_id=UNSET if thread_id is None else thread_id,
        field=UNSET if error.field is None else error.field,
    )
