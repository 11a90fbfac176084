"""The privacy page as a person uses it: in Chromium, without JavaScript, against the server itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser
from playwright.async_api import Page as Tab

from tests.flows.test_invites import invite, settle
from tests.support.chromium import DESKTOP, PHONE, chromium, opened
from tests.support.harness import Harness, User

pytestmark = pytest.mark.browser

PAGE = "/_matrix/identity/privacy"
EMAIL = "alice@example.com"


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """One in the loop of a test that has a server."""
    async with chromium() as browser:
        yield browser


async def mailed_link(server: Harness) -> str:
    """The link of the newest mail, at the address that the server has here."""
    await settle(server)
    parts = urlsplit(server.mail.sent[-1].variables["open_url"])
    return f"{server.base}{parts.path}?{parts.query}"


async def press(tab: Tab, name: str) -> None:
    async with tab.expect_navigation():
        await tab.get_by_role("button", name=name).click()


async def test_see_download_remove_and_be_left_alone(
    server: Harness, alice: User, bob: User, browser: Browser, tmp_path: Path
) -> None:
    await invite(server, bob, EMAIL)
    await server.bound(alice, EMAIL)
    async with opened(browser, PHONE, scripts=False) as watched:
        tab = watched.tab
        await tab.goto(server.base + PAGE)
        await tab.get_by_label("Your email address").fill("Alice@Example.com")
        await press(tab, "Send me a link")
        assert await tab.get_by_text(EMAIL).is_visible()

        await tab.goto(await mailed_link(server))
        assert await tab.get_by_text(alice.user_id).count() == 0
        await press(tab, "Show it")
        assert await tab.get_by_text(alice.user_id).first.is_visible()
        assert "token=" not in tab.url

        for button, name in (("To read (HTML)", "html"), ("For programs (JSON)", "json")):
            async with tab.expect_download() as started:
                await tab.get_by_role("button", name=button).click()
            download = await started.value
            assert download.suggested_filename == f"identity-server-data.{name}"
            await download.save_as(tmp_path / name)
        assert json.loads((tmp_path / "json").read_text())["binding"]["mxid"] == alice.user_id
        assert alice.user_id in (tmp_path / "html").read_text()

        await press(tab, "Remove this connection")
        assert (
            await tab.get_by_role("status").inner_text() == "Done: this address leads to no Matrix account any more."
        )
        assert await server.find(bob, EMAIL) is None
        await press(tab, "Leave this address alone")
        assert await tab.get_by_role("status").inner_text() == "Done: from now on, this address is left alone here."
        assert (await server.request_token(alice, EMAIL, attempt=2)).errcode == "M_THREEPID_DENIED"
        await press(tab, "Allow it again")
        assert (await server.request_token(alice, EMAIL, attempt=2)).status == 200
        assert watched.complaints == []


async def test_wrong_address_is_corrected_in_place(server: Harness, browser: Browser) -> None:
    """Whatever the browser lets through: its own check of addresses is not ours."""
    async with opened(browser, DESKTOP, scripts=False, language="fr-FR") as watched:
        tab = watched.tab
        await tab.goto(server.base + PAGE)
        field = tab.get_by_label("Votre adresse e-mail")
        await field.fill("alice@192.0.2.1")
        await press(tab, "envoyer un lien")
        assert await field.input_value() == "alice@192.0.2.1"
        assert await field.get_attribute("aria-describedby") == "email-problem"
        await field.fill(EMAIL)
        await press(tab, "envoyer un lien")
        await tab.goto(await mailed_link(server))
        await press(tab, "Afficher")
        assert await tab.get_by_role("heading", level=1).inner_text() == "Ce qui est conservé sur votre adresse"
        assert watched.complaints == []
