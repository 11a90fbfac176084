"""How the apps of the sample users, and a browser, send requests; every exchange is shown.

The one rule: an answer is either the expected one, or the end of the story.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin

from aiohttp import ClientResponse, ClientSession

from identity_server.demo.narrator import Narrator, as_json, shortened, shortened_url

_JSON = "application/json"


class Unexpected(Exception):
    """Something came out otherwise than the story says; the text tells what, without a secret."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the answer must be.

    Attributes:
        status: the HTTP status.
        errcode: the Matrix error code of a refusal.
    """

    status: int = 200
    errcode: str | None = None


SUCCESS = Wanted()


@dataclass(slots=True)
class Form:
    """A form of a page: where it leads, and the fields that a browser sends untouched."""

    action: str
    method: str
    button: str = ""
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """A page that a person reads."""

    url: str
    heading: str
    forms: list[Form]


class Web:
    """Sends requests and shows them."""

    def __init__(self, session: ClientSession, narrator: Narrator) -> None:
        self._session = session
        self._narrator = narrator

    async def ask(
        self,
        method: str,
        url: str,
        body: dict[str, Any] | None = None,
        *,
        token: str | None = None,
        query: dict[str, str] | None = None,
        wanted: Wanted = SUCCESS,
        interesting: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> dict[str, Any]:
        """Ask as an app does, and return the answer's JSON.

        Args:
            method: of HTTP.
            url: whole.
            body: sent as JSON, if given.
            token: whose token comes along.
            query: added to the URL.
            wanted: what the answer must be.
            interesting: makes of a good answer what is shown of it.

        Raises:
            Unexpected: it isn't what was wanted.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        async with self._session.request(method, url, json=body, params=query, headers=headers) as response:
            answer = await _read_json(response)
            shown_url = response.request_info.url.human_repr()
        sent = [] if token is None else [f"Authorization: Bearer {shortened(token)}"]
        sent += [] if not body else [as_json(body)]
        as_wanted = response.status == wanted.status and answer.get("errcode") == wanted.errcode
        shown = as_json(interesting(answer) if as_wanted else answer)
        self._narrator.exchange(method, shown_url, sent=sent, status=response.status, answer=shown)
        if not as_wanted:
            raise Unexpected(_told(method, shown_url, wanted, response.status, answer))
        return answer

    async def open_page(self, url: str) -> Page:
        """Open a link as a browser does. Raises Unexpected."""
        return await self._page("GET", url, None)

    async def press(self, page: Page) -> Page:
        """Press the one button of a page. Raises Unexpected."""
        if len(page.forms) != 1:
            raise Unexpected(f'The page "{page.heading}" was to have one button; it has {len(page.forms)}.')
        form = page.forms[0]
        return await self._page(form.method.upper(), urljoin(page.url, form.action), form.fields)

    async def _page(self, method: str, url: str, fields: dict[str, str] | None) -> Page:
        async with self._session.request(method, url, data=fields) as response:
            parser = _PageReader()
            parser.feed(await response.text())
        parser.close()
        page = Page(url=url, heading=parser.heading.strip(), forms=parser.forms)
        sent = [] if not fields else ["&".join(f"{name}={shortened(value)}" for name, value in fields.items())]
        buttons = "".join(f"\n[ {form.button.strip()} ]" for form in page.forms)
        answer = f'a page: "{page.heading}"{buttons}'
        self._narrator.exchange(method, url, sent=sent, status=response.status, answer=answer)
        if response.status != SUCCESS.status:
            raise Unexpected(f"{method} {shortened_url(url)} was to show a page; the answer was {response.status}.")
        return page


def _told(method: str, url: str, wanted: Wanted, status: int, answer: dict[str, Any]) -> str:
    expected = f"{wanted.status} {wanted.errcode or ''}".strip()
    return (
        f"{method} {shortened_url(url)} was to be answered {expected}, and was answered {status}: {as_json(answer)}"
    )


async def _read_json(response: ClientResponse) -> dict[str, Any]:
    answer = await response.json() if response.content_type == _JSON else None
    if not isinstance(answer, dict):
        raise Unexpected(f"{shortened_url(str(response.url))} answered {response.status} without a JSON object.")
    return answer


class _PageReader(HTMLParser):
    """Finds the heading and the forms of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.heading = ""
        self.forms: list[Form] = []
        self._inside: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self._inside.add(tag)
        if tag == "form":
            self.forms.append(Form(action=values.get("action", ""), method=values.get("method", "get")))
        elif tag == "input" and "form" in self._inside and "name" in values:
            self.forms[-1].fields[values["name"]] = values.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._inside.discard(tag)

    def handle_data(self, data: str) -> None:
        if "h1" in self._inside:
            self.heading += data
        elif {"form", "button"} <= self._inside:
            self.forms[-1].button += data
