"""Inviting people by an address that isn't bound yet (Identity Service API, "Invitation storage")."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import nacl.signing
from unpaddedbase64 import encode_base64

from identity_server.domain.association import Association
from identity_server.domain.errors import (
    AddressRefused,
    EmailRefused,
    InvalidParameter,
    InviteBlocked,
    NoSuchInvite,
    NotYourMatrixId,
    ThreepidInUse,
    UnsupportedMedium,
)
from identity_server.domain.homeserver_policy import HomeserverPolicy
from identity_server.domain.identifiers import Medium, Threepid, UserId, canonical_email, server_of
from identity_server.domain.invite import (
    EPHEMERAL_KEY_LIFETIME_MS,
    INVITE_LIFETIME_MS,
    INVITE_TOKEN_LETTERS,
    Invite,
    Obfuscation,
)
from identity_server.domain.ports import Clock, Randomness
from identity_server.domain.random_values import letters, row_id
from identity_server.domain.rate_limits import RateLimit
from identity_server.domain.signing import SigningKey, decode_public_key
from identity_server.services.associations.bind_notices import NoticeWriter
from identity_server.services.invites.mails import WEB_CLIENT, InviteMails
from identity_server.services.limits import take_of_mailbox
from identity_server.services.lookup.budgets import LookupBudgets
from identity_server.services.lookup.hashed_lookup import Asker, Lookup
from identity_server.services.outbox.port import Outbox, Outcome
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database, Transaction
from identity_server.storage.repositories.jobs import Job

_SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class InviteRequest:
    """What a homeserver asks for in store-invite, checked for its grammar alone.

    Attributes:
        details: every other string of the request, for the mail.
        client_network: from where the request came; counts against the limits.
    """

    medium: str
    address: str
    room_id: str
    sender: UserId
    details: Mapping[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    brand: str | None = None
    client_network: str = "local"


@dataclass(frozen=True, slots=True)
class StoredInvite:
    """What the inviting homeserver puts into the room.

    Attributes:
        public_key: the long-term key in unpadded base64.
        ephemeral_public_key: the invite's own, in URL-safe unpadded base64.
        display_name: the hint at the address.
    """

    token: str
    public_key: str
    ephemeral_public_key: str
    display_name: str


@dataclass(frozen=True, slots=True)
class InvitePolicy:
    """Who may invite, how often, and how much of an address the room sees.

    Attributes:
        blocked_servers, blocked_rooms: Matrix IDs' servers and rooms that may not invite.
        blocked_keywords: casefolded words that no invite may hold.
        per_sender: how many mails an account may cause; shared with validation mails.
        per_mailbox: how many mails one mailbox takes, whoever causes them; shared with validation mails.
        share_of_mailbox: what of that one account may use up; shared with its validation mails.
    """

    obfuscation: Obfuscation
    blocked_servers: frozenset[str]
    blocked_rooms: frozenset[str]
    blocked_keywords: tuple[str, ...]
    per_sender: RateLimit
    per_mailbox: RateLimit
    share_of_mailbox: RateLimit


class Invitations:
    """Stores invites, sends their mails, and signs for whoever follows the link."""

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        signing_key: SigningKey,
        policy: InvitePolicy,
        mails: InviteMails,
        bind_notices: NoticeWriter,
        homeservers: HomeserverPolicy,
        lookup: Lookup,
        lookup_budgets: LookupBudgets,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._signing_key = signing_key
        self._policy = policy
        self._mails = mails
        self._bind_notices = bind_notices
        self._homeservers = homeservers
        self._lookup = lookup
        self._lookup_budgets = lookup_budgets

    # --- store-invite ---------------------------------------------------------------------

    async def store(self, request: InviteRequest, *, account_id: UserId | None) -> StoredInvite:
        """Store an invite and mail it.

        Commits the invite, its public key and its mail; if the relay refuses the mail for good, nothing stays.

        An address that is bound, but whose owner hides that from the caller, is treated as one that isn't: the answer
        is the same, and so is the mail. Besides, the owner's homeserver is told, as if it had just been bound.

        Args:
            request: what is asked for.
            account_id: whose access token was shown; None for the unauthenticated v1 API.

        Raises:
            NotYourMatrixId: the sender isn't the account.
            InviteBlocked: the operator doesn't want it.
            UnsupportedMedium, InvalidEmail: not an e-mail address.
            ThreepidInUse: the address is bound already, and the caller may know.
            AddressRefused: its owner wants not to be invited here.
            RateLimited: the sender has caused, or the address was sent, enough mails for now. That an address
                is bound or refused counts like a mail, because it is told.
            RateLimited: nobody may be told any more whether another address is bound.
            EmailRefused: the relay refused the mail.
        """
        if account_id is not None and request.sender != account_id:
            raise NotYourMatrixId
        self._require_allowed(request)
        if request.medium != Medium.EMAIL:
            raise UnsupportedMedium
        threepid = Threepid(Medium.EMAIL, canonical_email(request.address))
        # Sydent's templates show who invites by this name, so a request can't be the one to say it.
        verified = "" if account_id is None else f"({account_id})"
        await self._charge(threepid, request, account_id)
        details = {**request.details, "bracketed_verified_sender": verified}
        invite = self._make(replace(request, details=details), threepid)
        caller = account_id or request.client_network
        result = await self._database.transaction(
            lambda tx: self._write(tx, invite, account_id=account_id, caller=caller)
        )
        if result is None:
            raise AddressRefused
        if isinstance(result, Association):
            raise ThreepidInUse(result.user_id)
        if await self._outbox.attempt(result.mail) is Outcome.REFUSED:
            await self._database.transaction(lambda tx: _take_back(tx, invite, result))
            raise EmailRefused("The invitation could not be sent to this address.")
        return StoredInvite(
            token=invite.token,
            public_key=self._signing_key.public_key,
            ephemeral_public_key=str(encode_base64(invite.public_key, urlsafe=True)),
            display_name=self._policy.obfuscation.display_name(threepid.address),
        )

    async def _write(
        self, tx: Transaction, invite: Invite, *, account_id: UserId | None, caller: str
    ) -> _Written | Association | None:
        """Write an invite and what is to be sent; else say who has the address, or None if it wants to be left alone.

        That is returned, not raised: the call has to be counted, or asking for one name after another is free.
        """
        threepid, now_ms = invite.threepid, invite.created_at_ms
        await tx.rate_limits.take("validation mail", caller, self._policy.per_sender, now_ms=now_ms)
        bound = await _live_binding(tx, threepid, now_ms=now_ms)
        if bound is not None and self._may_know(account_id, bound):
            return bound
        if await tx.refusals.find(threepid) is not None:
            return None
        share, whole = self._policy.share_of_mailbox, self._policy.per_mailbox
        await take_of_mailbox(tx, threepid.address, sender=caller, share=share, whole=whole, now_ms=now_ms)
        valid_until_ms = now_ms + EPHEMERAL_KEY_LIFETIME_MS
        await tx.ephemeral_keys.add(invite.public_key, now_ms=now_ms, valid_until_ms=valid_until_ms)
        if bound is None:
            await tx.invites.add(invite)
            return _Written(await self._mails.add(tx, invite), None)
        await tx.invites.add(invite, taken_at_ms=now_ms)
        notice = await self._bind_notices.add_for_hidden(tx, bound, invite, now_ms=now_ms)
        return _Written(await self._mails.add(tx, invite), notice)

    async def _charge(self, threepid: Threepid, request: InviteRequest, account_id: UserId | None) -> None:
        """Charge for the answer as for that of a lookup: it says whether the address is bound, either way."""
        if account_id is None:
            await self._lookup_budgets.charge_network(request.client_network, 1)
        elif self._may_look_up(account_id):
            await self._lookup.charge(threepid, asker=Asker(account_id, lambda: request.client_network))

    def _may_look_up(self, account_id: UserId) -> bool:
        return self._homeservers.looking_up.admits(server_of(account_id))

    def _may_know(self, account_id: UserId | None, bound: Association) -> bool:
        """Whether the caller may know whose an address is: to be told so by an invite is a lookup, too."""
        if account_id is not None and not self._may_look_up(account_id):
            return False
        return bound.is_shown_to(account_id)

    def _require_allowed(self, request: InviteRequest) -> None:
        policy = self._policy
        if server_of(request.sender) in policy.blocked_servers or request.room_id in policy.blocked_rooms:
            raise InviteBlocked
        texts = {"address": request.address, "room_id": request.room_id, "sender": request.sender, **request.details}
        # Where the web client is, is the homeserver's choice of address rather than someone's words.
        texts.pop(WEB_CLIENT, None)
        folded = [text.casefold() for text in texts.values()]
        if any(word in text for word in policy.blocked_keywords for text in folded):
            raise InviteBlocked

    def _make(self, request: InviteRequest, threepid: Threepid) -> Invite:
        seed = self._randomness.token_bytes(_SEED_BYTES)
        now_ms = self._clock.now_ms()
        return Invite(
            id=row_id(self._randomness),
            threepid=threepid,
            room_id=request.room_id,
            sender=request.sender,
            token=letters(self._randomness, INVITE_TOKEN_LETTERS),
            private_key=base64.urlsafe_b64encode(seed).rstrip(b"=").decode(),
            public_key=bytes(nacl.signing.SigningKey(seed).verify_key),
            details=request.details,
            brand=request.brand,
            languages=request.languages,
            created_at_ms=now_ms,
            expires_at_ms=now_ms + INVITE_LIFETIME_MS,
        )

    # --- sign-ed25519 ---------------------------------------------------------------------

    async def sign(self, *, token: str, private_key: str, user_id: UserId) -> dict[str, Any]:
        """Sign, by the invite's own key, that a user accepts it; doing so doesn't use the invite up.

        Raises:
            NoSuchInvite: no live invite has this token.
            InvalidParameter: the private key can't be one.
        """
        seed = decode_public_key(private_key)
        if seed is None:
            raise InvalidParameter("private_key must be 32 bytes in unpadded base64.")
        now_ms = self._clock.now_ms()
        invite = await self._database.read(lambda tx: tx.invites.find_by_token(token, now_ms=now_ms))
        if invite is None:
            raise NoSuchInvite
        key = SigningKey(server_name=self._signing_key.server_name, version="0", seed=seed)
        return key.sign({"mxid": user_id, "sender": invite.sender, "token": token})

    async def cleanup(self) -> int:
        """Commit the removal of invites that are over; returns how many."""
        now_ms = self._clock.now_ms()
        return await in_batches(self._database, lambda tx, limit: tx.invites.cleanup(now_ms=now_ms, limit=limit))


@dataclass(frozen=True, slots=True)
class _Written:
    """What a new invite has put into the outbox: its mail, and the notice to a homeserver by its id."""

    mail: Job
    notice: int | None


async def _live_binding(tx: Transaction, threepid: Threepid, *, now_ms: int) -> Association | None:
    """The address's binding, unless it is over.

    One that begins later than now is there all the same, and has taken along whatever invites it found: it was made
    while this use case was run again, or by somebody whose clock is ahead. An invite that waited for it would be told
    to nobody.
    """
    bound = await tx.associations.find(threepid)
    return bound if bound is not None and not bound.is_over(now_ms) else None


async def _take_back(tx: Transaction, invite: Invite, written: _Written) -> None:
    if written.notice is not None:
        await tx.jobs.remove(written.notice)
    await tx.invites.remove([invite.id])
    await tx.ephemeral_keys.remove(invite.public_key)
