"""What an endpoint takes and answers, said at the endpoint: `/openapi.json` is made of this and of the routes.

    @operation("threads", query=(AGENT, LIMIT), answers={200: ThreadPage})
    async def threads(request: Request) -> Response:
        \"\"\"`GET /api/threads`: the user's threads, newest first.\"\"\"

A query parameter is declared by the object that reads it, a body by the model that checks it, an answer by the type
that is encoded. So none of them can be documented otherwise than it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from gateway.errors import BadFrame, Forbidden, GatewayError, StoreUnavailable, Unauthorized

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]
AnyEndpoint = TypeVar("AnyEndpoint", bound=Endpoint)
LARGEST = 10**18 - 1
"""The largest number in a query."""


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number from 1 on in the query."""

    name: str
    description: str
    most: int | None = None
    """More counts as this."""
    default: int | None = None

    def of(self, request: Request) -> int | None:
        """Its value; the default if it is missing or empty. Raises `BadFrame`."""
        text = request.query_params.get(self.name)
        if text is None or text == "":
            return self.default
        if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) < 1:
            raise BadFrame(f"{self.name}: expected a whole number from 1 on", field=self.name)
        return int(text) if self.most is None else min(int(text), self.most)

    def schema(self) -> dict[str, Any]:
        default = {} if self.default is None else {"default": self.default}
        return {"type": "integer", "minimum": 1, "maximum": LARGEST, **default}


@dataclass(frozen=True, slots=True)
class Text:
    """Text in the query."""

    name: str
    description: str
    most: int | None = None
    """The most characters that it may have."""
    choices: tuple[str, ...] = ()
    """If there are any, it is one of these, and the first if it is missing."""
    required: bool = False

    def of(self, request: Request) -> str | None:
        """Its value; None if it is missing or empty. Raises `BadFrame`."""
        text = request.query_params.get(self.name) or None
        if text is None and self.required:
            raise BadFrame(f"{self.name}: is missing", field=self.name)
        if self.choices and text is not None and text not in self.choices:
            raise BadFrame(f"{self.name}: expected one of {', '.join(self.choices)}", field=self.name)
        if self.most is not None and text is not None and len(text) > self.most:
            raise BadFrame(f"{self.name}: expected at most {self.most} characters", field=self.name)
        return self.choices[0] if self.choices and text is None else text

    def schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "string"}
        if self.choices:
            return schema | {"enum": list(self.choices), "default": self.choices[0]}
        schema["minLength"] = 1
        if self.most is not None:
            schema["maxLength"] = self.most
        return schema


Parameter: TypeAlias = Number | Text


@dataclass(frozen=True, slots=True)
class Binary:
    """An answer or a body that is not JSON."""

    media_types: tuple[str, ...]
    description: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """What one endpoint takes and answers."""

    tag: str
    query: tuple[Parameter, ...] = ()
    body: type[BaseModel] | Binary | None = None
    answers: Mapping[int, Any] = field(default_factory=dict)
    """By status: a type that msgspec encodes, a `Binary`, or None for no content."""
    errors: tuple[type[GatewayError], ...] = ()
    token: bool = True
    """Whether it wants a user's token."""


def operation(
    tag: str,
    *,
    answers: Mapping[int, Any],
    query: tuple[Parameter, ...] = (),
    body: type[BaseModel] | Binary | None = None,
    errors: tuple[type[GatewayError], ...] = (),
    token: bool = True,
) -> Callable[[AnyEndpoint], AnyEndpoint]:
    """Declare what an endpoint takes and answers, and which refusals are its own.

    Those of every endpoint are added: of a missing token, of a database that does not answer, of a bad body or query.
    """
    common: tuple[type[GatewayError], ...] = (Unauthorized, Forbidden, StoreUnavailable) if token else ()
    if query or body is not None:
        common = (BadFrame, *common)
    declared = Operation(tag, query, body, dict(answers), tuple(dict.fromkeys((*common, *errors))), token)

    def declare(endpoint: AnyEndpoint) -> AnyEndpoint:
        vars(endpoint)["operation"] = declared
        return endpoint

    return declare


def operation_of(endpoint: Any) -> Operation | None:
    """What was declared of the endpoint."""
    declared = getattr(endpoint, "operation", None)
    return declared if isinstance(declared, Operation) else None
