"""The privacy page: ask for a link, open it, see what is held; and the same as a file.

Rule: no page here tells whether anything is held, but the one that a proved address is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import partial
from typing import Any

from identity_server.domain.association import Visibility
from identity_server.domain.holdings import Holdings
from identity_server.domain.identifiers import Medium, Threepid, server_of
from identity_server.domain.retention import Kept, Lifetimes, retention_schedule
from identity_server.domain.terms import Terms
from identity_server.domain.visit import Visit
from identity_server.rendering.held import (
    ShownDocument,
    comes_to_an_end,
    shown_documents,
    shown_invite,
    written,
)
from identity_server.rendering.held_data import binding_data, data_page, invite_data, iso, session_data, terms_data
from identity_server.rendering.page import Page, PageMaker, Reader
from identity_server.rendering.retention import shown
from identity_server.rendering.samples import NOW_MS, sample_association, sample_invite, sample_session, sample_terms

_SELF = ("'self'",)


class Problem(StrEnum):
    """What is wrong with what was typed."""

    EMAIL = "email"
    NUMBER = "number"
    COUNTRY = "country"


class Done(StrEnum):
    """What a visitor has just had done."""

    SHOWN = "shown"
    REMOVED = "removed"
    REFUSED = "refused"
    ALLOWED = "allowed"


class PrivacyPages:
    """Makes the pages from `templates/pages/privacy/`."""

    def __init__(self, maker: PageMaker) -> None:
        self._maker = maker

    def ask(
        self,
        reader: Reader,
        *,
        here: str | None,
        terms: Terms,
        offers_phone: bool,
        problem: Problem | None = None,
        typed: str = "",
        is_below: bool = False,
    ) -> Page:
        """The first page: enter an address.

        Args:
            reader: who reads it.
            here: the address by which it can be asked for again; None where it answers a POST.
            terms: in force.
            offers_phone: whether phone numbers can be entered, too.
            problem: what is wrong with what was typed.
            typed: what that was.
            is_below: whether it stands one level below its own address, by which its forms go elsewhere.
        """
        status = 200 if problem is None else 400
        variables = {
            "terms": self._documents(reader, terms),
            "offers_phone": offers_phone,
            "problem": problem,
            "typed": typed,
            "is_below": is_below,
        }
        return self._maker.make(
            "privacy/ask", reader, status=status, here=here, form_targets=_SELF, variables=variables
        )

    def sent(self, reader: Reader, *, address: str) -> Page:
        """The answer to whatever address was entered."""
        return self._maker.make("privacy/sent", reader, variables={"address": address})

    def code(self, reader: Reader, *, token: str, number: str | None, is_wrong: bool = False) -> Page:
        """The answer to whatever number was entered: enter the code.

        Args:
            reader: who reads it.
            token: of the visit.
            number: as people write it; None where a code was entered, and the number isn't known yet.
            is_wrong: whether that was another one.
        """
        variables = {"token": token, "number": number, "is_wrong": is_wrong}
        status = 400 if is_wrong else 200
        return self._maker.make("privacy/code", reader, status=status, form_targets=_SELF, variables=variables)

    def open(self, reader: Reader, *, here: str, token: str, address: str, expires_at_ms: int) -> Page:
        """The page that a mailed link opens: its button shows what is held, for mail scanners follow links."""
        variables = {"token": token, "address": address, "expires_at_ms": expires_at_ms}
        return self._maker.make("privacy/open", reader, here=here, form_targets=_SELF, variables=variables)

    def held(
        self,
        reader: Reader,
        *,
        visit: Visit,
        holdings: Holdings,
        terms: Terms,
        token: str,
        done: Done | None = None,
    ) -> Page:
        """What is held about the address, and what its owner can do about it.

        Args:
            reader: who reads it.
            visit: how they got here.
            holdings: what is held.
            terms: in force.
            token: of the visit; every button shows it again.
            done: what a button has just done.
        """
        return self._held(reader, visit, holdings, terms, token=token, done=done)

    def document(self, reader: Reader, *, visit: Visit, holdings: Holdings, terms: Terms) -> Page:
        """The same to be kept: without buttons, and with every detail."""
        return self._held(reader, visit, holdings, terms, token=None, done=None)

    def data(self, holdings: Holdings, *, terms: Terms) -> Page:
        """The same for programs, in JSON."""
        return data_page(_to_json(holdings, terms, self._maker.server_name))

    def retention(self, reader: Reader, *, here: str, schedule: Sequence[Kept], terms: Terms) -> Page:
        """What is kept about people, why, how, and for how long; for everybody."""
        language = self._maker.language_of(reader)
        rows = [shown(row, language) for row in schedule if row.is_personal]
        variables = {"rows": rows, "terms": self._documents(reader, terms)}
        return self._maker.make("privacy/retention", reader, here=here, variables=variables, indexable=True)

    def failed(self, reader: Reader, *, status: int, medium: Medium = Medium.EMAIL) -> Page:
        """The link is wrong or over, or the code is."""
        return self._maker.make("privacy/failed", reader, status=status, variables={"medium": medium})

    def samples(self, reader: Reader) -> Iterator[Callable[[], Page]]:
        """Each page with values that are made up."""
        threepid = Threepid(Medium.EMAIL, "alice@example.org")
        visit = Visit.by_mail(threepid, now_ms=NOW_MS)
        terms = sample_terms()
        full = _sample_holdings(threepid, visit)
        empty = replace(full, association=None, invites=(), sessions=(), refused_since_ms=NOW_MS)
        see = partial(self.held, reader, visit=visit, terms=terms, token="t")  # noqa: S106 - a sample
        asking = partial(self.ask, reader, terms=terms)
        yield partial(asking, here="", offers_phone=False)
        yield partial(asking, here=None, offers_phone=True)
        yield from (partial(asking, here=None, offers_phone=True, problem=each, typed="alice@") for each in Problem)
        yield from (
            partial(self.code, reader, token="t", number=number, is_wrong=number is None)  # noqa: S106 - a sample
            for number in ("+44 7700 900123", None)
        )
        yield partial(self.sent, reader, address=threepid.address)
        yield partial(self.open, reader, here="?token=t", token="t", address=threepid.address, expires_at_ms=NOW_MS)  # noqa: S106 - a sample
        yield from (partial(see, holdings=empty, done=done) for done in (*Done, None))
        yield partial(see, holdings=full)
        yield partial(self.document, reader, visit=visit, holdings=full, terms=terms)
        schedule = retention_schedule(Lifetimes(phone_months=12))
        yield partial(self.retention, reader, here="retention", schedule=schedule, terms=terms)
        yield from (partial(self.failed, reader, status=400, medium=medium) for medium in Medium)

    def _held(
        self,
        reader: Reader,
        visit: Visit,
        holdings: Holdings,
        terms: Terms,
        *,
        token: str | None,
        done: Done | None,
    ) -> Page:
        association = holdings.association
        return self._maker.make(
            "privacy/held",
            reader,
            form_targets=_SELF,
            variables={
                "token": token,
                "done": done,
                "at_ms": holdings.at_ms,
                "medium": holdings.threepid.medium,
                "address": written(holdings.threepid),
                "association": association,
                "ends": association is not None and comes_to_an_end(association),
                "visibilities": tuple(Visibility),
                "homeserver": None if association is None else server_of(association.user_id),
                "invites": [shown_invite(invite) for invite in holdings.invites],
                "sessions": holdings.sessions,
                "refused_since_ms": holdings.refused_since_ms,
                "expires_at_ms": visit.expires_at_ms,
                "terms": self._documents(reader, terms),
            },
        )

    def _documents(self, reader: Reader, terms: Terms) -> list[ShownDocument]:
        return shown_documents(terms, self._maker.language_of(reader))


def _sample_holdings(threepid: Threepid, visit: Visit) -> Holdings:
    return Holdings(
        threepid,
        at_ms=NOW_MS,
        association=sample_association(threepid),
        invites=(sample_invite(threepid),),
        sessions=(sample_session(threepid),),
        visits=(visit,),
        refused_since_ms=None,
    )


def _to_json(holdings: Holdings, terms: Terms, server_name: str) -> dict[str, Any]:
    association = holdings.association
    return {
        "identity_server": server_name,
        "as_of": iso(holdings.at_ms),
        "medium": holdings.threepid.medium.value,
        "address": holdings.threepid.address,
        "binding": None if association is None else binding_data(association),
        "invites": [invite_data(invite) for invite in holdings.invites],
        "confirmations": [session_data(session) for session in holdings.sessions],
        "visits": [
            {"since": iso(visit.created_at_ms), "kept_until": iso(visit.expires_at_ms)} for visit in holdings.visits
        ],
        "left_alone_since": None if holdings.refused_since_ms is None else iso(holdings.refused_since_ms),
        "terms": terms_data(terms),
    }
