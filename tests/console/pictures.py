"""Makes docs/images: `python -m tests.console.pictures`. Needs Chromium and Pillow, and looks best with Inter."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from tests.console.conftest import FLAGS
from tests.server import ROOT, TOKENS, GatewayProcess

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 200_000
QUESTION = "The nightly backup is getting slower. What changed?"
OTHERS = (
    ("Release notes for 2.4", "claude"),
    ("Why is the CI cache cold?", "codex"),
    ("Plan the move to Postgres 18", "claude"),
    ("Flaky test in checkout", "codex"),
    ("Letter to the landlord", "claude"),
    ("Rename the metrics", "codex"),
)
PLUGIN = "import sys; sys.path.insert(0, {0!r}); from gateway.cli import main; sys.exit(main(['serve', '--port', '0']))"
DESKTOP = {"width": 1280, "height": 860}
PHONE = {"width": 390, "height": 844}


@contextlib.contextmanager
def gateway(directory: Path) -> Iterator[GatewayProcess]:
    """A gateway whose agents play the scenes: the provider is found as any plug-in is, by its entry point."""
    metadata = directory / "plugin" / "scenes-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: scenes\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[agentline.providers]\nscenes = tests.console.scenes:Scenes\n")
    agents = {"claude": {"provider": "scenes", "pause": 0.02}, "codex": {"provider": "scenes"}, "demo": None}
    command = ("-c", PLUGIN.format(str(metadata.parent)))
    process = GatewayProcess(directory / "state", {"AGENTS": agents}, command)
    process.start()
    try:
        yield process
    finally:
        process.stop_now()


def others(url: str) -> None:
    with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {TOKENS['alice']}"}, trust_env=False) as http:
        for title, agent in reversed(OTHERS):
            thread_id = http.post(f"/api/{agent}/messages", json={"content": title}).json()["thread_id"]
            page = http.get(f"/api/threads/{thread_id}/messages").json()["messages"]
            while len(page) < 2:
                page = http.get(f"/api/threads/{thread_id}/messages").json()["messages"]


def open_page(browser: Browser, url: str, scheme: str, viewport: dict[str, int], scale: float) -> Page:
    context = browser.new_context(
        viewport=viewport,  # type: ignore[arg-type]  # a TypedDict of the library
        color_scheme=scheme,  # type: ignore[arg-type]  # one of its literals
        device_scale_factor=scale,
        has_touch=viewport is PHONE,
        locale="en-GB",
    )
    page = context.new_page()
    page.goto(f"{url}/#token={TOKENS['alice']}")
    page.wait_for_selector("#connection[data-state=online]")
    return page


def take(page: Page, name: str) -> None:
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement?.blur()")
    page.wait_for_timeout(400)
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path, animations="disabled")
    Image.open(path).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    assert path.stat().st_size < MOST_BYTES, f"{path} takes {path.stat().st_size} bytes"


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("needs Chromium; on Debian: apt-get install chromium")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as directory,
        gateway(Path(directory)) as running,
        sync_playwright() as playwright,
    ):
        others(running.url)
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS), env=dict(os.environ))
        desktop = open_page(browser, running.url, "light", DESKTOP, 1.5)
        for title, _ in OTHERS[1:]:
            desktop.click(f"#threads a:has-text('{title}')")
            desktop.wait_for_selector(f"#threads a[aria-current]:has-text('{title}')")
            desktop.wait_for_selector(f"#threads li:has-text('{title}'):not(:has(.unread))")
            desktop.wait_for_selector(".message.assistant footer .actions")
        desktop.click("#new-thread")
        desktop.get_by_role("radio", name="claude").check(force=True)
        desktop.fill("#message", QUESTION)
        desktop.press("#message", "Enter")
        desktop.wait_for_selector(".message.assistant footer .actions")
        address = desktop.url.removeprefix(running.url)
        take(desktop, "console-desktop-light")

        phone = open_page(browser, running.url, "dark", PHONE, 2)
        phone.goto(running.url + address)
        phone.wait_for_selector(".message.assistant footer .actions")
        take(phone, "console-phone-dark")

        desktop.fill("#message", "Yes, please.")
        desktop.press("#message", "Enter")
        desktop.wait_for_selector(".approval")
        dark = open_page(browser, running.url, "dark", DESKTOP, 1.5)
        dark.goto(running.url + address)
        dark.wait_for_selector(".approval")
        take(dark, "console-desktop-dark")
        light = open_page(browser, running.url, "light", PHONE, 2)
        light.goto(running.url + address)
        light.wait_for_selector(".approval")
        take(light, "console-phone-light")
        browser.close()


if __name__ == "__main__":
    main()
