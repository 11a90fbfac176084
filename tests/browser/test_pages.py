"""The pages in a real browser, with their real headers, from a server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, ViewportSize

import identity_server
from identity_server.rendering.page import Page, Reader
from identity_server.rendering.pages import Pages
from identity_server.rendering.policies import load_policies
from identity_server.rendering.templates import Templates
from tests.rendering.kit import SERVER, make_mail, make_mails, write
from tests.support.chromium import DESKTOP, PHONE, opened

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PAGES = Pages(Templates.load(server_name=SERVER))
PRIVACY = [f"privacy{number}" for number, _ in enumerate(PAGES.privacy.samples(Reader()))]
NAMES = ["confirm", "confirmed", "continue", "failed", "error", "policy", *PRIVACY]

# Every visible piece of text with its contrast against what is painted behind it (no page has images or layers).
CONTRASTS = """() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = rgb => rgb.slice(0, 3).map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || !element.getClientRects().length) continue;
    const [low, high] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))].sort((a, b) => a - b);
    found.push([text.slice(0, 40), (high + 0.05) / (low + 0.05)]);
  }
  return found;
}"""

# A marker of its own: links inside a sentence are exempt from the target size (WCAG 2.5.8, "Inline").
TARGETS = """() => [...document.querySelectorAll('button, a.button, nav a, footer a')].map(e => {
  const box = e.getBoundingClientRect();
  return [e.textContent.trim(), e.tagName === 'BUTTON' || e.classList.contains('button'), box.width, box.height];
})"""


@dataclass
class Site:
    """The identity server's pages on one port, and the site of the next link on another."""

    base: str = ""
    next_link: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    posted: list[dict[str, str]] = field(default_factory=list)
    welcomed: int = 0

    async def show(self, request: web.Request) -> web.Response:
        page = self.pages[request.match_info["name"]]
        return web.Response(status=page.status, text=page.html, headers=dict(page.headers))

    async def confirm(self, request: web.Request) -> web.Response:
        self.posted.append({key: str(value) for key, value in (await request.post()).items()})
        raise web.HTTPFound(self.next_link)

    async def welcome(self, request: web.Request) -> web.Response:
        self.welcomed += 1
        return web.Response(text="<!DOCTYPE html><title>Welcome</title>", content_type="text/html")


@asynccontextmanager
async def serving(*routes: web.RouteDef) -> AsyncIterator[str]:
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    # A pale brand colour: the worst case for contrast.
    write(
        tmp_path,
        {"pale/brand.toml": 'name = "Pale"\ncolour = "#ffe14d"\nsupport = "help@example.org"\nfooter = "F."'},
    )
    site = Site()
    async with (
        serving(web.get("/welcome", site.welcome)) as next_base,
        serving(web.get("/{name}", site.show), web.post("/post", site.confirm)) as base,
    ):
        site.base, site.next_link = base, f"{next_base}/welcome"
        for brand in ("", "pale"):
            site.pages |= make_pages(site, tmp_path, brand)
        yield site


def make_pages(site: Site, brands: Path, brand: str) -> dict[str, Page]:
    pages = Pages(Templates.load(server_name=SERVER, path=brands))
    reader = Reader(lang="fr", brand=brand)
    policies = load_policies(Path(identity_server.__file__).parent.parent / "terms", base_url=site.base)
    document = policies.documents[0]
    made = {
        "confirm": confirm_page(pages, reader, next_link=site.next_link),
        "confirmed": pages.confirmed(reader),
        "continue": pages.confirmed(reader, here="?x=1", continue_to=site.next_link),
        "failed": pages.failed(reader, here="?x=1"),
        "error": pages.error(reader, status=503, here="?x=1"),
        "policy": pages.policy(reader, document=document, translations=policies.translations(document)),
        **dict(zip(PRIVACY, (make() for make in pages.privacy.samples(reader)), strict=True)),
    }
    return {f"{brand}{name}": page for name, page in made.items()}


def confirm_page(pages: Pages, reader: Reader, *, next_link: str | None) -> Page:
    return pages.confirm(
        reader,
        here="?token=T0ken",
        action="/post",
        token="T0ken",
        address="a.rather.long.address.to.be.wrapped.somewhere@a-long-subdomain.example.org",
        user_id="@a_rather_long_matrix_id_without_any_place_to_break_a_line:example.org",
        next_link=next_link,
        expires_at_ms=1_800_000_000_000,
    )


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["320", "1280"])
async def test_nothing_scrolls_sideways_and_the_policy_is_kept(
    browser: Browser, site: Site, viewport: ViewportSize
) -> None:
    async with opened(browser, viewport) as watched:
        for name in NAMES:
            await watched.tab.goto(f"{site.base}/{name}")
            wide = await watched.tab.evaluate("document.documentElement.scrollWidth")
            assert wide <= viewport["width"], name
            # The stylesheet is applied, that is, its hash is right.
            assert await watched.tab.evaluate("getComputedStyle(document.body).marginTop") == "0px", name
        assert watched.complaints == []


