"""What requestToken does for every medium: find or open the session, and take it back if nothing could be sent.

The rule: these are steps of a use case and run in its transaction; what is sent, and how often that may be, is
the business of the medium.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from identity_server.domain.errors import RateLimited
from identity_server.domain.identifiers import ClientSecret, SessionId, Threepid, UserId
from identity_server.domain.ports import Randomness
from identity_server.domain.random_values import opaque
from identity_server.domain.validation import SESSION_LIFETIME_MS, ValidationSession
from identity_server.storage.database import Transaction

OPEN_SESSIONS = 50
"""How many sessions of one account may be neither over nor validated, of all media together."""

_SID_BYTES = 16


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What a client asks for, whatever the medium.

    Attributes:
        requested_by: the account; None for the unauthenticated v1 API.
        send_attempt: a higher number than before asks for another message.
        next_link: an http(s) URL to go to afterwards.
    """

    threepid: Threepid
    client_secret: ClientSecret = field(repr=False)
    requested_by: UserId | None
    send_attempt: int
    next_link: str | None = field(repr=False)

    def repeats(self, session: ValidationSession) -> bool:
        """Whether this asks for nothing that the session hasn't had before."""
        return self.send_attempt <= session.send_attempt


@dataclass(frozen=True, slots=True)
class SessionChange:
    """What a request has made of a session.

    Attributes:
        session: as it is now.
        before: as it was; None if the request has opened it.
    """

    session: ValidationSession
    before: ValidationSession | None


def new_session_id(randomness: Randomness) -> SessionId:
    """An id for a session that may be opened."""
    return SessionId(opaque(randomness, _SID_BYTES))


async def find_session(tx: Transaction, request: SessionRequest, *, now_ms: int) -> ValidationSession | None:
    """The session that the same account has open for the same address and client secret."""
    found = await tx.validation_sessions.find(
        threepid=request.threepid, client_secret=request.client_secret, requested_by=request.requested_by
    )
    if found is not None and found.is_over(now_ms):
        # A new one takes its place; the old one goes on saying that it has expired.
        await tx.validation_sessions.wipe(found.sid)
        return None
    return found


async def require_room(tx: Transaction, requested_by: UserId | None, *, limit: int, now_ms: int) -> None:
    """Make sure that an account may open one more session; without one there is nobody to count for.

    Raises:
        RateLimited: it has too many.
    """
    if requested_by is None:
        return
    if await tx.validation_sessions.count_open(requested_by, now_ms=now_ms) >= limit:
        raise RateLimited(SESSION_LIFETIME_MS, "Too many validation sessions are open.", limit="open sessions")


async def put_session(
    tx: Transaction, request: SessionRequest, before: ValidationSession | None, *, new_sid: SessionId, now_ms: int
) -> SessionChange:
    """Open the session under the new id, or note the request in the one that there is."""
    if before is not None:
        session = replace(before, send_attempt=request.send_attempt, next_link=request.next_link)
        await tx.validation_sessions.save(session)
        return SessionChange(session, before)
    session = ValidationSession(
        sid=new_sid,
        threepid=request.threepid,
        requested_by=request.requested_by,
        send_attempt=request.send_attempt,
        next_link=request.next_link,
        created_at_ms=now_ms,
        validated_at_ms=None,
    )
    await tx.validation_sessions.add(session, request.client_secret)
    return SessionChange(session, None)


async def take_back(tx: Transaction, change: SessionChange) -> bool:
    """Undo a request whose message was refused; False if the session was taken further since, and so stays."""
    now = await tx.validation_sessions.lookup_by_id(change.session.sid)
    if now is None or now.send_attempt != change.session.send_attempt:
        return False
    if change.before is None:
        await tx.validation_sessions.remove(now.sid)
        return True
    await tx.validation_sessions.save(
        replace(now, send_attempt=change.before.send_attempt, next_link=change.before.next_link)
    )
    return True


async def mark_validated(tx: Transaction, session: ValidationSession, *, now_ms: int) -> ValidationSession:
    """Note that the address is proven; the time of the first proof stays."""
    if session.validated_at_ms is not None:
        return session
    validated = replace(session, validated_at_ms=now_ms)
    await tx.validation_sessions.save(validated)
    return validated
