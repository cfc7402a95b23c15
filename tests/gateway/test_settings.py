"""Settings: what each source may say, which one wins, and how a mistake is told."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.configuration import load_dotenv_for_libraries, load_settings
from gateway.settings import UNSUPPORTED, Settings, SettingsError

SECRET = "hunter2-do-not-show"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def load(
    home: Path, *, toml: str = "", dotenv: str = "", flags: Mapping[str, str] | None = None, **env: str
) -> Settings:
    (home / "agentline.toml").write_text(toml)
    (home / ".env").write_text(dotenv)
    return load_settings(directory=home, environ=env, flags=flags)


def refusal(home: Path, **sources: Any) -> str:
    with pytest.raises(SettingsError) as raised:
        load(home, **sources)
    text = str(raised.value)
    assert "\n" not in text
    assert SECRET not in text
    return text


def test_nothing_set_gives_the_documented_defaults(home: Path) -> None:
    settings = load_settings(directory=home, environ={})
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert list(settings.agents) == ["claude", "codex", "demo"]
    assert settings.turn.model_dump() == {
        "connect_seconds": 10,
        "first_event_seconds": 120,
        "idle_seconds": 120,
        "total_seconds": 3600,
    }
    assert (settings.push.policy, settings.push.grace_seconds) == ("unseen", 3)
    assert (settings.compat.agent, settings.compat.trust_user_id) == ("claude", False)
    assert (settings.limits.client_frame_bytes, settings.limits.server_frame_bytes) == (262144, 524288)
    assert settings.database.startswith("sqlite:////")
    assert settings.database.endswith("/.agentline/agentline.db")


def test_each_source_is_laid_over_the_one_before(home: Path) -> None:
    toml, dotenv = "port = 1\nhost = '10.0.0.1'", "AGENTLINE_PORT=2"
    assert load(home, toml=toml).port == 1
    assert load(home, toml=toml, dotenv=dotenv).port == 2
    assert load(home, toml=toml, dotenv=dotenv, AGENTLINE_PORT="3").port == 3
    last = load(home, toml=toml, dotenv=dotenv, AGENTLINE_PORT="3", flags={"port": "4"})
    assert (last.port, last.host) == (4, "10.0.0.1")


def test_plain_port_works_and_the_prefixed_one_wins(home: Path) -> None:
    assert load(home, PORT="9000").port == 9000
    assert load(home, PORT="9000", AGENTLINE_PORT="9001").port == 9001
    assert load(home, toml="port = 1", PORT="9000").port == 9000


def test_an_empty_variable_counts_as_not_set(home: Path) -> None:
    assert load(home, AGENTLINE_PORT="", AGENTLINE_REDIS_URL="", PORT="").port == 8080


def test_a_file_that_was_named_must_exist_and_one_that_was_not_need_not(home: Path) -> None:
    (home / "other.toml").write_text("port = 5")
    assert load_settings(config=home / "other.toml", directory=home, environ={}).port == 5
    assert load_settings(directory=home, environ={"AGENTLINE_CONFIG": "other.toml"}).port == 5
    with pytest.raises(SettingsError, match=r"missing\.toml cannot be read"):
        load_settings(config=home / "missing.toml", directory=home, environ={})


def test_a_setting_made_by_hand_reads_nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "9")
    monkeypatch.setenv("AGENTLINE_PORT", "9")
    assert Settings().port == 8080


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"AGENTLINE_PROT": SECRET}, "unknown setting AGENTLINE_PROT (did you mean AGENTLINE_PORT?)"),
        (
            {"AGENTLINE_TURN__IDEL_SECONDS": SECRET},
            "unknown setting AGENTLINE_TURN__IDEL_SECONDS (did you mean AGENTLINE_TURN__IDLE_SECONDS?)",
        ),
        ({"AGENTLINE_PORT__X": SECRET}, "unknown setting AGENTLINE_PORT__X (did you mean AGENTLINE_PORT?)"),
        (
            {"dotenv": f"AGENTLINE_HOTS={SECRET}"},
            "unknown setting AGENTLINE_HOTS in .env (did you mean AGENTLINE_HOST?)",
        ),
        (
            {"toml": f"[turn]\nidel_seconds = '{SECRET}'"},
            "unknown setting turn.idel_seconds in agentline.toml (did you mean turn.idle_seconds?)",
        ),
        ({"toml": f"prot = '{SECRET}'"}, "unknown setting prot in agentline.toml (did you mean port?)"),
        (
            {"AGENTLINE_TURN": f'{{"idle_second": "{SECRET}"}}'},
            "unknown setting idle_second in AGENTLINE_TURN (did you mean idle_seconds?)",
        ),
        (
            {"AGENTLINE_AGENTS__CLAUDE__TURN__IDLE_SECOND": SECRET},
            "unknown setting AGENTLINE_AGENTS__CLAUDE__TURN__IDLE_SECOND (did you mean AGENTLINE_TURN__IDLE_SECONDS?)",
        ),
    ],
)
def test_a_name_that_no_setting_knows_stops_the_start(home: Path, sources: dict[str, Any], expected: str) -> None:
    assert refusal(home, **sources) == expected


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        ({"AGENTLINE_PORT": SECRET}, "AGENTLINE_PORT is wrong: input should be a valid integer"),
        ({"PORT": SECRET}, "PORT is wrong"),
        ({"flags": {"port": SECRET}}, "--port is wrong"),
        ({"toml": f"port = '{SECRET}'"}, "port in agentline.toml is wrong"),
        ({"dotenv": f"AGENTLINE_PORT={SECRET}"}, "AGENTLINE_PORT in .env is wrong"),
        ({"AGENTLINE_PORT": "65536"}, "AGENTLINE_PORT is wrong: input should be less than or equal to 65535"),
        (
            {"AGENTLINE_TURN__IDLE_SECONDS": "0"},
            "AGENTLINE_TURN__IDLE_SECONDS is wrong: input should be greater than 0",
        ),
        ({"AGENTLINE_TURN__TOTAL_SECONDS": "inf"}, "AGENTLINE_TURN__TOTAL_SECONDS is wrong"),
        ({"AGENTLINE_TURN": SECRET}, "AGENTLINE_TURN must be JSON"),
        ({"AGENTLINE_AGENTS": f'{{"{SECRET}'}, "AGENTLINE_AGENTS must be JSON"),
        ({"AGENTLINE_AGENTS": f'{{"{SECRET}!": {{}}}}'}, "AGENTLINE_AGENTS is wrong: an agent's name"),
        ({"AGENTLINE_AGENTS": '{"threads": {}}'}, "AGENTLINE_AGENTS is wrong: no agent can be named"),
        ({"AGENTLINE_AGENTS": f'{{"claude": "{SECRET}"}}'}, "AGENTLINE_AGENTS is wrong: an agent's entry is a map"),
        ({"AGENTLINE_AUTH__TOKENS": f'{{"{SECRET}": 3}}'}, "AGENTLINE_AUTH__TOKENS is wrong: a token is text"),
        ({"AGENTLINE_AUTH__TOKENS": f'{{"a": "{SECRET}", "b": "{SECRET}"}}'}, "two users have the same token"),
        ({"AGENTLINE_AUTH__TOKENS": f'{{"a": "{SECRET} x"}}'}, "AGENTLINE_AUTH__TOKENS is wrong: a token is text"),
        ({"AGENTLINE_AUTH__TOKENS": f'["{SECRET}"]'}, "AGENTLINE_AUTH__TOKENS is wrong: must be a map"),
        ({"AGENTLINE_PUBLIC_URL": f"ftp://{SECRET}"}, "AGENTLINE_PUBLIC_URL is wrong: must be a URL"),
        ({"AGENTLINE_PUBLIC_URL": f"https://me:{SECRET}@a.b"}, "AGENTLINE_PUBLIC_URL is wrong"),
        ({"AGENTLINE_PUBLIC_URL": f"https://a.b/?token={SECRET}"}, "AGENTLINE_PUBLIC_URL is wrong"),
        ({"AGENTLINE_PUBLIC_URL": f"https://a.b:{SECRET}"}, "AGENTLINE_PUBLIC_URL is wrong"),
        ({"AGENTLINE_ALLOWED_ORIGINS": "https://a.b,*"}, "AGENTLINE_ALLOWED_ORIGINS is wrong: every entry"),
        ({"AGENTLINE_ALLOWED_ORIGINS": f"https://a.b/{SECRET}"}, "AGENTLINE_ALLOWED_ORIGINS is wrong: every entry"),
        ({"AGENTLINE_DATABASE_URL": f"mysql://u:{SECRET}@h/d"}, "AGENTLINE_DATABASE_URL is wrong: must begin with"),
        ({"AGENTLINE_LOG_FORMAT": SECRET}, "AGENTLINE_LOG_FORMAT is wrong: input should be 'console' or 'json'"),
        ({"AGENTLINE_COMPAT__AGENT": SECRET}, "compat.agent must name one of the agents"),
        ({"AGENTLINE_PUSH__NTFY": f'{{"token": "{SECRET}"}}'}, "AGENTLINE_PUSH__NTFY lacks server"),
        ({"toml": f"port = {SECRET}"}, "agentline.toml is not valid TOML (at line 1, column 8)"),
        ({"toml": f"a='{SECRET}'\na='{SECRET}'"}, "agentline.toml is not valid TOML"),
    ],
)
def test_a_wrong_value_is_named_and_never_repeated(home: Path, sources: dict[str, Any], name: str) -> None:
    assert name in refusal(home, **sources)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AGENTLINE_AUTH__JWT", f'{{"secret": "{SECRET}", "algorithms": ["HS256"]}}'),
        ("AGENTLINE_PUSH__APNS", '{"key_path": "k", "key_id": "k", "team_id": "t", "topic": "o"}'),
        ("AGENTLINE_PUSH__FCM", '{"credentials_path": "c"}'),
        ("AGENTLINE_PUSH__WEBPUSH", '{"private_key_path": "p", "subject": "mailto:a@b.c"}'),
        ("AGENTLINE_PUSH__NTFY", f'{{"server": "https://n", "token": "{SECRET}"}}'),
    ],
)
def test_a_feature_that_is_not_there_yet_stops_the_start(home: Path, variable: str, value: str) -> None:
    dotted = variable.removeprefix("AGENTLINE_").lower().replace("__", ".")
    if dotted not in UNSUPPORTED:
        load(home, **{variable: value})
    else:
        assert (
            refusal(home, **{variable: value}) == f"{variable} is not supported by this version ({UNSUPPORTED[dotted]})"
        )


NODES = {"AGENTLINE_DATABASE_URL": "postgresql://u:p@h/db", "AGENTLINE_REDIS_URL": f"redis://:{SECRET}@h:6379/1"}


def test_a_redis_url_makes_one_of_many_nodes_and_wants_a_database_that_they_can_share(home: Path) -> None:
    assert load(home, **NODES, AGENTLINE_RUN_TURNS="false").run_turns is False
    alone = {"AGENTLINE_REDIS_URL": NODES["AGENTLINE_REDIS_URL"]}
    assert "redis_url is for many nodes" in refusal(home, **alone)
    assert "run_turns can be false only with a redis_url" in refusal(home, AGENTLINE_RUN_TURNS="false")


@pytest.mark.parametrize(
    "url",
    [
        "h:6379",
        "http://h",
        "redis://",
        f"redis://:{SECRET}@h:0",
        "redis://h/x",
        "redis://h:99999",
        "redis://h?db=x",
        "redis://h?nothing",
        "unix://",
        "unix://h/redis.sock",
    ],
)
def test_a_redis_url_that_is_none_is_refused_without_repeating_it(home: Path, url: str) -> None:
    said = refusal(home, **NODES | {"AGENTLINE_REDIS_URL": url})
    assert said == (
        "AGENTLINE_REDIS_URL is wrong: must be a URL such as redis://:password@host:6379/0 or unix:///run/redis.sock?db=0"
    )


@pytest.mark.parametrize(
    "url", ["redis://h/0?decode_responses=true", "redis://h?ssl_ca_certs=/ca.pem", "unix:///r.sock?max_connections=1"]
)
def test_a_redis_url_with_an_option_that_would_change_how_redis_is_spoken_to_is_refused(home: Path, url: str) -> None:
    said = refusal(home, **NODES | {"AGENTLINE_REDIS_URL": url})
    assert said == "AGENTLINE_REDIS_URL is wrong: has an option that is not known here; known: db"


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h?db=3", "rediss://u:p%40@h:1/2?ssl_ca_certs={ca}", "unix:///r.s"]
)
def test_a_redis_url_may_name_a_database_a_socket_and_certificates(home: Path, url: str) -> None:
    (home / "ca.pem").touch()
    url = url.format(ca=home / "ca.pem")
    given = load(home, **NODES | {"AGENTLINE_REDIS_URL": url}).redis_url
    assert given is not None
    assert given.get_secret_value() == url


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("ssl_ca_certs=/none", "names with ssl_ca_certs a file that cannot be read"),
        ("ssl_cert_reqs=perhaps", "has for ssl_cert_reqs something else than required, optional or none"),
        ("ssl_check_hostname=perhaps", "has for ssl_check_hostname something else than true or false"),
    ],
)
def test_a_redis_url_with_settings_of_tls_that_cannot_work_is_refused(home: Path, query: str, said: str) -> None:
    url = f"rediss://:{SECRET}@h/0?{query}"
    assert refusal(home, **NODES | {"AGENTLINE_REDIS_URL": url}) == f"AGENTLINE_REDIS_URL is wrong: {said}"


def test_agents_are_merged_by_name_over_the_defaults_and_over_all_sources(home: Path) -> None:
    settings = load(
        home,
        toml="[agents.claude]\nmodel = 'm'\nmax_tokens = 1\n[agents.helper]\nprovider = 'claude'\n",
        AGENTLINE_AGENTS='{"claude": {"max_tokens": 2, "turn": {"idle_seconds": 5}}, "demo": null}',
        AGENTLINE_AGENTS__CLAUDE__API_KEY=SECRET,
        AGENTLINE_AGENTS__ECHO__NUMBERS="[1, 2]",
    )
    assert sorted(settings.agents) == ["claude", "codex", "echo", "helper"]
    claude = settings.agents["claude"]
    assert claude.provider == "claude"
    assert claude.options == {"model": "m", "max_tokens": 2, "api_key": SECRET}
    assert settings.agents["helper"].provider == "claude"
    assert settings.agents["echo"].provider == "echo"
    assert settings.agents["echo"].options == {"numbers": [1, 2]}
    assert SECRET not in repr(settings)
    assert settings.deadlines("claude").idle_seconds == 5
    assert settings.deadlines("claude").total_seconds == 3600
    assert settings.deadlines("codex") == settings.turn


def test_an_agent_made_by_hand_is_merged_the_same_way() -> None:
    settings = Settings.model_validate({"agents": {"demo": {"words": 3}, "codex": None}})
    assert sorted(settings.agents) == ["claude", "demo"]
    assert settings.agents["demo"].options == {"words": 3}


def test_secrets_do_not_show(home: Path) -> None:
    settings = load(
        home, AGENTLINE_AUTH__TOKENS=f'{{"alice": "{SECRET}"}}', AGENTLINE_DATABASE_URL=f"sqlite:///{SECRET}.db"
    )
    assert SECRET not in repr(settings) + str(settings)
    assert settings.database == f"sqlite:///{SECRET}.db"
    assert settings.auth.tokens["alice"].get_secret_value() == SECRET


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_a_postgres_url_may_be_written_in_each_usual_way(home: Path, scheme: str) -> None:
    settings = load(home, AGENTLINE_DATABASE_URL=f"{scheme}://me:{SECRET}@db.example.org:5433/line?sslmode=require")
    assert settings.database == f"postgresql+asyncpg://me:{SECRET}@db.example.org:5433/line?sslmode=require"
    assert SECRET not in repr(settings) + str(settings)


@pytest.mark.parametrize("url", ["mysql://host/db", "postgresql+psycopg://host/db", "postgresql:host", "sqlite"])
def test_another_database_is_refused(home: Path, url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL is wrong: must begin with sqlite:/// or postgresql://"):
        load(home, AGENTLINE_DATABASE_URL=url)


def test_origins_are_separated_by_commas_or_a_list(home: Path) -> None:
    assert load(home, AGENTLINE_ALLOWED_ORIGINS="https://a.b, c.d:3 ,").allowed_origins == ("https://a.b", "c.d:3")
    assert load(home, AGENTLINE_ALLOWED_ORIGINS='["https://a.b/"]').allowed_origins == ("https://a.b",)
    assert load(home, toml="allowed_origins = ['https://a.b']").allowed_origins == ("https://a.b",)


@pytest.mark.parametrize(
    ("given", "port", "expected"),
    [
        ({}, None, "http://127.0.0.1:8080"),
        ({"host": "0.0.0.0"}, 5, "http://127.0.0.1:5"),  # noqa: S104 - no socket is opened
        ({"host": "::"}, 5, "http://[::1]:5"),
        ({"host": "box.lan", "port": 1}, None, "http://box.lan:1"),
        ({"public_url": "https://chat.example/"}, 5, "https://chat.example"),
        ({"public_url": "https://chat.example/x/"}, None, "https://chat.example/x"),
    ],
)
def test_links_say_how_people_reach_the_gateway(given: dict[str, Any], port: int | None, expected: str) -> None:
    assert Settings(**given).base_url(port) == expected


def test_the_state_directory_is_made_for_its_owner_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    path = Settings(state_dir=Path("~/a/b")).prepare_state_dir()
    assert path == home / "a" / "b"
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert list(path.iterdir()) == []


def test_a_state_directory_that_cannot_be_used_is_one_line(home: Path) -> None:
    (home / "file").write_text("")
    for path in (home / "file", home / "file" / "below", Path("/proc/agentline")):
        with pytest.raises(SettingsError) as raised:
            Settings(state_dir=path).prepare_state_dir()
        assert str(raised.value).startswith(f"the state directory {path} cannot be used: ")


def test_variables_of_backends_in_dotenv_reach_the_environment_and_the_gateways_own_do_not(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    (home / ".env").write_text("ANTHROPIC_API_KEY=a\nOPENAI_API_KEY=b\nAGENTLINE_HOST=h\nPORT=1\n")
    monkeypatch.setattr(os, "environ", {"OPENAI_API_KEY": "mine"})
    load_dotenv_for_libraries(home)
    assert os.environ == {"ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "mine"}
