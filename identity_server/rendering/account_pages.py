"""What is held about a Matrix ID as two files: one to read, one for programs.

Rule: as the privacy page's files, with nothing that works as a token; and nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from identity_server.domain.account_holdings import AccountHoldings, SearchCount, TokenTimes
from identity_server.domain.association import Association
from identity_server.domain.audit import AuditEntry, AuditEvent
from identity_server.domain.identifiers import Medium, Threepid, server_of
from identity_server.domain.invite import Invite
from identity_server.domain.terms import Acceptance, Terms
from identity_server.domain.validation import ValidationSession
from identity_server.rendering.held import (
    ShownInvite,
    comes_to_an_end,
    shown_documents,
    shown_invite,
    written,
)
from identity_server.rendering.held_data import binding_data, data_page, invite_data, iso, session_data, terms_data
from identity_server.rendering.page import Page, PageMaker, Reader
from identity_server.rendering.samples import (
    ALICE,
    NOW_MS,
    sample_association,
    sample_invite,
    sample_session,
    sample_terms,
)


@dataclass(frozen=True, slots=True)
class _Binding:
    address: str
    medium: Medium
    association: Association
    ends: bool


@dataclass(frozen=True, slots=True)
class _Session:
    """A session, with its address as people write it; None if that is gone."""

    address: str | None
    medium: Medium | None
    session: ValidationSession


@dataclass(frozen=True, slots=True)
class _Invite:
    address: str
    invite: ShownInvite


class AccountPages:
    """Makes the files, from `templates/pages/privacy/account.html.j2`."""

    def __init__(self, maker: PageMaker) -> None:
        self._maker = maker

    def document(self, reader: Reader, *, held: AccountHoldings, terms: Terms) -> Page:
        """To read."""
        return self._maker.make(
            "privacy/account",
            reader,
            variables={
                "held": held,
                "homeserver": server_of(held.user_id),
                "bindings": [_binding(each) for each in held.associations],
                "sessions": [_session(each) for each in held.sessions],
                "invites_sent": [_invite(each) for each in held.invites_sent],
                "invites_received": [_invite(each) for each in held.invites_received],
                "terms": shown_documents(terms, self._maker.language_of(reader)),
            },
        )

    def data(self, held: AccountHoldings, *, terms: Terms) -> Page:
        """For programs, in JSON."""
        return data_page(_to_json(held, terms, self._maker.server_name))

    def samples(self, reader: Reader) -> Iterator[Callable[[], Page]]:
        """Each with values that are made up."""
        full = _sample_holdings()
        empty = replace(
            full,
            created_at_ms=None,
            tokens=(),
            accepted=(),
            associations=(),
            sessions=(),
            invites_sent=(),
            invites_received=(),
            searches=(),
        )
        yield from (partial(self.document, reader, held=held, terms=sample_terms()) for held in (full, empty))


def _binding(association: Association) -> _Binding:
    threepid = association.threepid
    return _Binding(written(threepid), threepid.medium, association, comes_to_an_end(association))


def _session(session: ValidationSession) -> _Session:
    threepid = session.threepid
    if threepid is None:
        return _Session(None, None, session)
    return _Session(written(threepid), threepid.medium, session)


def _invite(invite: Invite) -> _Invite:
    return _Invite(written(invite.threepid), shown_invite(invite))


def _to_json(held: AccountHoldings, terms: Terms, server_name: str) -> dict[str, Any]:
    return {
        "identity_server": server_name,
        "as_of": iso(held.at_ms),
        "mxid": held.user_id,
        "account": None
        if held.created_at_ms is None
        else {"since": iso(held.created_at_ms), "agreed_to_version": held.agreed_master_version},
        "access_tokens": [
            {"since": iso(times.created_at_ms), "last_used": iso(times.last_used_at_ms)} for times in held.tokens
        ],
        "accepted_terms": [
            {
                "id": acceptance.policy_id,
                "version": acceptance.version,
                "language": acceptance.language,
                "url": acceptance.url,
                "at": iso(at_ms),
            }
            for acceptance, at_ms in held.accepted
        ],
        "bindings": [_address(each.threepid) | binding_data(each) for each in held.associations],
        "confirmations": [_address(each.threepid) | session_data(each) for each in held.sessions],
        "invites_sent": [_address(each.threepid) | invite_data(each) for each in held.invites_sent],
        "invites_received": [_address(each.threepid) | invite_data(each) for each in held.invites_received],
        "searches": [{"since": iso(each.since_ms), "addresses_at_most": each.addresses} for each in held.searches],
        "journal": [
            {"number": seq, "at": iso(entry.at_ms), "event": entry.event, "count": entry.count}
            for seq, entry in held.audit
        ],
        "terms": terms_data(terms),
    }


def _address(threepid: Threepid | None) -> dict[str, Any]:
    """An address, or that it is gone."""
    return {
        "medium": None if threepid is None else threepid.medium.value,
        "address": None if threepid is None else threepid.address,
    }


def _sample_holdings() -> AccountHoldings:
    mail, phone = Threepid(Medium.EMAIL, "alice@example.org"), Threepid(Medium.MSISDN, "447700900123")
    session, invite = sample_session(mail), sample_invite(mail)
    entries = [AuditEntry(b"", NOW_MS, event.value, None, None, "", ()) for event in AuditEvent]
    return AccountHoldings(
        user_id=ALICE,
        at_ms=NOW_MS,
        created_at_ms=NOW_MS,
        agreed_master_version="1",
        tokens=(TokenTimes(NOW_MS, NOW_MS),),
        accepted=((Acceptance("privacy_policy", "1", "en", "https://id.example.org/"), NOW_MS),),
        associations=(sample_association(mail), replace(sample_association(phone), not_after=NOW_MS)),
        sessions=(replace(session, next_link="https://chat.example.org/"), replace(session, threepid=None)),
        invites_sent=(invite,),
        invites_received=(invite,),
        searches=(SearchCount(NOW_MS, 500),),
        audit=tuple(enumerate(entries, start=1)),
    )
