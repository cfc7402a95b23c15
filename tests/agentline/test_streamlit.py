"""`examples/streamlit_chat.py` in Streamlit's own test harness, against a running gateway: `make test-streamlit`."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from tests.agentline.conftest import line_to
from tests.agentline.leaks import held
from tests.agentline.proxy import Act, Proxy, Seen
from tests.server import ROOT, TOKENS, GatewayProcess

testing = pytest.importorskip("streamlit.testing.v1")
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")  # Streamlit's own

SCRIPT = str(ROOT / "examples" / "streamlit_chat.py")
NUMBERS = " ".join(str(n) for n in range(1, 21))


@pytest.fixture
def app(gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example, run once."""
    monkeypatch.setenv("GATEWAY_URL", gateway.url)
    monkeypatch.setenv("GATEWAY_TOKEN", TOKENS["alice"])
    app = testing.AppTest.from_file(SCRIPT, default_timeout=20)
    app.run()
    assert not app.exception
    return app


def shown(app: Any) -> list[tuple[str, str]]:
    return [(message.name, "".join(part.value for part in message.markdown).strip()) for message in app.chat_message]


def until_script_threads_end(seconds: float) -> None:
    """Wait until no thread is left that runs a script."""
    deadline = time.monotonic() + seconds
    for thread in threading.enumerate():
        if "script" in thread.name.lower():
            thread.join(max(deadline - time.monotonic(), 0))
            assert not thread.is_alive(), f"{thread.name} is left behind"


def test_a_streamed_turn_is_shown_and_then_a_second_and_nothing_is_left_behind(app: Any) -> None:
    before = held()
    app.chat_input[0].set_value("/pieces 20 0.02").run()
    assert not app.exception
    assert shown(app) == [("user", "/pieces 20 0.02"), ("assistant", NUMBERS)]
    assert held() == before
    app.chat_input[0].set_value("/history").run()
    assert not app.exception
    assert shown(app)[:2] == [("user", "/pieces 20 0.02"), ("assistant", NUMBERS)]
    assert "3 messages" in shown(app)[3][1], "the same thread"
    assert held() == before


def test_a_run_stopped_in_mid_answer_ends_and_the_next_one_shows_all_of_it(app: Any, gateway: GatewayProcess) -> None:
    before, began = held(), time.monotonic()
    with pytest.raises(RuntimeError, match="timed out"):
        app.chat_input[0].set_value("/pieces 5 0.05\n/pause 5\n/pieces 3 0.05").run(timeout=1)
    assert time.monotonic() - began < 4, "it did not wait for the agent to go on"
    until_script_threads_end(5)
    assert held() == before, "the stopped run let go while the agent was silent"
    app.chat_input[0].set_value(None).run()  # the harness would send it again, a browser does not
    assert not app.exception
    assert [text for _, text in shown(app)][1:] == ["1 2 3 4 5 \n\n1 2 3"]
    threads = line_to(gateway.url).blocking.threads(agent="demo", limit=1).threads
    history = line_to(gateway.url).blocking.messages(threads[0].thread_id)
    assert [message.role for message in history] == ["user", "assistant"], "sent once, answered once"
    assert held() == before


def test_a_turn_that_fails_shows_its_text_and_the_reason(app: Any) -> None:
    app.chat_input[0].set_value("/error overloaded after").run()
    assert not app.exception
    assert "overloaded" in app.error[0].value
    app.run()
    assert shown(app)[1][1] != "", "the text that it had is kept"


async def test_a_connection_that_is_cut_all_the_time_shows_the_exact_text(
    gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def policy(seen: Seen) -> Act:
        return Act.CUT_AFTER if seen.type == "message" and seen.to_client and seen.connection < 5 else Act.PASS

    async with Proxy(gateway.url, policy) as proxy:
        monkeypatch.setenv("GATEWAY_URL", proxy.url)
        monkeypatch.setenv("GATEWAY_TOKEN", TOKENS["alice"])

        def run() -> list[tuple[str, str]]:
            app = testing.AppTest.from_file(SCRIPT, default_timeout=20).run()
            app.chat_input[0].set_value("/pieces 20 0.05").run()
            assert not app.exception
            return shown(app)

        assert await asyncio.to_thread(run) == [("user", "/pieces 20 0.05"), ("assistant", NUMBERS)]
        assert proxy.connections > 3
