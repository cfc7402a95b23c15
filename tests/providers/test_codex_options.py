"""What an operator may set, and where threads work."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from providers.codex.options import Options, toml


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"sandbox": "none"}, "sandbox"),
        ({"approval_policy": "always"}, "approval_policy"),
        ({"cwd": "/srv/{name}"}, "cwd"),
        ({"cwd": "/srv/{user_id!r}"}, "cwd"),
        ({"cwd": "/srv/{user_id"}, "cwd"),
        ({"cwd": "/srv/{thread_id}"}, "cwd"),
        ({"cwd": "/srv/{thread_id}/{user_id}"}, "cwd"),
        ({"cwd": "/srv/{user_id}-{thread_id}"}, "cwd"),
        ({"env": {"A": 1}}, "env"),
        ({"config": {"a": None}}, "config"),
        ({"config": {"a": object()}}, "config"),
    ],
)
def test_a_wrong_option_is_named_and_its_value_is_not_repeated(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: ") as caught:
        Options(**wrong)
    assert "/srv" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [True, 3, 1.5, 'a "quoted" \\ line\nand é\x7f', ["a", 1], {"a-b": {"c.d": [True]}, "é": "x"}, [], {}],
)
def test_every_json_value_is_told_to_codex_as_toml(value: Any) -> None:
    assert tomllib.loads(f"x = {toml(value)}") == {"x": value}


def test_the_operators_config_wins_over_ours() -> None:
    line = Options(model="m", config={"model": "other", "thread_unload_delay_secs": 60}).command("codex")
    assert line == ["codex", "app-server", "-c", 'model="other"', "-c", "thread_unload_delay_secs=60"] or line == [
        "codex",
        "app-server",
        "-c",
        "thread_unload_delay_secs=60",
        "-c",
        'model="other"',
    ]


@pytest.mark.parametrize(
    "hostile", ["..", ".", "", "../../etc", "/etc/passwd", "a/b", "a\\b", "~root", "a\0b", "é" * 200, "{thread_id}"]
)
def test_no_id_leads_out_of_the_root_or_into_another_users_directory(tmp_path: Path, hostile: str) -> None:
    options = Options(cwd=str(tmp_path / "root" / "{user_id}" / "{thread_id}"))
    for user_id, thread_id in ((hostile, "t"), ("alice", hostile), (hostile, hostile)):
        path = Path(options.directory(user_id, thread_id))
        assert path.is_dir()
        assert path.resolve().relative_to(tmp_path / "root").parts == (path.parent.name, path.name)
        assert path.stat().st_mode & 0o077 == 0
    assert Path(options.directory(hostile, "t")).parent != Path(options.directory("a_b", "t")).parent


def test_two_ids_never_share_a_directory(tmp_path: Path) -> None:
    options = Options(cwd=str(tmp_path / "{user_id}"))
    ids = ["a b", "a_b", "a.b", "a/b", "a\\b"]
    assert len({options.directory(user_id, "t") for user_id in ids}) == len(ids)


def test_a_link_out_of_the_root_is_not_followed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "alice").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="outside"):
        Options(cwd=str(root / "{user_id}")).directory("alice", "t")


def test_a_users_root_holds_all_threads_of_that_user(tmp_path: Path) -> None:
    options = Options(cwd=str(tmp_path / "{user_id}" / "{thread_id}"))
    assert options.user_root("alice") == tmp_path / "alice"
    assert Options(cwd=str(tmp_path)).user_root("alice") is None
    assert Options(cwd=str(tmp_path / "u-{user_id}" / "x")).user_root("alice") == tmp_path / "u-alice"
