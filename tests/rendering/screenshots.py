"""Pictures of what people see, for the documentation: `python -m tests.rendering.screenshots FOLDER`.

Pages come from the server itself, in the middle of Alice's story; mails are those that it has sent. Each is taken on a
phone and on a desktop, by day and by night.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from base64 import b64decode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from playwright.async_api import Browser, ViewportSize
from playwright.async_api import Page as Tab

from identity_server.domain.ports import Mail
from identity_server.rendering.templates import Templates
from tests.flows.test_invites import invite, settle
from tests.rendering.kit import NOW_MS, SERVER, make_mails
from tests.support.chromium import chromium, opened
from tests.support.harness import ALICE, BOB, Fakes, Harness, User, running

_EMAIL: Final = "alice@example.org"
_TERMS: Final = Path(__file__).parents[2] / "terms"
_SCREENS: Final[Mapping[str, ViewportSize]] = MappingProxyType(
    # Low ones: a picture is as high as what is on it, and no lower than its window.
    {"phone": ViewportSize(width=320, height=200), "desktop": ViewportSize(width=1280, height=200)}
)
_QUALITY: Final = 60

Show = Callable[[Tab], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scene:
    """Something to be pictured.

    Attributes:
        name: what its files are called.
        show: brings it up in a tab.
    """

    name: str
    show: Show


async def take_all(folder: Path) -> None:
    """Take every picture there is."""
    fakes = Fakes()
    fakes.clock.ms = NOW_MS
    with tempfile.TemporaryDirectory() as data:
        settings = {"GENERAL__TERMS_PATH": str(_TERMS)}
        async with running(Path(data), settings=settings, fakes=fakes) as server, chromium() as browser:
            alice, bob = [await _member(server, user_id) for user_id in (ALICE, BOB)]
            for chapter in (_confirming(server, alice), _invited(server, bob), _held(server, alice)):
                for scene in await chapter:
                    await _take(browser, scene, folder)


async def _take(browser: Browser, scene: Scene, folder: Path) -> None:
    for screen, viewport in _SCREENS.items():
        for dark in (False, True):
            async with opened(browser, viewport, dark=dark) as watched:
                await scene.show(watched.tab)
                picture = folder / f"{scene.name}-{screen}-{'dark' if dark else 'light'}.webp"
                picture.write_bytes(await _picture(watched.tab))


async def _picture(tab: Tab) -> bytes:
    """All of what is open; as WebP, which Playwright doesn't offer and Chromium does."""
    devtools = await tab.context.new_cdp_session(tab)
    size = (await devtools.send("Page.getLayoutMetrics"))["cssContentSize"]
    taken = await devtools.send(
        "Page.captureScreenshot",
        {"format": "webp", "quality": _QUALITY, "captureBeyondViewport": True, "clip": {**size, "scale": 1}},
    )
    return b64decode(taken["data"])


async def _member(server: Harness, user_id: str) -> User:
    """Somebody who has an account, and has accepted the terms."""
    user = await server.register(user_id)
    policies = (await server.get("terms")).json["policies"]
    await server.post("terms", {"user_accepts": [each["en"]["url"] for each in policies.values()]}, as_=user)
    return user


async def _confirming(server: Harness, alice: User) -> list[Scene]:
    """Alice asks for a mail, and follows its link."""
    await server.request_token(alice, _EMAIL)
    mail = server.mail.sent[-1]
    link = _here(server, mail.variables["confirm_url"])
    terms = _here(server, (await server.get("terms")).json["policies"]["terms_of_service"]["en"]["url"])
    return [
        Scene("mail-verification", _mail(mail)),
        Scene("page-confirm", _page(link)),
        Scene("page-confirmed", _page(link, "Confirm")),
        Scene("page-terms", _page(terms)),
    ]


async def _invited(server: Harness, bob: User) -> list[Scene]:
    """Bob, who only knows the address, invites whoever it belongs to."""
    await invite(server, bob, _EMAIL, room_id="!garden:example.org", sender_display_name="Bob")
    return [Scene("mail-invite", _mail(server.mail.sent[-1]))]


async def _held(server: Harness, alice: User) -> list[Scene]:
    """Alice, who can be found by now, looks at what is kept."""
    sid = (await server.request_token(alice, _EMAIL)).json["sid"]
    bound = await server.bind(alice, sid)
    assert bound.status == 200
    asked = await server.post("/_matrix/identity/privacy", data={"email": _EMAIL})
    assert asked.status == 200
    await settle(server)
    mail = server.mail.sent[-1]
    link = _here(server, mail.variables["open_url"])
    return [
        Scene("page-privacy", _page(f"{server.base}/_matrix/identity/privacy")),
        Scene("mail-privacy", _mail(mail)),
        Scene("page-held", _page(link, "Show it")),
    ]


def _here(server: Harness, url: str) -> str:
    """A public URL, at the address that the server has here."""
    parts = urlsplit(url)
    return f"{server.base}{parts.path}?{parts.query}".rstrip("?")


def _page(url: str, button: str | None = None) -> Show:
    """Open a page, and press a button on it."""

    async def show(tab: Tab) -> None:
        await tab.goto(url)
        if button is not None:
            async with tab.expect_navigation():
                await tab.get_by_role("button", name=button).click()

    return show


def _mail(mail: Mail) -> Show:
    """Open the HTML part of a mail."""
    body = make_mails(Templates.load(server_name=SERVER)).render(mail).message.get_body(("html",))
    assert body is not None, "our mails have one"
    html = body.get_content()

    async def show(tab: Tab) -> None:
        await tab.set_content(html)

    return show


if __name__ == "__main__":
    asyncio.run(take_all(Path(sys.argv[1])))
