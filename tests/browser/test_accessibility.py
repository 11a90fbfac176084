"""Every page and mail as axe-core sees it in Chromium: nobody is shut out, on any screen, by day or by night."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ViewportSize
from playwright.async_api import Page as Tab

import identity_server
from identity_server.domain.ports import Mail
from identity_server.rendering.mails import SAMPLES
from identity_server.rendering.page import Reader
from identity_server.rendering.pages import Pages
from identity_server.rendering.policies import load_policies
from identity_server.rendering.templates import Templates
from tests.rendering.kit import SERVER, make_mails, write
from tests.support.chromium import DESKTOP, PHONE, TABLET, opened

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

# The rules of WCAG 2.2 AA, and those that axe's makers would have kept besides.
RULES = {
    "resultTypes": ["violations"],
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
# A language for each width: all are looked at, and none in every way.
SCREENS = [
    *((PHONE, dark, language) for dark, language in ((False, "de"), (True, "es"))),
    *((TABLET, dark, language) for dark, language in ((False, "fr"), (True, "en"))),
    *((DESKTOP, dark, language) for dark, language in ((False, "es"), (True, "de"))),
]


def documents(language: str, brands: Path, brand: str | None) -> dict[str, str]:
    """Every page and mail there is, by name."""
    templates = Templates.load(server_name=SERVER, path=brands)
    pages, mails, reader = Pages(templates), make_mails(templates), Reader(lang=language, brand=brand)
    policies = load_policies(
        Path(identity_server.__file__).parent.parent / "terms", base_url="https://id.example.org"
    )
    document = policies.documents[0]
    found = {f"page {number}": make().html for number, make in enumerate(pages.samples(reader))}
    found["policy"] = pages.policy(reader, document=document, translations=policies.translations(document)).html
    for template, variables in SAMPLES.items():
        mail = Mail(template, "alice@example.org", "<m@id.example.org>", (language,), brand, variables)
        body = mails.render(mail).message.get_body(("html",))
        assert body is not None
        found[f"mail {template}"] = body.get_content()
    return found


async def violations(tab: Tab, html: str) -> list[str]:
    """What axe finds wrong with a document."""
    await tab.set_content(html)
    results = await Axe().run(tab, options=RULES)
    return [
        f"{rule['id']}: {[node['html'][:120] for node in rule['nodes']]}" for rule in results.response["violations"]
    ]


@pytest.mark.parametrize(
    ("brand", "viewport", "dark", "language"),
    [*((None, *screen) for screen in SCREENS), *(("pale", *screen) for screen in SCREENS[:2])],
)
async def test_axe_finds_nothing(
    browser: Browser, tmp_path: Path, brand: str | None, viewport: ViewportSize, *, dark: bool, language: str
) -> None:
    # A pale brand colour: the worst case for contrast.
    settings = 'name = "Pale"\ncolour = "#ffe14d"\nsupport = "help@example.org"\nfooter = "F."'
    write(tmp_path, {"pale/brand.toml": settings})
    made = documents(language, tmp_path, brand)
    assert len(made) > 20
    async with opened(browser, viewport, dark=dark) as watched:
        for name, html in made.items():
            assert await violations(watched.tab, html) == [], name
            assert await watched.tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"], name


@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [
        ('<label for="email">', '<label for="nothing">', "label"),
        ('<html lang="en">', "<html>", "html-has-lang"),
        ("--soft: #565b60", "--soft: #a5aaaf", "color-contrast"),
        ("<h2>", "<h4>", "heading-order"),
    ],
)
async def test_axe_would_find_something(browser: Browser, good: str, bad: str, rule: str) -> None:
    ask = next(Pages(Templates.load(server_name=SERVER)).privacy.samples(Reader(lang="en")))().html
    assert good in ask
    async with opened(browser, PHONE) as watched:
        assert await violations(watched.tab, ask) == []
        assert [each.partition(":")[0] for each in await violations(watched.tab, ask.replace(good, bad))] == [rule]
