"""The routes of two older front ends, as these call them: a question in, pieces of the answer's text out.

They know text, an error and the end, so that is all they get. Text that an agent takes back cannot be taken off their
screens: what replaces it comes behind a blank line, unless it only goes on.
"""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import BeforeValidator, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway import protocol
from gateway.answer import SEPARATOR
from gateway.auth import Identity
from gateway.endpoints.bearer import expect_known_origin, identity_of
from gateway.endpoints.bodies import body_of
from gateway.endpoints.eventstream import HEADERS, EventStream, Shown, closed_on_failure, open_connection
from gateway.endpoints.operations import Binary, operation
from gateway.errors import BadFrame, GatewayError, SlowBody, TooLarge
from gateway.services import Services

LOST = "The connection to the answer was lost. The agent goes on; the answer will be in the thread."


def _as_text(value: object) -> object:
    """Those front ends number users and threads, or name them; an empty name is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None if value == "" else value


UserId = Annotated[
    Annotated[str, StringConstraints(pattern=r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]{0,126}[^\x00-\x20\x7f])?$")] | None,
    BeforeValidator(_as_text),
]
ThreadId = Annotated[protocol.ThreadId | None, BeforeValidator(_as_text)]


class QuestionBody(protocol.ClientFrame):
    """Of `/query_stream`. Further fields, `user_timezone` among them, are passed over."""

    question: str
    user_id: UserId = None
    thread_id: ThreadId = None


class QueryBody(protocol.ClientFrame):
    """Of `/projects/…/query/stream`. Further fields are passed over."""

    query: str
    user_id: UserId = None


class Dialect(Protocol):
    """How one front end wants its events."""

    done: str
    """The last event."""

    def chunk(self, text: str) -> str:
        """A piece of text."""
        ...

    def error(self, message: str) -> str:
        """What went wrong; `done` follows."""
        ...


class QueryStream:
    """`/query_stream`, whose JSON was written with a space behind each colon."""

    done = 'data: {"done": true}\n\n'

    def chunk(self, text: str) -> str:
        return f'data: {{"chunk": {protocol.encode_json(text)}}}\n\n'

    def error(self, message: str) -> str:
        return f'data: {{"error": {protocol.encode_json(message)}}}\n\n'


class ProjectQuery:
    """`/projects/…/query/stream`, whose JSON was written without spaces."""

    done = 'data: {"type":"done"}\n\n'

    def chunk(self, text: str) -> str:
        return f'data: {{"type":"chunk","content":{protocol.encode_json(text)}}}\n\n'

    def error(self, message: str) -> str:
        return f'data: {{"type":"error","message":{protocol.encode_json(message)}}}\n\n'


class AnswerText:
    """The text of one turn's answer."""

    def __init__(self, turn_id: str, dialect: Dialect) -> None:
        self._turn_id = turn_id
        self._dialect = dialect
        self._content: list[str] = []
        """The answer so far, in pieces."""

    def show(self, frame: str, shown: Shown) -> str:
        if shown.type in ("goodbye", "detached", "snapshot"):
            return self._dialect.error(LOST) + self._dialect.done
        if shown.turn_id != self._turn_id:
            return ""
        if shown.type == "message":
            self._content.append(shown.content)
            return self._dialect.chunk(shown.content)
        if shown.type == "reset":
            return self._replaced(shown.content)
        if shown.type == "done":
            failure = "" if shown.error is None else self._dialect.error(str(shown.error.get("message")))
            return failure + self._dialect.done
        return ""

    def _replaced(self, content: str) -> str:
        before = "".join(self._content)
        self._content = [content]
        rest = content.removeprefix(before) if content.startswith(before) else SEPARATOR + content if content else ""
        return self._dialect.chunk(rest) if rest else ""


STREAM = Binary(("text/event-stream",), "The answer's pieces, then that it is done; a failure is told in the stream.")


@operation("older front ends", body=QuestionBody, answers={200: STREAM}, errors=(TooLarge, SlowBody))
async def query_stream(request: Request) -> Response:
    """`POST /query_stream`: as one of the older front ends asks."""
    await _expect_token(request)
    body = await body_of(request, QuestionBody)
    return await _answer(request, QueryStream(), body.user_id, "question", body.question, body.thread_id)


@operation("older front ends", body=QueryBody, answers={200: STREAM}, errors=(TooLarge, SlowBody))
async def project_query(request: Request) -> Response:
    """`POST /projects/{project_id}/threads/{thread_id}/query/stream`: as the other asks."""
    await _expect_token(request)
    body = await body_of(request, QueryBody)
    return await _answer(request, ProjectQuery(), body.user_id, "query", body.query, request.path_params["thread_id"])


async def _answer(
    request: Request, dialect: Dialect, claimed: str | None, field: str, content: str, thread_id: str | None
) -> Response:
    services: Services = request.app.state.services
    identity, agent = await _identity(request, claimed), services.settings.compat.agent
    if not content.strip():
        raise BadFrame(f"{field}: Text should hold more than white space", field=field)
    body = protocol.validate(protocol.MessageBody, {"content": content, "thread_id": thread_id})
    connection = open_connection(services, identity.user_id, agent)
    try:
        with closed_on_failure(connection):
            accepted = await services.turns.submit(identity.user_id, agent, body)
            await services.resume.follow_turn(connection, accepted)
    except (
        GatewayError
    ) as error:  # the request is sound, but there will be no answer: these clients know one form of that
        return Response(dialect.error(error.message) + dialect.done, headers=HEADERS)
    turn_id = accepted.turn.turn_id
    return EventStream(connection, services, AnswerText(turn_id, dialect), turn_id=turn_id, token_id=identity.token_id)


def _trusts(request: Request) -> bool:
    services: Services = request.app.state.services
    return services.settings.compat.trust_user_id


async def _expect_token(request: Request) -> None:
    """Refuse strangers before their body is read.

    Raises:
        Unauthorized, Forbidden
    """
    if _trusts(request):
        expect_known_origin(request)
    else:
        await identity_of(request)


async def _identity(request: Request, claimed: str | None) -> Identity:
    """The token's user, or with `trust_user_id` whom the front end names.

    Raises:
        Unauthorized, Forbidden
        BadFrame: it names nobody.
    """
    if not _trusts(request):
        return await identity_of(request)
    if claimed is None:
        raise BadFrame("user_id: Field required", field="user_id")
    return Identity(claimed)
