"""The image: what a linter says of the Dockerfile, and its steps, carried out in a folder instead of a container."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.check_wheel import check_contents, run
from tests.deploy.proxies import DEPLOY
from tests.server import ROOT

LINTER = Path(sys.executable).parent / "hadolint"
Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    parted = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(word, re.sub(r"\s+", " ", rest).strip()) for word, _, rest in parted]


def stages() -> list[list[Instruction]]:
    made: list[list[Instruction]] = []
    for instruction in instructions():
        if instruction[0] == "FROM":
            made.append([])
        made[-1].append(instruction)
    return made


def test_the_linter_has_nothing_to_say() -> None:
    linted = subprocess.run([LINTER, DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_image_runs_as_nobody_in_particular_and_can_be_watched_and_stopped() -> None:
    build, final = stages()
    bases = {stage[0][1].split(" ")[0] for stage in (build, final)}
    assert len(bases) == 1, "what is built on one base runs on the same"
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", bases.pop())
    said = dict(final)
    assert said["USER"] == "10001:10001"
    assert said["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(said["ENTRYPOINT"]) == ["/opt/agentline/bin/agentline"]
    assert json.loads(said["CMD"]) == ["serve"]
    assert said["VOLUME"] == "/var/lib/agentline"
    assert "AGENTLINE_HOST=0.0.0.0" in said["ENV"]
    assert not re.search(r"\bpip\b|apt-get|gcc", " ".join(rest for word, rest in final if word == "RUN"))
    order = [word for word, _ in final]
    assert order.index("RUN") < order.index("USER"), "the user exists first"


def test_what_is_sent_to_the_builder_is_listed_and_there() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    for line in lines:
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line


def test_the_steps_of_the_build_make_a_gateway_whose_health_check_works(tmp_path: Path) -> None:
    """As the image's builder would, with its folders in this test's and this Python for its own. The libraries are this
    Python's too: `make wheel-check` sees that they can be installed."""
    moved = {"/opt/agentline": f"{tmp_path}/opt", "/wheels": f"{tmp_path}/wheels"}
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "EXTRAS": ""}
    build, venv, install, copy = (rest for word, rest in stages()[0] if word == "RUN")
    assert "--no-deps" in build
    install = install.replace(" --no-cache-dir ", " --no-deps ")
    for step in (build, venv, install, copy):
        for path, here in moved.items():
            step = step.replace(path, here)  # noqa: PLW2901 - moved
        subprocess.run(["sh", "-c", step], cwd=ROOT, env={**os.environ, **own}, check=True, timeout=100)
    check_contents(next(Path(moved["/wheels"]).glob("*.whl")))
    (packages,) = Path(moved["/opt/agentline"]).glob("lib/python3*/site-packages")
    (packages / "libraries.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    agentline = f"{moved['/opt/agentline']}/bin/agentline"
    run([agentline, "--version"], cwd=tmp_path)

    (health,) = [rest for word, rest in stages()[1] if word == "HEALTHCHECK"]
    check = [word.replace("/opt/agentline", moved["/opt/agentline"]) for word in json.loads(health.split("CMD ")[1])]
    assert check[-1] == "live"
    said = dict(pair.split("=") for pair in dict(stages()[1])["ENV"].split(" "))
    environment = {"AGENTLINE_HOST": said["AGENTLINE_HOST"], "AGENTLINE_STATE_DIR": f"{tmp_path}/state", **own}
    gateway = subprocess.Popen(
        [agentline, "serve", "--port", "0"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert gateway.stdout is not None
        line = gateway.stdout.readline()
        assert line.startswith("listening on http://0.0.0.0:"), line
        port = {"AGENTLINE_PORT": line.strip().rsplit(":", 1)[1]}

        def healthy(of: str) -> bool:
            asked = subprocess.run([*check[:-1], of], env=port, capture_output=True, timeout=30, check=False)
            assert asked.returncode in (0, 1), asked.stderr
            return asked.returncode == 0

        assert healthy("live")
        assert healthy("ready")
        gateway.send_signal(signal.SIGSTOP)
        assert not healthy("live")
        gateway.send_signal(signal.SIGCONT)
        gateway.terminate()
        assert gateway.wait(20) == 0
        assert not healthy("live")
    finally:
        gateway.kill()
        gateway.wait(10)
        gateway.stdout.close()  # type: ignore[union-attr]  # a pipe was asked for
