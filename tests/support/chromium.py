"""Chromium, without a screen and without the internet."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, ViewportSize, async_playwright
from playwright.async_api import Page as Tab

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]
_PATIENCE_MS = 120_000
PHONE = ViewportSize(width=320, height=640)
TABLET = ViewportSize(width=768, height=1024)
DESKTOP = ViewportSize(width=1280, height=800)


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """A browser, for as long as the block runs."""
    if shutil.which(CHROMIUM) is None:
        pytest.fail("Chromium is missing: run tests/install-needs (apt-get install -y chromium)", pytrace=False)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES, timeout=_PATIENCE_MS)
        yield browser
        await browser.close()


@dataclass
class Watched:
    """A tab, and what the browser had to complain of in it."""

    tab: Tab
    complaints: list[str]


@asynccontextmanager
async def opened(
    browser: Browser, viewport: ViewportSize, *, dark: bool = False, scripts: bool = True, language: str = "en-US"
) -> AsyncIterator[Watched]:
    """A tab of its own, for as long as the block runs."""
    context: BrowserContext = await browser.new_context(
        viewport=viewport,
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
        locale=language,
        accept_downloads=True,
    )
    context.set_default_timeout(_PATIENCE_MS)
    tab = await context.new_page()
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # Chromium also notes every status over 399, and its own wish for a favicon, in the console.
        if message.type in {"error", "warning"} and "the server responded with a status of" not in message.text:
            complaints.append(message.text)

    tab.on("console", note)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    try:
        yield Watched(tab, complaints)
    finally:
        await context.close()
