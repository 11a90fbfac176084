"""What is held, for programs: the parts of which files in JSON are made.

Rule: nothing that works as a token, and times as programs read them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

from identity_server.domain.association import Association
from identity_server.domain.invite import Invite
from identity_server.domain.terms import Terms
from identity_server.domain.validation import ValidationSession
from identity_server.rendering.page import Page

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATA_HEADERS = MappingProxyType(
    {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
)


def data_page(content: Mapping[str, Any]) -> Page:
    """A file in JSON."""
    text = json.dumps(content, ensure_ascii=False, indent=2)
    # A lone surrogate could not be encoded; a question mark can.
    text = text.encode("utf-8", "replace").decode() + "\n"
    return Page(status=200, html=text, headers=_DATA_HEADERS)


def binding_data(association: Association) -> dict[str, Any]:
    """A binding, without its address."""
    return {
        "mxid": association.user_id,
        "since": iso(association.ts),
        "visibility": association.visibility.value,
        "valid_until": iso(association.not_after),
    }


def invite_data(invite: Invite) -> dict[str, Any]:
    """An invite, without its address."""
    return {
        "sender": invite.sender,
        "room_id": invite.room_id,
        "details": invite.shown_details,
        "languages": list(invite.languages),
        "since": iso(invite.created_at_ms),
        "kept_until": iso(invite.expires_at_ms),
    }


def session_data(session: ValidationSession) -> dict[str, Any]:
    """A session in which an address is proved, without the address."""
    return {
        "requested_by": session.requested_by,
        "since": iso(session.created_at_ms),
        "confirmed_at": None if session.validated_at_ms is None else iso(session.validated_at_ms),
        "next_link": session.next_link,
        "kept_until": iso(session.expires_at_ms),
    }


def terms_data(terms: Terms) -> list[dict[str, Any]]:
    """The terms in force."""
    return [
        {
            "id": policy.id,
            "version": policy.version,
            "urls": {tag: translation.url for tag, translation in policy.translations.items()},
        }
        for policy in terms.policies
    ]


def iso(timestamp_ms: int) -> str:
    """A time as programs read it (RFC 3339), in UTC.

    >>> iso(1_795_443_600_123)
    '2026-11-23T14:20:00.123Z'
    """
    moment = _EPOCH + timedelta(milliseconds=timestamp_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
