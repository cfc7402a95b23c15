"""What a person does at the console, and what a test looks at."""

from __future__ import annotations

from playwright.async_api import Locator, Page, expect

from tests.console.conftest import PATIENCE_MS

NUMBERS = "".join(f"{number} " for number in range(1, 101)).strip()
"""What `/pieces 100` says."""
COUNT_UPDATES = """() => {
    const seen = window.updates = [];
    const note = () => {
        const text = document.querySelector('.message.assistant .markdown')?.textContent ?? '';
        if (text && text !== seen.at(-1)) seen.push(text);
    };
    const all = {childList: true, subtree: true, characterData: true};
    new MutationObserver(note).observe(document.getElementById('messages'), all);
}"""
"""Keeps every state of the first answer's text in `window.updates`."""


async def send(page: Page, text: str) -> None:
    await page.fill("#message", text)
    await page.press("#message", "Enter")


async def finished(page: Page, answers: int = 1) -> None:
    """Wait until so many answers have come to their end."""
    await expect(page.locator(".message.assistant footer .actions")).to_have_count(answers, timeout=PATIENCE_MS)


def answer(page: Page) -> Locator:
    return page.locator(".message.assistant .markdown").last
