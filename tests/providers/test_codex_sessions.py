"""Work goes from the desk to the phone and back: sessions of `codex` in a terminal on the same Codex home."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from providers import Message, ProviderError
from tests.fakes.responses_api import Reply, ResponsesApi, Text
from tests.providers.codex_kit import codex, failure, run, session, terminal, text, turn


@pytest.fixture
async def api() -> AsyncIterator[ResponsesApi]:
    async with ResponsesApi() as server:
        server.answer = lambda call: Reply(Text(f"re {call.last_user_text}"))
        yield server


async def test_a_session_from_the_terminal_is_listed_read_adopted_and_found_again_at_the_desk(
    api: ResponsesApi, tmp_path: Path
) -> None:
    desk = tmp_path / "project"
    desk.mkdir()
    before = int(time.time()) * 1000
    async with codex(tmp_path, api) as provider:
        await terminal(tmp_path, api, "begun at the desk", cwd=desk)

        (found,) = await provider.sessions("alice")
        assert (found.title, found.cwd) == ("begun at the desk", str(desk))
        assert before <= found.created_at <= found.updated_at <= (time.time() + 1) * 1000
        assert await provider.session_messages("alice", found.id) == [
            Message("user", "begun at the desk"),
            Message("assistant", "re begun at the desk"),
        ]

        phone = await run(provider, turn("on the phone", session=found.session))
        assert text(phone) == "re on the phone"
        assert api.calls[-1].texts("user")[-2:] == ["begun at the desk", "on the phone"]
        assert str(desk) in "".join(api.calls[-1].texts("user"))

        assert "re at the desk again" in await terminal(tmp_path, api, "resume", found.id, "at the desk again")
        assert "on the phone" in api.calls[-1].texts("user")

        await run(provider, turn("and back", session=found.session))
        assert api.calls[-1].texts("user")[-1] == "and back"
        assert "at the desk again" in api.calls[-1].texts("user")
        assert [m.content for m in await provider.session_messages("alice", found.id)][-2:] == [
            "and back",
            "re and back",
        ]


async def test_a_thread_begun_on_the_phone_is_found_in_the_terminal_while_the_gateway_runs(
    api: ResponsesApi, tmp_path: Path
) -> None:
    async with codex(tmp_path, api) as provider:
        phone = await run(provider, turn("begun on the phone"))
        thread_id = session(phone)["codex_thread_id"]
        await terminal(tmp_path, api, "resume", thread_id, "at the desk")
    assert api.calls[-1].texts("user")[-1] == "at the desk"
    assert "begun on the phone" in api.calls[-1].texts("user")


async def test_threads_that_are_to_stay_loaded_stay_so_and_go_on(api: ResponsesApi, tmp_path: Path) -> None:
    async with codex(tmp_path, api, config={"thread_unload_delay_secs": 600}) as provider:
        first = await run(provider, turn("one"))
        client = await provider.server.client(1.0)
        assert (await client.request("thread/loaded/list", {}))["data"] == [session(first)["codex_thread_id"]]
        began = time.monotonic()
        await run(provider, turn("two", session=session(first)))
        assert time.monotonic() - began < 3.0
        assert provider.server.starts == 1
    assert api.calls[-1].texts("user")[-2:] == ["one", "two"]


async def test_an_adopted_session_follows_the_agents_rules_and_not_those_of_the_terminal(
    api: ResponsesApi, tmp_path: Path
) -> None:
    """`codex exec` records that nothing need be asked; on the phone that must not hold."""
    async with codex(tmp_path, api) as provider:
        await terminal(tmp_path, api, "--sandbox", "danger-full-access", "begun at the desk", cwd=tmp_path)
        (found,) = await provider.sessions("alice")
        client = await provider.server.client(10.0)
        asked, answers = client.request, []

        async def listening(method: str, params: dict[str, Any], **more: float) -> Any:
            result = await asked(method, params, **more)
            if method == "thread/resume":
                answers.append(result)
            return result

        client.request = listening  # type: ignore[method-assign]  # listens, changes nothing
        await run(provider, turn("on the phone", session=found.session))
    (resumed,) = answers
    assert resumed["approvalPolicy"] == "on-request"
    assert resumed["approvalsReviewer"] == "user"
    assert resumed["sandbox"]["type"] == "readOnly"


async def test_a_session_still_open_in_a_terminal_is_said_to_be_so_and_not_begun_anew(
    api: ResponsesApi, tmp_path: Path
) -> None:
    leave = asyncio.Event()
    async with codex(tmp_path, api) as provider:
        phone = await run(provider, turn("begun on the phone"))
        api.script(Reply(Text("at ", leave, "work")))
        desk = asyncio.create_task(terminal(tmp_path, api, "resume", session(phone)["codex_thread_id"], "at the desk"))
        await api.called(2)
        error = await failure(provider, turn("again", session=session(phone)))
        assert (error.code, error.retryable) == ("overloaded", True)
        assert "open in a terminal" in error.message
        leave.set()
        await desk
        assert text(await run(provider, turn("again", session=session(phone)))) == "re again"


async def test_users_with_directories_of_their_own_see_their_own_threads_and_nobody_elses(
    api: ResponsesApi, tmp_path: Path
) -> None:
    async with codex(tmp_path, api, cwd=str(tmp_path / "work" / "{user_id}" / "{thread_id}")) as provider:
        alices = await run(provider, turn("from alice", user_id="alice"))
        await run(provider, turn("from bob", user_id="bob"))
        await run(provider, turn("from alice.", user_id="alice."))
        assert [s.title for s in await provider.sessions("alice")] == ["from alice"]
        assert [s.title for s in await provider.sessions("bob")] == ["from bob"]
        with pytest.raises(ProviderError) as caught:
            await provider.session_messages("bob", session(alices)["codex_thread_id"])
        assert caught.value.code == "not_found"


async def test_in_a_shared_directory_nobody_sees_what_the_gateway_began_for_another(
    api: ResponsesApi, tmp_path: Path
) -> None:
    async with codex(tmp_path, api) as provider:
        await run(provider, turn("from alice"))
        assert await provider.sessions("alice") == []
        assert await provider.sessions("bob") == []


async def test_terminal_sessions_are_shown_to_the_named_users_alone(api: ResponsesApi, tmp_path: Path) -> None:
    async with codex(tmp_path, api, session_users=["alice"]) as provider:
        await terminal(tmp_path, api, "begun at the desk")
        (found,) = await provider.sessions("alice")
        assert await provider.sessions("bob") == []
        with pytest.raises(ProviderError):
            await provider.session_messages("bob", found.id)


@pytest.mark.parametrize("session_id", ["01a1f873-8fbf-7061-aefe-b5f5e1bfa8eb", "../x", ""])
async def test_an_unknown_session_is_not_found(api: ResponsesApi, tmp_path: Path, session_id: str) -> None:
    async with codex(tmp_path, api) as provider:
        with pytest.raises(ProviderError) as caught:
            await provider.session_messages("alice", session_id)
        assert caught.value.code == "not_found"
