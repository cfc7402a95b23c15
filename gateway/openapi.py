"""The HTTP interface as an OpenAPI 3.1 document, made of the routes and of what their endpoints declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import BaseRoute, Route

from gateway.endpoints.answers import Failure, Problem, code_of
from gateway.endpoints.operations import Binary, Operation, operation_of
from gateway.errors import GatewayError
from providers.version import version

REFERENCE = "#/components/schemas/{}"
PATH_PARAMETERS = {
    "agent": "An agent's name, as `GET /api/agents` lists it.",
    "approval_id": "From `approval_request`.",
    "attachment_id": "As the upload answered it.",
    "device_id": "The client's own name of the device, at most 128 characters.",
    "id": "The paired device's, as the list shows it.",
    "project_id": "Whatever the front end calls it; nothing depends on it.",
    "session_id": "As the agent's list of sessions shows it.",
    "thread_id": "The client's or the server's name of the thread, unique for this user.",
    "turn_id": "As `accepted` told it.",
}


def openapi(routes: Iterable[BaseRoute]) -> dict[str, Any]:
    """The document for these routes; a route that is not part of the interface says `include_in_schema=False`.

    Raises:
        ValueError: an endpoint, a path parameter or the name of a type is not fit to be published; says which.
    """
    operations = list(_operations(routes))
    answers, bodies = _types(operation for _, _, _, operation in operations)
    components = _components(answers, bodies)
    paths: dict[str, dict[str, Any]] = {}
    for path, method, endpoint, declared in operations:
        methods = paths.setdefault(path, _path_parameters(path))
        methods[method.lower()] = _operation(method, endpoint, declared, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Agentline",
            "version": version(),
            "description": "A gateway between phones and AI agents. The sockets are described by `/asyncapi.json`.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def undeclared(routes: Iterable[BaseRoute]) -> list[str]:
    """Routes that `openapi` would have to describe, but whose endpoints declare nothing."""
    published = (route for route in routes if isinstance(route, Route) and route.include_in_schema)
    return [route.path for route in published if operation_of(route.endpoint) is None]


def _operations(routes: Iterable[BaseRoute]) -> Iterable[tuple[str, str, Any, Operation]]:
    for route in routes:
        if not isinstance(route, Route) or not route.include_in_schema:
            continue
        declared = operation_of(route.endpoint)
        if declared is None:
            raise ValueError(f"the endpoint of {route.path} declares no operation")
        for method in sorted((route.methods or set()) - {"HEAD"}):  # HEAD goes with every GET
            yield route.path_format, method, route.endpoint, declared


def _types(operations: Iterable[Operation]) -> tuple[list[Any], list[type[BaseModel]]]:
    answers: dict[Any, None] = {Failure: None, Problem: None}
    bodies: dict[type[BaseModel], None] = {}
    for operation in operations:
        for answer in operation.answers.values():
            if answer is not None and not isinstance(answer, Binary):
                answers[answer] = None
        if operation.body is not None and not isinstance(operation.body, Binary):
            bodies[operation.body] = None
    return list(answers), list(bodies)


def _components(answers: Sequence[Any], bodies: Sequence[type[BaseModel]]) -> dict[str, Any]:
    _, given = msgspec.json.schema_components(answers, ref_template=REFERENCE.format("{name}"))
    _, taken = models_json_schema([(body, "validation") for body in bodies], ref_template=REFERENCE.format("{model}"))
    wanted = taken.get("$defs", {})
    if twice := set(given) & set(wanted):
        raise ValueError(f"two types have the name {', '.join(sorted(twice))}")
    return dict(sorted({**given, **wanted}.items()))


def _path_parameters(path: str) -> dict[str, Any]:
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    if not names:
        return {}
    if unknown := set(names) - set(PATH_PARAMETERS):
        raise ValueError(f"the path parameter {sorted(unknown)[0]} of {path} has no description")
    return {
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "description": PATH_PARAMETERS[name],
                "schema": {"type": "string", "minLength": 1},
            }
            for name in names
        ]
    }


def _operation(method: str, endpoint: Any, declared: Operation, components: Mapping[str, Any]) -> dict[str, Any]:
    summary, _, further = (endpoint.__doc__ or "").strip().partition("\n")
    said = summary.partition("`: ")[2] or summary
    shown: dict[str, Any] = {
        "operationId": endpoint.__name__,
        "tags": [declared.tag],
        "summary": said[:1].upper() + said[1:],
    }
    if further.strip():
        shown["description"] = " ".join(further.split())
    if not declared.token:
        shown["security"] = []
    if declared.query:
        shown["parameters"] = [
            {
                "name": parameter.name,
                "in": "query",
                "required": getattr(parameter, "required", False),
                "description": parameter.description,
                "schema": parameter.schema(),
            }
            for parameter in declared.query
        ]
    if declared.body is not None:
        shown["requestBody"] = _body(declared.body)
    shown["responses"] = dict(sorted(_responses(declared, components).items()))
    return shown


def _body(body: type[BaseModel] | Binary) -> dict[str, Any]:
    if not isinstance(body, Binary):
        schema = {"$ref": REFERENCE.format(body.__name__)}
        return {"required": True, "content": {"application/json": {"schema": schema}}}
    form = {"type": "object", "required": ["file"], "properties": {"file": {"type": "string", "format": "binary"}}}
    content = {kind: {"schema": form} if kind.startswith("multipart/") else {} for kind in body.media_types}
    return {"required": True, "description": body.description, "content": content}


def _responses(declared: Operation, components: Mapping[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in declared.answers.items():
        response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if isinstance(answer, Binary):
            response["description"] = answer.description or response["description"]
            response["content"] = {kind.partition(";")[0]: {} for kind in answer.media_types}
        elif answer is not None:
            response["content"] = {"application/json": {"schema": _schema_of(answer)}}
        responses[str(status)] = response
    by_status: dict[int, list[type[GatewayError]]] = {}
    for error in declared.errors:
        by_status.setdefault(error.status, []).append(error)
    for status, errors in by_status.items():
        codes = sorted({code_of(error) for error in errors})
        _add(responses, str(status), codes, components)
    _add(responses, "500", ["internal"], components)
    return responses


def _schema_of(answer: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([answer], ref_template=REFERENCE.format("{name}"))
    return dict(schema)


def _add(responses: dict[str, Any], status: str, codes: list[str], components: Mapping[str, Any]) -> None:
    """A refusal, beside the answer of that status if there is one."""
    problem = components["Problem"]
    schema = {
        **components["Failure"],
        "properties": {
            "error": {**problem, "properties": {**problem["properties"], "code": {"type": "string", "enum": codes}}}
        },
    }
    described = f"Refused: {', '.join(codes)}"
    if status in responses:
        before = responses[status]["content"]["application/json"]
        before["schema"] = {"anyOf": [before["schema"], schema]}
        responses[status]["description"] += f", or {described[0].lower()}{described[1:]}"
    else:
        responses[status] = {"description": described, "content": {"application/json": {"schema": schema}}}
