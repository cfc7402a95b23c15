"""A running gateway behind a proxy that can be cut, and the system's Chromium in front of both."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.console.proxy import CuttingProxy
from tests.server import TOKENS, GatewayProcess

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 10_000
"""For every wait in the browser that is not given another."""


@pytest.fixture(scope="session")
def chromium_path() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("the console's tests need Chromium; on Debian: apt-get install chromium", pytrace=False)
    return path


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One gateway for all tests of the console. Its demo agent speaks 50 pieces per second."""
    environment = {"AGENTS": {"claude": None, "codex": None, "demo": {"pace": 50}, "second": {"provider": "demo"}}}
    process = GatewayProcess(tmp_path_factory.mktemp("gateway"), environment)
    process.start()
    try:
        yield process
    finally:
        process.stop_now()


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(gateway: GatewayProcess) -> AsyncIterator[CuttingProxy]:
    async with CuttingProxy(gateway.url) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium_path: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium_path, args=list(FLAGS))
        try:
            yield browser
        finally:
            await browser.close()


NewPage = Callable[..., Any]


@pytest.fixture
def faults() -> Iterator[list[str]]:
    """What went wrong in a page: something thrown, its policy broken, a dialog. A test that expects it clears it."""
    faults: list[str] = []
    yield faults
    assert not faults


@pytest_asyncio.fixture(loop_scope="session")
async def new_page(browser: Browser, proxy: CuttingProxy, faults: list[str]) -> AsyncIterator[NewPage]:
    """Opens the console, signed in through the fragment."""
    contexts: list[BrowserContext] = []

    async def open_page(path: str = f"/#token={TOKENS['alice']}", **options: Any) -> Page:
        context = await browser.new_context(viewport=options.pop("viewport", {"width": 1200, "height": 800}), **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = await context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: "Security" in message.text and faults.append(message.text))
        page.on("dialog", lambda dialog: faults.append(f"a dialog: {dialog.message}"))
        await page.goto(proxy.url + path)
        return page

    yield open_page
    for context in contexts:
        await context.close()
