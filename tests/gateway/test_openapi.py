"""The OpenAPI document: complete, and made of what the code does."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.app import create_app
from gateway.endpoints.operations import Number, Text, operation
from gateway.errors import BadFrame, GatewayError
from gateway.openapi import openapi, undeclared
from gateway.settings import Settings
from tests.contracts import DOCUMENT, Undeclared, check

ROUTES = create_app(Settings()).routes
PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, declared)
        for path, methods in DOCUMENT["paths"].items()
        for method, declared in methods.items()
        if method != "parameters"
    ]


def test_every_route_declares_what_it_takes_and_answers() -> None:
    assert undeclared(ROUTES) == []


def test_every_route_and_method_is_in_the_document_and_no_other() -> None:
    routes = {
        (route.path, method.lower())
        for route in ROUTES
        if isinstance(route, Route) and route.include_in_schema
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {(path, method) for path, method, _ in operations()} == routes
    left_out = {route.path for route in ROUTES if isinstance(route, Route) and not route.include_in_schema}
    assert not {path for path in left_out if path.startswith("/api/")}


def test_the_document_keeps_to_openapi_and_every_reference_leads_somewhere() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    names = [declared["operationId"] for _, _, declared in operations()]
    assert len(set(names)) == len(names)
    for reference in set(re.findall(r"#/components/schemas/([^\"']+)", str(DOCUMENT))):
        assert reference in DOCUMENT["components"]["schemas"]
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for path, method, declared in operations():
        assert declared["summary"], (path, method)
        wanted = re.findall(r"{(\w+)}", path)
        assert [one["name"] for one in DOCUMENT["paths"][path].get("parameters", [])] == wanted


def test_every_refusal_of_the_tree_is_declared_somewhere_with_its_status() -> None:
    def leaves(error: type[GatewayError]) -> set[tuple[str, str]]:
        own = {(str(error.status), error.code)} if "code" in vars(error) else set()
        return own.union(*(leaves(one) for one in error.__subclasses__()))

    shown = set()
    for _, _, declared in operations():
        for status, answer in declared["responses"].items():
            schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
            for one in (schema, *schema.get("anyOf", ())):
                if "error" in one.get("properties", {}):
                    shown |= {(status, code) for code in one["properties"]["error"]["properties"]["code"]["enum"]}
    wanted = {(status, code.replace("bad_frame", "bad_request")) for status, code in leaves(GatewayError)}
    assert wanted <= shown | {("429", "limit_exceeded")}
    assert shown <= wanted | {("500", "internal")}


def test_every_error_code_is_in_the_words_of_the_protocol() -> None:
    page = PAGE.read_text()
    for error in (one for one in _all(GatewayError) if "code" in vars(one)):
        assert f"`{error.code}`" in page, error


def _all(error: type[GatewayError]) -> list[type[GatewayError]]:
    return [one for child in error.__subclasses__() for one in (child, *_all(child))]


def test_every_path_is_in_the_words_of_the_protocol() -> None:
    page = PAGE.read_text()
    for path in DOCUMENT["paths"]:
        shown = re.sub(r"{\w+_id}", "{id}", path)
        known = {path, shown, path.rpartition("/")[0], shown.rpartition("/")[0]}
        assert any(f"{one}" in page for one in known), path


def test_the_default_and_bounds_of_a_parameter_are_those_that_it_reads_with() -> None:
    def value(parameter: Number | Text, query: str) -> Any:
        return parameter.of(Request({"type": "http", "query_string": query.encode(), "headers": []}))

    limit = Number("limit", "", most=50, default=20)
    assert [value(limit, query) for query in ("", "limit=", "limit=1", "limit=50", "limit=51")] == [20, 20, 1, 50, 50]
    assert limit.schema() == {"type": "integer", "minimum": 1, "maximum": 10**18 - 1, "default": 20}
    kind = Text("format", "", choices=("json", "markdown"))
    assert [value(kind, query) for query in ("", "format=markdown")] == ["json", "markdown"]
    for parameter, query in (
        (limit, "limit=0"),
        (limit, "limit=1e3"),
        (kind, "format=pdf"),
        (Text("q", "", required=True), "q="),
        (Text("q", "", most=2), "q=abc"),
    ):
        with pytest.raises(BadFrame) as caught:
            value(parameter, query)
        assert caught.value.field == parameter.name


def test_a_route_without_a_declaration_stops_the_document_and_is_named() -> None:
    async def bare(request: Request) -> Response:
        return Response()

    @operation("x", answers={204: None})
    async def described(request: Request) -> Response:
        return Response()

    assert undeclared([Route("/bare", bare)]) == ["/bare"]
    with pytest.raises(ValueError, match="/bare"):
        openapi([Route("/bare", bare)])
    with pytest.raises(ValueError, match="planet"):
        openapi([Route("/x/{planet}", described)])
    assert openapi([Route("/bare", bare, include_in_schema=False)])["paths"] == {}


def test_an_answer_that_differs_is_noticed() -> None:
    problem = DOCUMENT["paths"]["/api/threads"]["get"]["responses"]["401"]["content"]["application/json"]["schema"]
    good = {"error": {"code": "unauthorized", "message": "", "retryable": False}}
    check(good, problem, "")
    for wrong in (
        {},
        {"error": {**good["error"], "code": "not_found"}},
        {"error": {**good["error"], "more": 1}},
        {"error": {"code": "unauthorized"}},
    ):
        with pytest.raises(Undeclared):
            check(wrong, problem, "")
