"""Tokens: whose they are, where they stand in a request, and how the owner's is made."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from gateway import auth
from gateway.auth import (
    HeaderToken,
    Identity,
    NoToken,
    OwnerTokenError,
    StaticTokens,
    SubprotocolToken,
    authenticator,
    owner_token,
    presented_token,
    token_url,
)
from gateway.settings import Settings


def encoded(token: str) -> str:
    return base64.urlsafe_b64encode(token.encode()).decode()


async def test_a_token_is_its_users_and_no_one_elses() -> None:
    tokens = StaticTokens({"alice": SecretStr("a"), "bob": "b"})
    assert await tokens.authenticate("a") == Identity("alice")
    assert await tokens.authenticate("b") == Identity("bob")
    for wrong in ("", "A", "a ", "ab", "alice", "\ud800", "x" * 100_000):
        assert await tokens.authenticate(wrong) is None


async def test_the_user_named_owner_has_the_owners_rights() -> None:
    tokens = StaticTokens({"owner": "o", "alice": "a"})
    assert await tokens.authenticate("o") == Identity("owner", owner=True)
    assert await tokens.authenticate("a") == Identity("alice", owner=False)


async def test_every_token_is_compared_and_by_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    tokens = StaticTokens({"alice": "a", "bob": "b", "carol": "c"})
    monkeypatch.setattr("gateway.auth.hmac.compare_digest", compare)
    assert await tokens.authenticate("a") == Identity("alice")
    assert len(compared) == 3
    assert {len(side) for pair in compared for side in pair} == {32}


async def test_the_owner_token_is_made_once_for_the_owners_eyes(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path / "state")
    first, second = owner_token(settings), owner_token(settings)
    assert (first.created, second.created) == (True, False)
    assert first.token == second.token
    assert len(first.token) == 43
    assert first.token not in repr(first)
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert [path.name for path in first.path.parent.iterdir()] == ["owner-token"]
    assert await authenticator(settings).authenticate(first.token) == Identity("owner", owner=True)


def test_the_owner_token_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = owner_token(Settings(state_dir=tmp_path / "state")).path
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    owner_token(Settings(state_dir=tmp_path / "state"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_processes_that_start_at_once_agree_on_the_owner_token(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from gateway.auth import owner_token\nfrom gateway.settings import Settings\n"
        "settings = Settings(state_dir=Path(sys.argv[1]))\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "made = owner_token(settings); print(made.token, made.created)\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "state")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    answers = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        answers.append(process.communicate(timeout=20)[0].split())
    assert len({token for token, _ in answers}) == 1
    assert sorted(created for _, created in answers) == ["False", "False", "False", "True"]


def test_a_token_made_by_another_process_in_between_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state_dir=tmp_path)
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as seen just before the other one linked its file
    first, second = owner_token(settings), owner_token(settings)
    assert (second.token, second.created) == (first.token, False)


def test_an_owner_token_file_of_no_use_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "owner-token").write_text("\n")
    with pytest.raises(OwnerTokenError, match="is empty: remove it"):
        owner_token(Settings(state_dir=tmp_path))
    (tmp_path / "owner-token").write_bytes(b"\xff")
    with pytest.raises(OwnerTokenError, match="cannot be used"):
        owner_token(Settings(state_dir=tmp_path))


async def test_tokens_in_the_settings_leave_no_owner_token(tmp_path: Path) -> None:
    settings = Settings.model_validate({"state_dir": tmp_path, "auth": {"tokens": {"alice": "a"}}})
    assert await authenticator(settings).authenticate("a") == Identity("alice")
    assert os.listdir(tmp_path) == []


def test_the_token_is_in_the_links_fragment() -> None:
    assert token_url("http://h:1", "t") == "http://h:1/#token=t"


@pytest.mark.parametrize(
    ("authorization", "subprotocols", "expected"),
    [
        (None, [], NoToken()),
        ("Bearer abc", [], HeaderToken("abc")),
        ("bearer   abc ", [], HeaderToken("abc")),
        ("Bearer", [], HeaderToken("")),
        ("Basic dTpw", [], NoToken()),
        (None, ["agentline.v1"], NoToken()),
        (None, ["agentline.v1", f"bearer.{encoded('geheim')}"], SubprotocolToken("geheim")),
        (None, [f"bearer.{encoded('ab')}"], SubprotocolToken("ab")),
        (None, [f"bearer.{encoded('ab').rstrip('=')}"], SubprotocolToken("ab")),
        (None, [f"bearer.{encoded('ÿ?>~')}"], SubprotocolToken("ÿ?>~")),
        (None, ["bearer."], SubprotocolToken("")),
        (None, ["bearer.a"], SubprotocolToken("")),
        (None, ["bearer.$$$$"], SubprotocolToken("")),
        (None, ["bearer._w"], SubprotocolToken("")),
        ("Bearer a", [f"bearer.{encoded('b')}"], HeaderToken("a")),
        ("Basic dTpw", [f"bearer.{encoded('b')}"], SubprotocolToken("b")),
    ],
)
def test_a_token_is_found_where_it_may_stand(
    authorization: str | None, subprotocols: list[str], expected: auth.PresentedToken
) -> None:
    assert presented_token(authorization, subprotocols) == expected


def test_a_presented_token_does_not_show() -> None:
    assert "geheim" not in repr(HeaderToken("geheim")) + repr(SubprotocolToken("geheim"))
