"""Turns of the real Codex, seen from a phone: its model is the fake Responses API, all between is what is served."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.codex_kit import WITHIN, ask, codex_agent, codex_processes, command
from tests.e2e.conftest import NewClient
from tests.e2e.rules import kinds
from tests.fakes.responses_api import DROP, STALL, Reasoning, Refuse, Reply, ResponsesApi, Text
from tests.providers.codex_kit import processes, until
from tests.server import GatewayProcess

MANY = 50
DEVICES = 10


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("codex")


@pytest.fixture(scope="module")
def gateway_environment(home: Path, responses_port: int) -> dict[str, Any]:
    bold = {"sandbox": "danger-full-access", "approval_policy": "never"}
    agents = {
        "codex": codex_agent(home / "usual", responses_port),
        "bold": codex_agent(home / "bold", responses_port, **bold),
    }
    return {"AGENTS": {"claude": None, "demo": None, **agents}, "TURN__CONNECT_SECONDS": "30"}


async def test_text_reasoning_and_tools_reach_the_phone_while_the_model_still_speaks(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    think, speak = asyncio.Event(), asyncio.Event()
    responses_api.script(
        command("echo found"),
        Reply(Reasoning("So it", think, " is."), Text("Hel", speak, "lo.")),
    )
    phone = new_client(gateway, agent="bold")
    await phone.connect()
    assert {"approvals", "steer", "sessions", "tools", "reasoning"} <= set(phone.ready["capabilities"])
    accepted = await phone.message("Say hello", thread_id="streamed")
    assert (await phone.receive(until="reasoning", within=WITHIN))[-1]["content"] == "So it"
    think.set()
    assert (await phone.receive(until="message"))[-1]["content"] == "Hel"
    speak.set()
    done = await phone.finish(accepted["turn_id"])
    assert (done["status"], done["content"], done["stop_reason"]) == ("completed", "Hello.", "end_turn")
    assert done["usage"]["input_tokens"] > 0
    logged = [f for f in phone.frames if f.get("turn_id") == accepted["turn_id"] and "cursor" in f]
    assert [k for k in kinds(logged) if k not in ("message", "reasoning")] == [
        "accepted",
        "user_message",
        "tool_call",
        "tool_result",
        "done",
    ]
    (call,) = (f for f in logged if f["type"] == "tool_call")
    (result,) = (f for f in logged if f["type"] == "tool_result")
    assert (call["title"], result["status"], result["summary"].strip()) == ("echo found", "completed", "found")


async def test_cancel_ends_the_turn_the_request_upstream_and_the_command(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    phone = new_client(gateway, agent="bold")
    await phone.connect()
    responses_api.script(Reply(Text("Hel", STALL)), command("sleep 613 & sleep 613"))
    accepted = await phone.message("Speak", thread_id="cancelled")
    await phone.receive(until="message", within=WITHIN)
    await phone.send("cancel", turn_id=accepted["turn_id"])
    done = await phone.finish(accepted["turn_id"])
    assert (done["status"], done["content"]) == ("cancelled", "Hel")
    call = await responses_api.called(1)
    async with asyncio.timeout(5):
        await call.ended.wait()
    assert call.left

    def sleeping() -> int:
        return len(set(processes("sleep\000613")) & set(processes(str(home / "bold"))))

    accepted = await phone.message("Run", thread_id="cancelled")
    await until(lambda: sleeping() == 2, WITHIN)
    await phone.send("cancel", thread_id="cancelled")
    assert (await phone.finish(accepted["turn_id"]))["status"] == "cancelled"
    await until(lambda: sleeping() == 0)
    assert len(codex_processes(home / "bold")) == 1
    done = await ask(phone, "And now?", "cancelled")
    assert (done["status"], done["content"]) == ("completed", "ok")
    heard = responses_api.calls[-1].texts("user")
    assert [text for text in heard if text in ("Speak", "Run", "And now?")] == ["Speak", "Run", "And now?"]


@pytest.mark.parametrize(
    ("refusal", "code", "retryable"),
    [
        (Refuse(429, "rate_limit_exceeded"), "rate_limited", True),
        (Refuse(500), "upstream_error", True),
        (Refuse(401, "invalid_api_key"), "authentication", False),
    ],
    ids=["429", "500", "401"],
)
async def test_a_refusal_upstream_fails_the_turn_by_its_code_and_a_retry_succeeds(
    gateway: GatewayProcess,
    responses_api: ResponsesApi,
    new_client: NewClient,
    refusal: Refuse,
    code: str,
    retryable: bool,
) -> None:
    answers, responses_api.answer = responses_api.answer, lambda call: refusal
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    done = await ask(phone, "Hi", f"refused-{refusal.status}")
    assert done["status"] == "failed"
    assert (done["error"]["code"], done["error"]["retryable"]) == (code, retryable)
    assert "the fake refuses" not in str(done)
    responses_api.answer = answers
    answer = await gateway.post(f"/api/turns/{done['turn_id']}/retry")
    assert (answer.status_code, answer.json()["retry_of"]) == (202, done["turn_id"])
    again = await phone.finish(answer.json()["turn_id"], within=WITHIN)
    assert (again["status"], again["content"]) == ("completed", "ok")
    refused = await gateway.post(f"/api/turns/{again['turn_id']}/retry")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_retryable")


async def test_an_answer_that_was_dropped_is_reset_and_said_anew(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    shown = asyncio.Event()
    responses_api.script(Reply(Text("Wrong", shown, DROP)), Reply(Text("Right.")))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    accepted = await phone.message("Hi", thread_id="dropped")
    await phone.receive(until="message", within=WITHIN)
    shown.set()
    assert (await phone.receive(until="reset", within=WITHIN))[-1]["content"] == ""
    done = await phone.finish(accepted["turn_id"], within=WITHIN)
    assert (done["status"], done["content"]) == ("completed", "Right.")


async def test_an_answer_that_is_always_dropped_fails_as_disconnected(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    responses_api.answer = lambda call: Reply(Text("Wrong"), DROP)
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    done = await ask(phone, "Hi", "always-dropped")
    assert (done["status"], done["error"]["code"], done["error"]["retryable"]) == ("failed", "disconnected", True)


async def test_fifty_turns_at_once_share_one_process_and_none_gets_anothers_text(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient, home: Path
) -> None:
    together = asyncio.Event()
    responses_api.answer = lambda call: Reply(Text("re ", together, call.last_user_text))
    devices = [new_client(gateway, agent="codex", user=("alice", "bob")[n % 2]) for n in range(DEVICES)]
    await asyncio.gather(*(device.connect() for device in devices))

    async def converse(number: int) -> None:
        device = devices[number]
        asked = [f"{number}-{n}" for n in range(MANY // DEVICES)]
        turns = {text: (await device.message(text, thread_id=f"many-{text}"))["turn_id"] for text in asked}
        for text, turn_id in turns.items():
            done = await device.finish(turn_id, within=60)
            assert (done["status"], done["content"]) == ("completed", f"re {text}")

    async with asyncio.timeout(90), asyncio.TaskGroup() as group:
        for number in range(DEVICES):
            group.create_task(converse(number))
        await responses_api.called(MANY, within=60)
        assert responses_api.open == MANY
        assert len(codex_processes(home / "usual")) == 1
        together.set()


async def test_a_thread_that_is_deleted_takes_its_running_turn_along(
    gateway: GatewayProcess, responses_api: ResponsesApi, new_client: NewClient
) -> None:
    responses_api.script(Reply(Text("Hel", STALL)))
    phone = new_client(gateway, agent="codex")
    await phone.connect()
    accepted = await phone.message("Hi", thread_id="deleted")
    await phone.receive(until="message", within=WITHIN)
    async with gateway.http() as http:
        assert (await http.delete("/api/threads/deleted")).status_code == 204
        assert (await http.get("/api/threads/deleted")).status_code == 404
        assert (await http.get(f"/api/turns/{accepted['turn_id']}")).status_code == 404
    assert (await phone.finish(accepted["turn_id"]))["status"] == "cancelled"
    call = await responses_api.called(1)
    async with asyncio.timeout(5):
        await call.ended.wait()
    # The name can be used again, for a conversation that knows nothing of the one before.
    done = await ask(phone, "Anew", "deleted")
    assert (done["status"], done["content"]) == ("completed", "ok")
    assert "Hi" not in responses_api.calls[-1].texts("user")
