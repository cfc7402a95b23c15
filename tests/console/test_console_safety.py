"""What must not happen in the browser: foreign script, foreign hosts, a token or an answer left behind."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from tests.console.acts import finished, send
from tests.console.conftest import NewPage
from tests.server import TOKENS

pytestmark = pytest.mark.asyncio(loop_scope="session")

XSS = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 2'>",
    "<svg onload='window.pwned = 3'><a href='javascript:window.pwned=4'>x</a></svg>",
    "[click](javascript:window.pwned=5)",
    "[click](JaVaScRiPt:window.pwned=5)",
    "[click](&#106;avascript:window.pwned=6)",
    "[click](<java\tscript:window.pwned=6>)",
    "[click](data:text/html,<script>window.pwned=7</script>)",
    '[click](https://example.org/" onmouseover="window.pwned=8)',
    '[click](https://example.org "title\\" onmouseover=window.pwned=9 x=\\"")',
    '![x](https://example.org/x.png" onerror="window.pwned=10)',
    "![x](javascript:window.pwned=11)",
    "<javascript:window.pwned=12>",
    "<iframe srcdoc='<script>parent.pwned=13</script>'></iframe>",
    "<https://example.org/'onclick='window.pwned=14>",
    "| a | <script>window.pwned=15</script> |",
    '```html"><script>window.pwned=16</script>',
    "</code></pre><script>window.pwned=17</script>",
    "```",
    "<style>*{display:none}</style>",
    "<form action='https://example.org'><button formaction=javascript:window.pwned=18>x</button></form>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.pwned=19>",
    "`<b>` **<b onclick=window.pwned=20>bold</b>** ~~<i>~~ [<u>](https://example.org/<u>)",
    "{{constructor.constructor('window.pwned=21')()}}",
]


async def test_markup_in_an_answer_stays_text_and_no_script_in_it_runs(new_page: NewPage) -> None:
    page = await new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    await send(page, "/reasoning " + XSS[0] + "\n" + "\n".join(f"/echo {line}" for line in XSS))
    await finished(page)
    assert await page.evaluate("window.pwned") is None
    transcript = page.locator("#transcript")
    for tag in ("script", "img", "iframe", "form", "style", "math", "object", "embed"):
        assert await transcript.locator(tag).count() == 0, tag
    assert await transcript.locator(":not(.icon, .icon *)").locator("svg:not(.icon)").count() == 0
    names = await transcript.locator("*").evaluate_all("nodes => nodes.flatMap(node => node.getAttributeNames())")
    assert not [name for name in names if re.fullmatch("on.*|style|srcdoc|formaction", name)]
    links = await transcript.locator("a").evaluate_all("links => links.map(link => [link.href, link.rel, link.target])")
    assert links
    for href, rel, target in links:
        assert re.match(r"https?://example\.org/|mailto:", href), href
        assert rel == "noopener noreferrer nofollow"
        assert target == "_blank"
    for link in await transcript.locator("a").all():
        await link.hover()
    text = await transcript.inner_text()
    assert "<script>window.pwned = 1</script>" in text
    assert "<img src=x onerror='window.pwned = 2'>" in text
    assert not [url for url in requests if "example.org" in url]
    assert await page.evaluate("window.pwned") is None


async def test_inline_scripts_and_other_hosts_are_forbidden_to_the_page_itself(
    new_page: NewPage, faults: list[str]
) -> None:
    page = await new_page("/")
    blocked = await page.evaluate(
        """async () => {
            const broken = [];
            document.addEventListener('securitypolicyviolation', event => broken.push(event.effectiveDirective));
            const script = document.createElement('script');
            try { script.textContent = 'window.pwned = 1'; } catch { broken.push('trusted types'); }
            try { document.body.innerHTML = '<b>x</b>'; } catch { broken.push('trusted types'); }
            await fetch('https://example.org/').catch(() => {});
            await new Promise(resolve => setTimeout(resolve, 50));
            return broken;
        }"""
    )
    assert "trusted types" in blocked
    assert "connect-src" in blocked
    assert any("connect-src" in fault for fault in faults)
    faults.clear()
    assert await page.evaluate("window.pwned") is None


async def test_the_service_worker_keeps_no_answer_of_the_gateway(new_page: NewPage) -> None:
    page = await new_page()
    await send(page, "/echo secret words")
    await finished(page)
    await page.wait_for_function("navigator.serviceWorker.ready.then(() => true)")
    kept = await page.evaluate(
        """async () => {
            const stores = await Promise.all((await caches.keys()).map(name => caches.open(name)));
            const requests = await Promise.all(stores.map(store => store.keys()));
            return requests.flat().map(request => new URL(request.url).pathname);
        }"""
    )
    assert "/" in kept
    assert not [path for path in kept if path.startswith("/api")]
    manifest = await page.evaluate("fetch('/manifest.webmanifest').then(answer => answer.json())")
    assert manifest["display"] == "standalone"


async def test_the_token_in_the_fragment_signs_in_and_leaves_the_address_bar(new_page: NewPage) -> None:
    page = await new_page()
    await expect(page.locator("#message")).to_be_focused()
    assert "token" not in page.url
    assert await page.evaluate("history.length") <= 2
    await page.reload()
    await expect(page.locator("#message")).to_be_visible()


async def test_a_pasted_link_signs_in_and_a_wrong_token_is_refused_in_words(new_page: NewPage) -> None:
    page = await new_page("/")
    await expect(page.locator("#token")).to_be_focused()
    await page.fill("#token", "wrong")
    await page.press("#token", "Enter")
    await expect(page.locator("#sign-in-problem")).to_contain_text("not valid")
    await page.fill("#token", f"http://example.org/#token={TOKENS['alice']}")
    await page.click("text=Sign in")
    await expect(page.locator("#message")).to_be_visible()
    await page.click("#sign-out")
    await expect(page.locator("#token")).to_be_visible()
    assert await page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('agentline'))") == []
