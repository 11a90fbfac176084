"""Builders: a test names only what it is about."""

from __future__ import annotations

from identity_server.domain.association import Association, Visibility
from identity_server.domain.identifiers import Medium, SessionId, Threepid, UserId
from identity_server.domain.validation import ValidationSession
from tests.support.fakes import START_MS


def email(address: str = "alice@example.com") -> Threepid:
    return Threepid(Medium.EMAIL, address)


def association(
    address: str = "alice@example.com",
    *,
    user_id: str = "@alice:example.org",
    ts: int = START_MS,
    visibility: Visibility = Visibility.EVERYONE,
) -> Association:
    return Association.starting(ts, threepid=email(address), user_id=UserId(user_id), visibility=visibility)


def session(
    *,
    sid: str = "sid",
    address: str = "alice@example.com",
    created_at_ms: int = START_MS,
    validated_at_ms: int | None = None,
) -> ValidationSession:
    return ValidationSession(
        sid=SessionId(sid),
        threepid=email(address),
        requested_by=UserId("@alice:example.org"),
        send_attempt=1,
        next_link=None,
        created_at_ms=created_at_ms,
        validated_at_ms=validated_at_ms,
    )
