from __future__ import annotations

import base64
import hashlib
import re
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_server.rendering.faults import BrandingProblems
from identity_server.rendering.page import Page, Reader
from identity_server.rendering.pages import Pages, host_of, origin_of
from identity_server.rendering.policies import load_policies
from identity_server.rendering.templates import Templates
from tests.rendering.kit import SERVER, write

PAGES = Pages(Templates.load(server_name=SERVER))


def confirm(
    reader: Reader | None = None,
    *,
    here: str = "?token=T0ken",
    address: str = "alice@example.org",
    user_id: str | None = "@alice:example.org",
    next_link: str | None = None,
    token: str = "T0ken",
) -> Page:
    return PAGES.confirm(
        reader or Reader(),
        here=here,
        action="/_matrix/identity/confirm",
        token=token,
        address=address,
        user_id=user_id,
        next_link=next_link,
        expires_at_ms=1_800_000_000_000,
    )


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def links(self) -> list[dict[str, str | None]]:
        """Where it leads, but for the privacy page, which stands at the foot of each."""
        return [link for link in self.all("a") if link["href"] != "https://id.example.org/_matrix/identity/privacy"]


def every_page(reader: Reader, tmp_path: Path) -> dict[str, Page]:
    write(tmp_path, {"p.md": "---\nid: p\nversion: '1'\nlanguage: en\ntitle: Policy\n---\n# Heading\n\nText."})
    policies = load_policies(tmp_path, base_url="https://id.example.org")
    document = policies.documents[0]
    return {
        "confirm": confirm(reader, next_link="https://chat.example/"),
        "confirmed": PAGES.confirmed(reader),
        "continue": PAGES.confirmed(reader, here="?x=1", continue_to="https://chat.example/"),
        "failed": PAGES.failed(reader, here="?x=1"),
        **{str(status): PAGES.error(reader, status=status) for status in (404, 429, 500, 503)},
        "policy": PAGES.policy(reader, document=document, translations=policies.translations(document)),
        **{f"privacy {number}": make() for number, make in enumerate(PAGES.privacy.samples(reader))},
    }


@pytest.mark.parametrize("tag", ["de", "en", "es", "fr"])
def test_every_page_is_accessible_in_its_bones(tag: str, tmp_path: Path) -> None:
    for name, page in every_page(Reader(lang=tag), tmp_path).items():
        outline = Outline(page)
        language = "en" if name == "policy" else tag
        assert outline.all("html") == [{"lang": language}], name
        assert [len(outline.all(each)) for each in ("h1", "main", "header", "footer", "title")] == [1] * 5, name
        headings = [int(each[1]) for each, _ in outline.elements if re.fullmatch(r"h[1-6]", each)]
        assert all(after - before <= 1 for before, after in pairwise(headings)), name
        assert not {each for each, _ in outline.elements} & {"script", "img", "iframe", "link", "object"}, name
        assert not [key for _, attributes in outline.elements for key in attributes if key.startswith("on")], name
        title = re.search(r"<title>(.*?) \u2013 ", page.html)
        heading = re.search(r"<h1>(.*?)</h1>", page.html)
        assert title is not None
        assert heading is not None
        assert title[1] == heading[1]
        assert page.headers["Content-Language"] == language
        assert all(link["lang"] and link["hreflang"] for link in outline.all("a") if "hreflang" in link)