async def test_a_page_may_not_run_or_load_anything(browser: Browser, site: Site) -> None:
    page = site.pages["confirmed"]
    html = page.html.replace("</main>", "<script>document.title='run'</script><p style='margin:0'>x</p></main>")
    site.pages["tampered"] = Page(200, html, page.headers)
    async with opened(browser, PHONE) as watched:
        await watched.tab.goto(f"{site.base}/tampered")
        assert await watched.tab.title() != "run"
        assert len([each for each in watched.complaints if "Content Security Policy" in each]) >= 2


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_every_text_has_enough_contrast(browser: Browser, site: Site, *, dark: bool) -> None:
    grounds = set()
    async with opened(browser, PHONE, dark=dark) as watched:
        for name in [*NAMES, *(f"pale{name}" for name in NAMES)]:
            await watched.tab.goto(f"{site.base}/{name}")
            texts = await watched.tab.evaluate(CONTRASTS)
            assert len(texts) >= 4, name
            assert [text for text in texts if text[1] < 4.5] == [], name
            grounds.add(await watched.tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == {"rgb(21, 23, 26)" if dark else "rgb(244, 244, 241)"}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_the_mail_is_readable_on_a_phone(browser: Browser, *, dark: bool) -> None:
    message = (
        make_mails().render(make_mail(confirm_url="https://id.example.org/_matrix/identity/" + "x" * 200)).message
    )
    body = message.get_body(("html",))
    assert body is not None
    async with opened(browser, PHONE, dark=dark) as watched:
        await watched.tab.set_content(body.get_content())
        assert await watched.tab.evaluate("document.documentElement.scrollWidth") <= 320
        texts = await watched.tab.evaluate(CONTRASTS)
        assert len(texts) >= 8
        assert [text for text in texts if text[1] < 4.5] == []


async def test_targets_are_large_enough(browser: Browser, site: Site) -> None:
    async with opened(browser, PHONE) as watched:
        for name in (f"pale{name}" for name in NAMES):
            await watched.tab.goto(f"{site.base}/{name}")
            targets = await watched.tab.evaluate(TARGETS)
            assert targets, name
            for text, is_button, width, height in targets:
                assert width >= 24, (name, text)
                assert height >= (44 if is_button else 24), (name, text)


async def test_the_keyboard_reaches_the_button_and_shows_where_it_is(browser: Browser, site: Site) -> None:
    async with opened(browser, DESKTOP) as watched:
        await watched.tab.goto(f"{site.base}/confirm")
        order = []
        for _ in range(5):
            await watched.tab.keyboard.press("Tab")
            focused = await watched.tab.evaluate(
                "[document.activeElement.textContent.trim(), getComputedStyle(document.activeElement).outlineStyle,"
                " parseFloat(getComputedStyle(document.activeElement).outlineWidth)]"
            )
            order.append(focused[0])
            assert focused[1] == "solid"
            assert focused[2] >= 2
        assert order == ["Deutsch", "English", "Español", "Français", "Confirmer cette adresse"]
        await watched.tab.keyboard.press("Enter")
        await watched.tab.wait_for_url(site.next_link)
    assert site.posted == [{"token": "T0ken", "lang": "fr"}]
    assert site.welcomed == 1


async def test_the_button_leads_on_to_the_next_link_only_because_the_policy_names_it(
    browser: Browser, site: Site
) -> None:
    async with opened(browser, PHONE) as watched:
        await watched.tab.goto(f"{site.base}/confirm")
        await watched.tab.get_by_role("button").click()
        await watched.tab.wait_for_url(site.next_link)
        assert watched.complaints == []
        pages = Pages(Templates.load(server_name=SERVER))
        site.pages["unnamed"] = confirm_page(pages, Reader(), next_link=None)
        await watched.tab.goto(f"{site.base}/unnamed")
        async with watched.tab.expect_console_message(lambda message: "form-action" in message.text):
            await watched.tab.get_by_role("button").click()
    assert len(site.posted) == 2
    assert site.welcomed == 1
