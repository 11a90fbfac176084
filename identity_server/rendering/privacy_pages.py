"""The privacy page: ask for a link, open it, see what is held; and the same as a file.

Rule: no page here tells whether anything is held, but the one that a proved address is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any

from identity_server.domain.association import ASSOCIATION_LIFETIME_MS, Association, Visibility
from identity_server.domain.holdings import Holdings
from identity_server.domain.identifiers import Medium, SessionId, Threepid, UserId, server_of
from identity_server.domain.invite import Invite
from identity_server.domain.retention import Kept, Lifetimes, retention_schedule
from identity_server.domain.terms import Policy, Terms, Translation
from identity_server.domain.validation import ValidationSession
from identity_server.domain.visit import Visit
from identity_server.rendering.languages import Language
from identity_server.rendering.page import Page, PageMaker, Reader
from identity_server.rendering.retention import shown

_SELF = ("'self'",)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATA_HEADERS = MappingProxyType(
    {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)


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


@dataclass(frozen=True, slots=True)
class _Document:
    """A policy in force, in the language that suits the reader best."""

    name: str
    version: str
    url: str
    tag: str


@dataclass(frozen=True, slots=True)
class _ShownInvite:
    """What a page shows of an invite; never what would work as a token."""

    sender: str
    sender_name: str
    room_id: str
    room_name: str
    details: Sequence[tuple[str, str]]
    created_at_ms: int
    expires_at_ms: int


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
        text = json.dumps(_to_json(holdings, terms, self._maker.server_name), ensure_ascii=False, indent=2)
        # A lone surrogate could not be encoded; a question mark can.
        text = text.encode("utf-8", "replace").decode() + "\n"
        return Page(status=200, html=text, headers=_DATA_HEADERS)

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
        now_ms = 1_800_000_000_000
        visit = Visit.by_mail(threepid, now_ms=now_ms)
        terms = Terms((Policy("p", "1", {"en": Translation("Policy", "https://id.example.org/")}),))
        full = _sample_holdings(threepid, visit, now_ms=now_ms)
        empty = replace(full, association=None, invites=(), sessions=(), refused_since_ms=now_ms)
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
        yield partial(self.open, reader, here="?token=t", token="t", address=threepid.address, expires_at_ms=now_ms)  # noqa: S106 - a sample
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
                "address": _written(holdings.threepid),
                "association": association,
                "ends": association is not None and association.not_after < association.ts + ASSOCIATION_LIFETIME_MS,
                "visibilities": tuple(Visibility),
                "homeserver": None if association is None else server_of(association.user_id),
                "invites": [_shown(invite) for invite in holdings.invites],
                "sessions": holdings.sessions,
                "refused_since_ms": holdings.refused_since_ms,
                "expires_at_ms": visit.expires_at_ms,
                "terms": self._documents(reader, terms),
            },
        )

    def _documents(self, reader: Reader, terms: Terms) -> list[_Document]:
        language = self._maker.language_of(reader)
        return [_document(policy, language) for policy in terms.policies if policy.translations]


def _document(policy: Policy, language: Language) -> _Document:
    tags = [language.tag, "en", *policy.translations]
    tag = next(tag for tag in tags if tag in policy.translations)
    translation = policy.translations[tag]
    return _Document(name=translation.name, version=policy.version, url=translation.url, tag=tag)


def _written(threepid: Threepid) -> str:
    """An address as people write it."""
    return f"+{threepid.address}" if threepid.medium is Medium.MSISDN else threepid.address


def _shown(invite: Invite) -> _ShownInvite:
    return _ShownInvite(
        sender=invite.sender,
        sender_name=invite.details.get("sender_display_name", ""),
        room_id=invite.room_id,
        room_name=invite.details.get("room_name", ""),
        details=sorted(invite.shown_details.items()),
        created_at_ms=invite.created_at_ms,
        expires_at_ms=invite.expires_at_ms,
    )


def _sample_holdings(threepid: Threepid, visit: Visit, *, now_ms: int) -> Holdings:
    user_id = UserId("@alice:example.org")
    invite = Invite(
        id=1,
        threepid=threepid,
        room_id="!room:example.org",
        sender=UserId("@bob:example.org"),
        token="t",  # noqa: S106 - a sample
        private_key="",
        public_key=b"",
        details={"room_name": "The garden", "sender_display_name": "Bob"},
        brand=None,
        languages=(),
        created_at_ms=now_ms,
        expires_at_ms=now_ms,
    )
    session = ValidationSession(
        sid=SessionId("s"),
        threepid=threepid,
        requested_by=user_id,
        send_attempt=1,
        next_link=None,
        created_at_ms=now_ms,
        validated_at_ms=now_ms,
    )
    association = Association.starting(now_ms, threepid=threepid, user_id=user_id)
    return Holdings(
        threepid,
        at_ms=now_ms,
        association=association,
        invites=(invite,),
        sessions=(session,),
        visits=(visit,),
        refused_since_ms=None,
    )


def _to_json(holdings: Holdings, terms: Terms, server_name: str) -> dict[str, Any]:
    association = holdings.association
    return {
        "identity_server": server_name,
        "as_of": _iso(holdings.at_ms),
        "medium": holdings.threepid.medium.value,
        "address": holdings.threepid.address,
        "binding": None if association is None else _binding_to_json(association),
        "invites": [
            {
                "sender": invite.sender,
                "room_id": invite.room_id,
                "details": invite.shown_details,
                "languages": list(invite.languages),
                "since": _iso(invite.created_at_ms),
                "kept_until": _iso(invite.expires_at_ms),
            }
            for invite in holdings.invites
        ],
        "confirmations": [
            {
                "requested_by": session.requested_by,
                "since": _iso(session.created_at_ms),
                "confirmed_at": None if session.validated_at_ms is None else _iso(session.validated_at_ms),
                "next_link": session.next_link,
                "kept_until": _iso(session.expires_at_ms),
            }
            for session in holdings.sessions
        ],
        "visits": [
            {"since": _iso(visit.created_at_ms), "kept_until": _iso(visit.expires_at_ms)} for visit in holdings.visits
        ],
        "left_alone_since": None if holdings.refused_since_ms is None else _iso(holdings.refused_since_ms),
        "terms": [
            {
                "id": policy.id,
                "version": policy.version,
                "urls": {tag: translation.url for tag, translation in policy.translations.items()},
            }
            for policy in terms.policies
        ],
    }


def _binding_to_json(association: Association) -> dict[str, Any]:
    return {
        "mxid": association.user_id,
        "since": _iso(association.ts),
        "visibility": association.visibility.value,
        "valid_until": _iso(association.not_after),
    }


def _iso(timestamp_ms: int) -> str:
    """A time as programs read it (RFC 3339), in UTC.

    >>> _iso(1_795_443_600_123)
    '2026-11-23T14:20:00.123Z'
    """
    moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
