"""Search over one's own messages, and a thread as a file."""

import asyncio
import json
from typing import Any

import pytest

from tests.e2e.test_rest import ended, ran
from tests.server import GatewayProcess


@pytest.fixture(scope="module")
def gateway_environment() -> dict[str, Any]:
    return {"AGENTS": {"codex": None, "claude": None, "demo": {"pace": 0}, "other": {"provider": "demo", "pace": 0}}}


async def test_a_search_finds_questions_and_answers_with_their_surroundings(gateway: GatewayProcess) -> None:
    before, behind = "x" * 300, "y" * 300
    turn = await ran(gateway, f"/echo {before} the Zürich TIDE tables {behind}", thread_id="zurich")
    page = await gateway.get("/api/search?q=zürich%20tide")
    assert page["before"] is None
    answer, question = page["results"]
    assert (answer["role"], question["role"]) == ("assistant", "user")
    assert answer["message_id"] == turn["message_id"]
    assert {hit["thread_id"] for hit in page["results"]} == {"zurich"}
    assert {hit["turn_id"] for hit in page["results"]} == {turn["turn_id"]}
    for hit in page["results"]:
        assert "Zürich TIDE tables" in hit["snippet"]
        assert len(hit["snippet"]) < 200
        assert hit["snippet"].startswith("…")
        assert hit["snippet"].endswith("…")


async def test_nobody_finds_what_another_said(gateway: GatewayProcess) -> None:
    await ran(gateway, "/echo xylophone", thread_id="of-alice")
    assert len((await gateway.get("/api/search?q=xylophone"))["results"]) == 2
    assert await gateway.get("/api/search?q=xylophone", user="bob") == {"results": [], "before": None}
    async with gateway.http("bob") as http:
        mine = (await gateway.get("/api/search?q=xylophone"))["results"][0]["message_id"]
        answer = await http.get(f"/api/search?q=xylophone&before={mine}")
        assert (answer.status_code, answer.json()["error"]["field"]) == (404, "before")
        for path in ("/api/threads/of-alice/export", "/api/threads/none/export?format=markdown"):
            assert (await http.get(path)).status_code == 404
    async with gateway.http(None) as http:
        assert (await http.get("/api/search?q=xylophone")).status_code == 401


async def test_pages_of_a_search_lose_none_and_an_agent_narrows_it(gateway: GatewayProcess) -> None:
    for number in range(4):
        await ran(
            gateway, f"/echo marimba {number}", agent="demo" if number % 2 else "other", thread_id=f"mar-{number}"
        )
    found: list[str] = []
    before = ""
    while before is not None:
        page = await gateway.get(f"/api/search?q=marimba&limit=3&before={before}")
        found += [hit["message_id"] for hit in page["results"]]
        before = page["before"]
    assert len(found) == len(set(found)) == 8
    others = (await gateway.get("/api/search?q=marimba&agent=other"))["results"]
    assert [hit["agent"] for hit in others] == ["other"] * 4
    assert [hit["message_id"] for hit in others] == [one for one in found if one in {h["message_id"] for h in others}]


@pytest.mark.parametrize(
    "query", ["", "q=", "q=%20%20", "q=a%20b%20c%20d%20e%20f%20g%20h%20i", "q=x&limit=0", "q=" + "x" * 201]
)
async def test_a_bad_search_is_refused(gateway: GatewayProcess, query: str) -> None:
    async with gateway.http() as http:
        answer = await http.get(f"/api/search?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


async def test_a_deleted_thread_is_found_no_more(gateway: GatewayProcess) -> None:
    await ran(gateway, "/echo glockenspiel", thread_id="found-once")
    async with gateway.http() as http:
        assert (await http.delete("/api/threads/found-once")).status_code == 204
    assert (await gateway.get("/api/search?q=glockenspiel"))["results"] == []


async def test_an_export_holds_the_whole_thread_over_many_pages(gateway: GatewayProcess) -> None:
    wanted = []
    for number in range(55):
        accepted = (
            await gateway.post("/api/demo/messages", {"content": f"/echo {number} ✓", "thread_id": "whole"})
        ).json()
        await ended(gateway, accepted["turn_id"])
        wanted += [f"/echo {number} ✓", f"{number} ✓"]
    async with gateway.http() as http:
        answer = await http.get("/api/threads/whole/export")
        assert answer.headers["content-disposition"] == 'attachment; filename="whole.json"'
        exported = json.loads(answer.text)
        assert [message["content"] for message in exported["messages"]] == wanted
        assert exported["thread"] == await gateway.get("/api/threads/whole")
        newest = (await gateway.get("/api/threads/whole/messages?limit=200"))["messages"]
        assert exported["messages"] == newest
        answer = await http.get("/api/threads/whole/export?format=markdown")
        assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
        assert answer.text.startswith("# /echo 0 ✓\n\ndemo, begun ")
        assert answer.text.count("\n## User, ") == answer.text.count("\n## demo, ") == 55
        assert (await http.get("/api/threads/whole/export?format=pdf")).status_code == 400


async def test_an_export_while_a_turn_runs_ends_and_holds_what_was_said(gateway: GatewayProcess) -> None:
    await ran(gateway, "/echo before", thread_id="running")
    accepted = (await gateway.post("/api/demo/messages", {"content": "/hang", "thread_id": "running"})).json()
    async with asyncio.timeout(10):
        exported = await gateway.get("/api/threads/running/export")
    assert [message["content"] for message in exported["messages"]] == ["/echo before", "before", "/hang"]
    assert exported["thread"]["status"] == "running"
    await gateway.post(f"/api/turns/{accepted['turn_id']}/cancel")
    turn = await ended(gateway, accepted["turn_id"])
    text = (await _markdown(gateway, "running")).rstrip()
    assert text.endswith("(cancelled)"), turn


async def _markdown(gateway: GatewayProcess, thread_id: str) -> str:
    async with gateway.http() as http:
        return (await http.get(f"/api/threads/{thread_id}/export?format=markdown")).text