@pytest.mark.parametrize("name", ["confirm", "confirmed", "failed", "429", "policy"])
def test_headers_keep_a_page_to_itself(name: str, tmp_path: Path) -> None:
    page = every_page(Reader(), tmp_path)[name]
    style = re.search(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "style-src": f"'sha256-{digest}'",
        "form-action": "'self' https://chat.example" if name == "confirm" else "'none'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert ("X-Robots-Tag" in page.headers) is (name != "policy")
    assert "style=" not in page.html.replace(style[0], "")


def test_the_confirm_page_says_what_is_at_stake() -> None:
    page = confirm(next_link="https://Chat.Example:8443/welcome?secret=1")
    for shown in (
        "alice@example.org",
        "@alice:example.org",
        SERVER,
        "chat.example:8443",
        "15 January 2027 at 08:00 UTC",
    ):
        assert f">{shown}<" in page.html or shown in page.html
    assert "secret=1" not in page.html
    outline = Outline(page)
    assert outline.all("form") == [{"method": "post", "action": "/_matrix/identity/confirm"}]
    assert [(each["type"], each["name"], each["value"]) for each in outline.all("input")] == [
        ("hidden", "token", "T0ken"),
        ("hidden", "lang", "en"),
    ]
    assert len(outline.all("button")) == 1


def test_the_confirm_page_without_account_or_next_link() -> None:
    page = confirm(user_id=None)
    assert "Matrix ID</dt>" not in page.html
    assert "taken to" not in page.html
    assert "form-action 'self';" in page.headers["Content-Security-Policy"]


def test_values_are_escaped() -> None:
    evil = '"><script>alert(1)</script>'
    page = confirm(
        address=evil, user_id=evil, token=evil, here=f"?token={evil}", next_link=f"https://x.example/{evil}"
    )
    assert "<script" not in page.html
    assert evil in [unescape(each["value"] or "") for each in Outline(page).all("input")]
    continued = PAGES.confirmed(Reader(), continue_to=f"https://x.example/{evil}")
    assert "<script" not in continued.html


@pytest.mark.parametrize(
    ("reader", "tag"),
    [
        (Reader(lang="fr", accept_language="en"), "fr"),
        (Reader(lang="xx", accept_language="fr"), "fr"),
        (Reader(accept_language="it, fr;q=0.5"), "fr"),
        (Reader(), "en"),
    ],
)
def test_the_chosen_language_goes_before_the_browsers(reader: Reader, tag: str) -> None:
    assert confirm(reader).headers["Content-Language"] == tag


def test_the_language_switch_keeps_the_token_and_marks_the_current_language() -> None:
    links = [
        each
        for each in Outline(confirm(Reader(lang="fr"), here="?token=a%2Bb&lang=en")).all("a")
        if "hreflang" in each
    ]
    assert [(each["href"], each["lang"], each.get("aria-current")) for each in links] == [
        ("?token=a%2Bb&lang=de", "de", None),
        ("?token=a%2Bb&lang=en", "en", None),
        ("?token=a%2Bb&lang=es", "es", None),
        ("?token=a%2Bb&lang=fr", "fr", "true"),
    ]


def test_a_page_that_cannot_be_asked_for_again_has_no_switch() -> None:
    assert "<nav" not in PAGES.confirmed(Reader()).html


def test_a_next_link_that_may_not_be_redirected_to_is_named() -> None:
    page = PAGES.confirmed(Reader(), continue_to="https://chat.example/a?b=1&c=2")
    assert "Continue to chat.example" in page.html
    assert [each["href"] for each in Outline(page).links()] == ["https://chat.example/a?b=1&c=2"]
    assert Outline(PAGES.confirmed(Reader(), continue_to="javascript:alert(1)")).links() == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "cannot be shown"),
        (404, "cannot be shown"),
        (429, "too often"),
        (500, "our side"),
        (503, "at the moment"),
    ],
)
def test_errors_have_words_of_their_own(status: int, words: str) -> None:
    page = PAGES.error(Reader(), status=status, retry_after_seconds=7 if status in {429, 503} else None)
    assert page.status == status
    assert words in page.html
    assert page.headers.get("Retry-After") == ("7" if status in {429, 503} else None)


def test_a_policy_in_a_language_without_a_catalogue(tmp_path: Path) -> None:
    for tag, title in (("it", "Informativa"), ("fr", "Confidentialité")):
        write(tmp_path, {f"{tag}.md": f"---\nid: p\nversion: '1'\nlanguage: {tag}\ntitle: {title}\n---\nText."})
    policies = load_policies(tmp_path, base_url="https://id.example.org/base")
    italian = policies.find("p", "1", "it")
    assert italian is not None
    page = PAGES.policy(Reader(accept_language="fr"), document=italian, translations=policies.translations(italian))
    outline = Outline(page)
    assert outline.all("html") == [{"lang": "fr"}]
    assert outline.all("article")[0]["lang"] == "it"
    assert [(each["href"], each.get("aria-current")) for each in outline.links()] == [
        ("/base/_matrix/identity/terms/p/1/fr", None),
        ("/base/_matrix/identity/terms/p/1/it", "true"),
        (f"https://{SERVER}/_matrix/identity/privacy/retention", None),
    ]
    assert "Italiano" in page.html


@pytest.mark.parametrize(
    ("url", "origin", "host"),
    [
        ("https://Chat.Example.org/welcome?a=b", "https://chat.example.org", "chat.example.org"),
        ("https://chat.example:443/", "https://chat.example", "chat.example"),
        ("http://chat.example:8080", "http://chat.example:8080", "chat.example:8080"),
        ("https://bücher.example/", "https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://[2001:db8::1]:8443/", "https:", "[2001:db8::1]:8443"),
        ("https://bank.example@evil.example/", None, None),
        ("https://evil.example;script-src *", None, None),
        ("https://evil.example 'unsafe-inline'/", None, None),
        ("https://a.example:99999/", None, None),
        ("https://*/", None, None),
        ("javascript:alert(1)", None, None),
        ("file:///etc/passwd", None, None),
        ("https://", None, None),
        ("/relative", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_where_a_link_leads(url: str | None, origin: str | None, host: str | None) -> None:
    assert origin_of(url) == origin
    assert host_of(url) == host


@given(st.text(max_size=100) | st.text(max_size=60).map("https://{}".format))
def test_no_link_breaks_out_of_the_header(url: str) -> None:
    origin = origin_of(url)
    assert origin is None or re.fullmatch(r"https?:(//[a-z0-9._-]+(:\d+)?)?", origin)


def test_what_cannot_be_encoded_does_not_break_a_page() -> None:
    page = confirm(token="\udc80", here="?token=\udc80", address="a\ud800@example.org")
    assert "a?@example.org" in page.html
    assert page.html.encode("utf-8")


def test_the_check_finds_a_page_that_fails(tmp_path: Path) -> None:
    PAGES.check(brands=[None])
    write(tmp_path, {"shop/pages/error.html.j2": "{% if kind == 'busy' %}{{ nothing }}{% endif %}"})
    with pytest.raises(BrandingProblems) as caught:
        Pages(Templates.load(server_name=SERVER, path=tmp_path)).check()
    assert list(caught.value.problems) == [
        f"brand shop, language {tag}: template pages/error.html.j2: UndefinedError"
        for tag in ("de", "en", "es", "fr")
    ]
