"""Build the wheel, see that it holds exactly the four import packages, and use it outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"agentline", "gateway", "notifications", "providers"}
CLIENT = """
import asyncio, json, sys, websockets

async def main():
    headers = {"Authorization": "Bearer wheel-check"}
    async with asyncio.timeout(30), websockets.connect(sys.argv[1], additional_headers=headers) as line:
        await line.send('{"type":"message","content":"Hi"}')
        text = ""
        async for frame in line:
            frame = json.loads(frame)
            if frame["type"] == "message":
                text += frame["content"]
            if frame["type"] == "done":
                assert text and text == frame["content"], frame
                return

asyncio.run(main())
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)], cwd=folder)
        (wheel,) = folder.glob("*.whl")
        check_contents(wheel)
        python = install(wheel, folder)
        use(python, folder)
    print("the wheel holds the right packages and works outside the checkout")


def check_contents(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == PACKAGES, f"the wheel's top level is {sorted(top)}"
    for package in PACKAGES:
        assert f"{package}/py.typed" in names, f"{package} has no py.typed"
    tracked = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True)
    lacking = set(tracked.stdout.split()) - set(names)
    assert not lacking, f"the wheel lacks {sorted(lacking)}"


def install(wheel: Path, folder: Path) -> Path:
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    run([str(python), "-m", "pip", "install", "--quiet", str(wheel)], cwd=folder)
    return python


def use(python: Path, folder: Path) -> None:
    agentline = python.with_name("agentline")
    run([str(agentline), "--version"], cwd=folder)
    environment = {
        "PATH": os.environ["PATH"],
        "AGENTLINE_STATE_DIR": str(folder / "state"),
        "AGENTLINE_AUTH__TOKENS": '{"owner": "wheel-check"}',
    }
    server = subprocess.Popen(
        [str(agentline), "serve", "--port", "0"], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("listening on http://"), line
        url = line.split()[-1].replace("http://", "ws://") + "/api/demo/ws"
        run([str(python), "-c", CLIENT, url], cwd=folder)
    finally:
        server.terminate()
    assert server.wait(30) == 0, "the server did not stop cleanly"


def run(command: list[str], cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, timeout=300)


if __name__ == "__main__":
    main()
