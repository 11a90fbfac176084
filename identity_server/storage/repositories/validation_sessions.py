"""Validation sessions, the tokens that were mailed for them, and the codes that were texted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, bindparam, case, delete, func, insert, select, update

from identity_server.domain.identifiers import ClientSecret, Medium, SessionId, Threepid, UserId
from identity_server.domain.validation import CODE_TRIES, SESSION_TOMBSTONE_MS, SentCode, ValidationSession
from identity_server.storage.bulk import delete_some
from identity_server.storage.connection import Connection, Prepared
from identity_server.storage.schema.tables import validation_sessions, validation_tokens
from identity_server.storage.sealing.sealer import Sealer, is_among, same_digest

_ADDRESS = "validation_sessions.sealed_address"
_NEXT_LINK = "validation_sessions.sealed_next_link"
_SECRET = "client_secret"  # noqa: S105 - the purpose of the digest, not a secret

_sessions, _tokens = validation_sessions.c, validation_tokens.c
_of_token = (
    select(validation_sessions, _tokens.expires_at_ms.label("token_expires_at_ms"))
    .join(validation_tokens, _tokens.sid == _sessions.sid)
    .where(_tokens.token_digest == bindparam("digest"))
)
_tokens_of = (
    select(func.count())
    .select_from(validation_tokens)
    .join(validation_sessions, _sessions.sid == _tokens.sid)
    .where(is_among(_sessions.address_blind, "blinds"), _tokens.created_at_ms > bindparam("since_ms"))
)

_WIPED: dict[str, None] = {
    "address_blind": None,
    "sealed_address": None,
    "sealed_next_link": None,
    "code_hash": None,
    "code_expires_at_ms": None,
}

_ADD = Prepared(insert(validation_sessions))
_SAVE = Prepared(update(validation_sessions).where(_sessions.sid == bindparam("of_sid")))
_LOOKUP = Prepared(select(validation_sessions).where(_sessions.sid == bindparam("sid")))
_FIND = Prepared(
    select(validation_sessions).where(
        is_among(_sessions.address_blind, "blinds"),
        is_among(_sessions.client_secret_digest, "secrets"),
        _sessions.requested_by == bindparam("requested_by"),
    )
)
_FIND_BY_TOKEN = Prepared(_of_token)
_FIND_BY_TOKEN_AND_SID = Prepared(_of_token.where(_tokens.sid == bindparam("sid")))
_COUNT_OPEN = Prepared(
    select(func.count())
    .select_from(validation_sessions)
    .where(
        _sessions.requested_by == bindparam("requested_by"),
        _sessions.expires_at_ms > bindparam("now_ms"),
        _sessions.validated_at_ms.is_(None),
        _sessions.code_tries < CODE_TRIES,
    )
)
_COUNT_TRY = Prepared(
    update(validation_sessions)
    .where(_sessions.sid == bindparam("of_sid"), _sessions.code_tries < CODE_TRIES)
    .values(code_tries=_sessions.code_tries + 1)
)
_FORGET_TRY = Prepared(
    update(validation_sessions)
    .where(_sessions.sid == bindparam("of_sid"))
    .values(code_tries=_sessions.code_tries - 1)
)
_ADD_TOKEN = Prepared(insert(validation_tokens))
_REMOVE_TOKEN = Prepared(delete(validation_tokens).where(_tokens.token_digest == bindparam("digest")))
_COUNT_TOKENS = Prepared(_tokens_of)
_COUNT_TOKENS_BY = Prepared(_tokens_of.where(_sessions.requested_by == bindparam("requested_by")))


@dataclass(frozen=True, slots=True)
class SessionCount:
    """How many sessions of a medium are "pending", "validated" or "over"."""

    medium: str
    state: str
    count: int


class ValidationSessions:
    """Sessions by id, by what they were asked with, and by a token."""

    def __init__(self, connection: Connection, sealer: Sealer) -> None:
        self._connection = connection
        self._sealer = sealer

    async def add(self, session: ValidationSession, client_secret: ClientSecret) -> None:
        """Store a new session; it must have its address."""
        assert session.threepid is not None
        row = {
            "sid": session.sid,
            "medium": session.threepid.medium.value,
            "client_secret_digest": self._sealer.digest(_SECRET, client_secret),
            "requested_by": session.requested_by or "",
            "created_at_ms": session.created_at_ms,
        }
        await self._connection.execute(_ADD, row | self._what_may_change(session))

    async def save(self, session: ValidationSession) -> None:
        """Store what may change in a session: send_attempt, next_link and the validation."""
        await self._connection.execute(_SAVE, {"of_sid": session.sid} | self._what_may_change(session))

    async def lookup(self, sid: SessionId, client_secret: ClientSecret) -> ValidationSession | None:
        """The session of this id, if the client secret is the one it was made with."""
        row = await self._find_row(sid)
        expected = self._sealer.digests(_SECRET, client_secret)
        if row is None or not any(same_digest(row.client_secret_digest, each) for each in expected):
            return None
        return self._from_row(row)

    async def lookup_by_id(self, sid: SessionId) -> ValidationSession | None:
        """The session of this id, for those who have already proved that it is theirs."""
        row = await self._find_row(sid)
        return None if row is None else self._from_row(row)

    async def find(
        self, *, threepid: Threepid, client_secret: ClientSecret, requested_by: UserId | None
    ) -> ValidationSession | None:
        """The session that the same account asked for with the same address and client secret."""
        asked_with = {
            "blinds": self._sealer.blinds(threepid),
            "secrets": self._sealer.digests(_SECRET, client_secret),
            "requested_by": requested_by or "",
        }
        row = (await self._connection.execute(_FIND, asked_with)).first()
        return None if row is None else self._from_row(row)

    async def find_by_token(
        self, digest: bytes, *, sid: SessionId | None = None
    ) -> tuple[ValidationSession, int] | None:
        """The session that a mailed token belongs to, and the token's expiry; `sid` narrows it to one session."""
        if sid is None:
            found = await self._connection.execute(_FIND_BY_TOKEN, {"digest": digest})
        else:
            found = await self._connection.execute(_FIND_BY_TOKEN_AND_SID, {"digest": digest, "sid": sid})
        row = found.first()
        return None if row is None else (self._from_row(row), row.token_expires_at_ms)

    async def list_of(self, threepid: Threepid, *, now_ms: int) -> list[ValidationSession]:
        """The sessions of an address that aren't over, the oldest first."""
        rows = await self._connection.execute(
            select(validation_sessions)
            .where(
                self._sealer.is_blind_of(_sessions.address_blind, threepid),
                _sessions.expires_at_ms > now_ms,
            )
            .order_by(_sessions.created_at_ms)
        )
        sessions = [self._from_row(row) for row in rows]
        return [session for session in sessions if not session.is_over(now_ms)]

    async def list_asked_for_by(self, *requested_by: UserId) -> list[ValidationSession]:
        """Every session of an account, or of a few, that is stored, over or not; the oldest first."""
        rows = await self._connection.execute(
            select(validation_sessions)
            .where(_sessions.requested_by.in_(requested_by))
            .order_by(_sessions.created_at_ms)
        )
        return [self._from_row(row) for row in rows]

    async def wipe_of(self, threepid: Threepid) -> None:
        """Take an address and all its tokens out of its sessions; what stays of them can only say that it is over."""
        theirs = self._sealer.is_blind_of(_sessions.address_blind, threepid)
        sids = select(_sessions.sid).where(theirs)
        await self._connection.execute(delete(validation_tokens).where(_tokens.sid.in_(sids)))
        await self._connection.execute(update(validation_sessions).where(theirs).values(**_WIPED))

    async def remove(self, sid: SessionId) -> None:
        """Remove a session and its tokens."""
        await self._connection.execute(delete(validation_tokens).where(_tokens.sid == sid))
        await self._connection.execute(delete(validation_sessions).where(_sessions.sid == sid))

    async def wipe(self, sid: SessionId) -> None:
        """Take the address and all tokens out of a session that is over; what stays can only say so."""
        await self._connection.execute(delete(validation_tokens).where(_tokens.sid == sid))
        await self._connection.execute(update(validation_sessions).where(_sessions.sid == sid).values(**_WIPED))

    async def count_open(self, requested_by: UserId, *, now_ms: int) -> int:
        """How many sessions of an account are neither over nor validated."""
        counted = await self._connection.execute(_COUNT_OPEN, {"requested_by": requested_by, "now_ms": now_ms})
        return int(counted.scalar_one())

    async def count_by_state(self, *, now_ms: int) -> list[SessionCount]:
        """How many there are, by medium and state; of those that are over, the ones that haven't been dropped yet."""
        is_over = (_sessions.expires_at_ms <= now_ms) | (
            _sessions.validated_at_ms.is_(None) & (_sessions.code_tries >= CODE_TRIES)
        )
        state = case((is_over, "over"), (_sessions.validated_at_ms.is_(None), "pending"), else_="validated").label(
            "state"
        )
        rows = await self._connection.execute(
            select(_sessions.medium, state, func.count()).group_by(_sessions.medium, state)
        )
        return [SessionCount(*row) for row in rows]

    async def put_code(self, sid: SessionId, code: SentCode | None) -> None:
        """Store the code that was sent last, in place of the one before."""
        await self._connection.execute(
            update(validation_sessions)
            .where(_sessions.sid == sid)
            .values(
                code_hash=None if code is None else code.hashed,
                code_expires_at_ms=None if code is None else code.expires_at_ms,
            )
        )

    async def count_try(self, sid: SessionId) -> bool:
        """Count a try of a code before it is compared; False if the tries of the session are used up.

        It is one statement, so that however many come at once, no more than that are let through.
        """
        return (await self._connection.execute(_COUNT_TRY, {"of_sid": sid})).rowcount > 0

    async def forget_try(self, sid: SessionId) -> None:
        """Take back what `count_try` has counted, since the code was right."""
        await self._connection.execute(_FORGET_TRY, {"of_sid": sid})

    async def add_token(self, sid: SessionId, digest: bytes, *, now_ms: int, expires_at_ms: int) -> None:
        """Store the digest of a fresh token; earlier ones of the session stay valid."""
        token = {"token_digest": digest, "sid": sid, "created_at_ms": now_ms, "expires_at_ms": expires_at_ms}
        await self._connection.execute(_ADD_TOKEN, token)

    async def remove_token(self, digest: bytes) -> None:
        """Forget a token."""
        await self._connection.execute(_REMOVE_TOKEN, {"digest": digest})

    async def count_tokens(self, threepid: Threepid, *, since_ms: int, requested_by: UserId | None = None) -> int:
        """How many messages were asked for to an address since then, by one account or by all."""
        which: dict[str, Any] = {"blinds": self._sealer.blinds(threepid), "since_ms": since_ms}
        if requested_by is None:
            counted = await self._connection.execute(_COUNT_TOKENS, which)
        else:
            counted = await self._connection.execute(_COUNT_TOKENS_BY, which | {"requested_by": requested_by})
        return int(counted.scalar_one())

    async def cleanup(self, *, now_ms: int, limit: int) -> int:
        """Remove expired tokens and codes, wipe expired sessions, and drop those that have said so for long enough.

        Of each so many at most; returns how many rows were touched.
        """
        return (
            await delete_some(
                self._connection,
                validation_tokens,
                _tokens.expires_at_ms <= now_ms,
                by=_tokens.expires_at_ms,
                limit=limit,
            )
            + await self._forget_codes(now_ms=now_ms, limit=limit)
            + await self._wipe_over(now_ms=now_ms, limit=limit)
            + await delete_some(
                self._connection,
                validation_sessions,
                _sessions.expires_at_ms <= now_ms - SESSION_TOMBSTONE_MS,
                by=_sessions.expires_at_ms,
                limit=limit,
            )
        )

    async def _forget_codes(self, *, now_ms: int, limit: int) -> int:
        old = (
            select(_sessions.sid)
            .where(_sessions.code_expires_at_ms <= now_ms, _sessions.validated_at_ms.is_(None))
            .order_by(_sessions.code_expires_at_ms)
            .limit(limit)
        )
        forget = update(validation_sessions).where(_sessions.sid.in_(old))
        return (await self._connection.execute(forget.values(code_hash=None, code_expires_at_ms=None))).rowcount

    async def _wipe_over(self, *, now_ms: int, limit: int) -> int:
        over = (
            select(_sessions.sid)
            .where(_sessions.expires_at_ms <= now_ms, _sessions.sealed_address.is_not(None))
            # Those that were wiped before lie behind these, for as long as they have something to say.
            .order_by(_sessions.expires_at_ms.desc())
            .limit(limit)
        )
        sids = (await self._connection.execute(over)).scalars().all()
        if sids:
            await self._connection.execute(delete(validation_tokens).where(_tokens.sid.in_(sids)))
            await self._connection.execute(
                update(validation_sessions).where(_sessions.sid.in_(sids)).values(**_WIPED)
            )
        return len(sids)

    async def _find_row(self, sid: SessionId) -> Row[Any] | None:
        return (await self._connection.execute(_LOOKUP, {"sid": sid})).first()

    def _what_may_change(self, session: ValidationSession) -> dict[str, Any]:
        def sealed(place: str, text: str | None) -> bytes | None:
            return None if text is None else self._sealer.seal(place, session.sid, text)

        threepid = session.threepid
        return {
            # A row names one key, which may be another one by now: so all of what hangs on it is written.
            "key_id": self._sealer.key_id,
            "address_blind": None if threepid is None else self._sealer.blind(threepid),
            "sealed_address": sealed(_ADDRESS, None if threepid is None else threepid.address),
            "sealed_next_link": sealed(_NEXT_LINK, session.next_link),
            "send_attempt": session.send_attempt,
            "validated_at_ms": session.validated_at_ms,
            "expires_at_ms": session.expires_at_ms,
        }

    def _from_row(self, row: Row[Any]) -> ValidationSession:
        def opened(place: str, sealed: bytes | None) -> str | None:
            return None if sealed is None else self._sealer.open(place, row.sid, row.key_id, sealed)

        address = opened(_ADDRESS, row.sealed_address)
        return ValidationSession(
            sid=row.sid,
            threepid=None if address is None else Threepid(Medium(row.medium), address),
            requested_by=row.requested_by or None,
            send_attempt=row.send_attempt,
            next_link=opened(_NEXT_LINK, row.sealed_next_link),
            created_at_ms=row.created_at_ms,
            validated_at_ms=row.validated_at_ms,
            code=None if row.code_hash is None else SentCode(row.code_hash, row.code_expires_at_ms),
            code_tries=row.code_tries,
        )
