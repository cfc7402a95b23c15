"""`agentline check`: what it tells, what it costs, and its exit codes; as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from providers.testing import RULES
from tests.fakes.elsewhere import elsewhere
from tests.fakes.messages_api import MessagesApi
from tests.fakes.messages_script import Status, answer, text

ROOT = Path(__file__).parents[2]
DEADLINE = 60
SECRET = "sk-secret-of-the-operator"

Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Runs `agentline check` with these arguments and settings of agents."""

    def run(*arguments: str, **agents: Any) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(tmp_path))),
            "AGENTLINE_AGENTS": json.dumps({"demo": {"pace": 0}, **agents}),
        }
        return subprocess.run(
            [sys.executable, "-m", "gateway", "check", *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    return run


@pytest.fixture
def install(tmp_path: Path) -> Callable[[str, str], None]:
    """Installs a plug-in as pip would leave it: metadata with an entry point, on the path."""

    def plug_in(name: str, target: str) -> None:
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[agentline.providers]\n{name} = {target}\n")

    return plug_in


def claude(api: MessagesApi) -> dict[str, str]:
    return {"api_key": SECRET, "base_url": api.url}


def test_a_working_agent_is_shown_at_work_and_keeps_every_rule(check: Check) -> None:
    ended = check("demo")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "state      configured\ncan        approvals, reasoning, tools\n" in ended.stdout
    assert "You wrote: *Reply with the single word: ready*" in ended.stdout
    assert "end        completed, end_turn\nfirst text after " in ended.stdout
    assert "usage      input_tokens 6, output_tokens " in ended.stdout
    for rule in RULES:
        assert f"\nok      {rule}\n" in ended.stdout
    assert f"{len(RULES)} rules kept, 0 broken; 6 turns played\n" in ended.stdout


def test_another_prompt_can_be_given(check: Check) -> None:
    ended = check("demo", "--prompt", "/tool; /approval command; /reset")
    assert ended.returncode == 0
    assert "[uses ls /srv]\n" in ended.stdout
    assert "The answer was declined, so I left it alone." in ended.stdout
    assert "This text is taken back.\n[takes text back and begins it anew]\n" in ended.stdout
    assert "7 turns played" in ended.stdout


def test_it_calls_the_backend_no_more_often_than_it_says(check: Check) -> None:
    with elsewhere(lambda: MessagesApi(answer(text("rea", "dy")), api_key=SECRET)) as api:
        ended = check("claude", claude=claude(api))
        assert ended.returncode == 0, ended.stdout
        assert "calls      up to 6 turns, each at least one call of the backend" in ended.stdout
        assert "\nready\n" in ended.stdout
        assert len(api.calls) == 5, "the sixth turn has a blank message, which this provider refuses by itself"
        assert {call.question for call in api.calls} == {"Reply with the single word: ready"}
        assert not api.refusals
    assert SECRET not in ended.stdout + ended.stderr


def test_without_a_live_turn_the_backend_is_not_called(check: Check) -> None:
    with elsewhere(lambda: MessagesApi(api_key=SECRET)) as api:
        ended = check("claude", "--no-live", claude=claude(api))
        assert ended.returncode == 0, ended.stdout
        assert not api.connections
    assert "calls      none: no turn is played\n" in ended.stdout
    assert "not looked at; 0 turns played\n" in ended.stdout


def test_a_backend_that_refuses_is_called_once(check: Check) -> None:
    with elsewhere(lambda: MessagesApi([Status(401, message=f"bad key {SECRET}")])) as api:
        ended = check("claude", claude=claude(api))
        assert len(api.calls) == 1
    assert ended.returncode == 1
    assert "end        FAILED: authentication: " in ended.stdout
    assert "BROKEN  the turn is answered: the turn failed with ProviderError (authentication)\n" in ended.stdout
    assert "1 broken" in ended.stdout
    assert "1 turn played\n" in ended.stdout
    assert SECRET not in ended.stdout + ended.stderr


def test_an_agent_that_is_not_configured_is_told_the_reason(check: Check) -> None:
    ended = check("claude")
    assert ended.returncode == 1
    assert "state      NOT CONFIGURED: api_key is missing" in ended.stdout


def test_an_option_that_the_provider_does_not_know_is_the_reason(check: Check) -> None:
    ended = check("demo", demo={"colour": "red"})
    assert ended.returncode == 1
    assert "NOT CONFIGURED: " in ended.stdout
    assert "'colour'" in ended.stdout


def test_an_agent_that_is_not_in_the_settings_is_a_wrong_argument(check: Check) -> None:
    ended = check("nope")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "agentline: there is no agent 'nope' in the settings; there are: claude, codex, demo\n"


def test_a_plug_in_that_breaks_its_contract_is_told_how(check: Check, install: Callable[[str, str], None]) -> None:
    install("wrong", "tests.providers.wrong:CompletesTwice")
    ended = check("mine", mine={"provider": "wrong"})
    assert ended.returncode == 1
    assert "\nBROKEN  there is exactly one Completed, and it is last: there were 2; " in ended.stdout
    assert f"{len(RULES) - 1} rules kept, 1 broken; " in ended.stdout


def test_a_plug_in_that_cannot_be_imported_is_not_configured(check: Check, install: Callable[[str, str], None]) -> None:
    install("wrong", "no_such_module:Provider")
    ended = check("wrong", wrong={})
    assert ended.returncode == 1
    assert "NOT CONFIGURED: No module named 'no_such_module'" in ended.stdout


def test_the_text_of_a_plug_ins_own_exception_is_not_shown(check: Check, install: Callable[[str, str], None]) -> None:
    install("wrong", "tests.providers.wrong:Fails")
    ended = check("wrong", wrong={})
    assert ended.returncode == 1
    assert "BROKEN  the turn is answered: the turn failed with KeyError at wrong.py:" in ended.stdout
    assert "secret" not in ended.stdout + ended.stderr


def test_a_plug_in_that_never_stops_does_not_keep_the_command(
    check: Check, install: Callable[[str, str], None]
) -> None:
    install("wrong", "tests.providers.wrong:NeverStops")
    ended = check("wrong", wrong={"turn": {"first_event_seconds": 0.5}})
    assert ended.returncode == 1
    assert "BROKEN  the turn is answered: there was no end within 0.5 s" in ended.stdout


def test_what_an_agent_says_cannot_steer_the_terminal(check: Check) -> None:
    ended = check("demo", "--prompt", "/echo \x1b[31mred\x07")
    assert ended.returncode == 0
    assert "\x1b" not in ended.stdout
    assert "\x07" not in ended.stdout
    assert "[31mred" in ended.stdout
