"""Inviting people by an address that isn't bound yet (Identity Service API, "Invitation storage")."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import nacl.signing
from unpaddedbase64 import encode_base64

from identity_server.domain.association import Association
from identity_server.domain.errors import (
    EmailRefused,
    InvalidParameter,
    InviteBlocked,
    NoSuchInvite,
    NotYourMatrixId,
    ThreepidInUse,
    UnsupportedMedium,
)
from identity_server.domain.identifiers import Medium, Threepid, UserId, canonical_email, server_of
from identity_server.domain.invite import (
    EPHEMERAL_KEY_LIFETIME_MS,
    INVITE_LIFETIME_MS,
    INVITE_TOKEN_LETTERS,
    Invite,
    Obfuscation,
    invite_link,
    short_room_name,
    short_sender_name,
)
from identity_server.domain.ports import Clock, Mail, Randomness
from identity_server.domain.random_values import letters, opaque, row_id
from identity_server.domain.rate_limits import RateLimit, mailbox_of
from identity_server.domain.signing import SigningKey, decode_public_key
from identity_server.services.mail_jobs import mail_to_payload
from identity_server.services.outbox import MAIL, Outbox, Outcome
from identity_server.storage.database import Database, Transaction
from identity_server.storage.jobs import Job

_SEED_BYTES = 32
_MESSAGE_ID_BYTES = 16
# What mails show; the homeserver leaves out what it doesn't know.
_SHOWN = ("room_alias", "room_avatar_url", "room_join_rules", "room_type", "sender_avatar_url")
_WEB_CLIENT = "org.matrix.web_client_location"


@dataclass(frozen=True, slots=True)
class InviteRequest:
    """What a homeserver asks for in store-invite, checked for its grammar alone.

    Attributes:
        details: every other string of the request, for the mail.
    """

    medium: str
    address: str
    room_id: str
    sender: UserId
    details: Mapping[str, str] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    brand: str | None = None


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
    """Who may invite, and how invites look.

    Attributes:
        blocked_servers, blocked_rooms: Matrix IDs' servers and rooms that may not invite.
        blocked_keywords: casefolded words that no invite may hold.
        web_client: where the link leads when the request doesn't say.
        per_sender: how many mails an account may cause; shared with validation mails.
        per_mailbox: how many mails one mailbox takes, whoever causes them; shared with validation mails.
        subject, subject_space: of the mail, in Sydent's `%(name)s` form.
        subject_is_set: whether the operator chose them; our own templates have subjects of their own.
    """

    obfuscation: Obfuscation
    blocked_servers: frozenset[str]
    blocked_rooms: frozenset[str]
    blocked_keywords: tuple[str, ...]
    web_client: str
    per_sender: RateLimit
    per_mailbox: RateLimit
    subject: str
    subject_space: str
    subject_is_set: bool


class Invitations:
    """Stores invites, sends their mails, and signs for whoever follows the link.

    Args:
        sign_link: makes the link that signs for an invite, from its token and private key.
        message_id_domain: what stands behind the @ of a Message-ID.
    """

    def __init__(
        self,
        *,
        database: Database,
        outbox: Outbox,
        clock: Clock,
        randomness: Randomness,
        signing_key: SigningKey,
        policy: InvitePolicy,
        sign_link: Callable[[str, str], str],
        message_id_domain: str,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness
        self._signing_key = signing_key
        self._policy = policy
        self._sign_link = sign_link
        self._message_id_domain = message_id_domain

    # --- store-invite ---------------------------------------------------------------------

    async def store(self, request: InviteRequest, *, account_id: UserId | None) -> StoredInvite:
        """Store an invite and mail it.

        Commits the invite, its public key and its mail; if the relay refuses the mail for good, nothing stays.

        Args:
            request: what is asked for.
            account_id: whose access token was shown; None for the unauthenticated v1 API.

        Raises:
            NotYourMatrixId: the sender isn't the account.
            InviteBlocked: the operator doesn't want it.
            UnsupportedMedium, InvalidEmail: not an e-mail address.
            ThreepidInUse: the address is bound already.
            RateLimited: the sender has caused, or the address was sent, enough mails for now. That an address
                is bound counts like a mail, because it is told.
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
        details = {**request.details, "bracketed_verified_sender": verified}
        invite = self._make(replace(request, details=details), threepid)

        async def use_case(tx: Transaction) -> Job | Association:
            now_ms = invite.created_at_ms
            await tx.rate_limits.take("validation mail", invite.sender, self._policy.per_sender, now_ms=now_ms)
            bound = await tx.associations.find(threepid)
            if bound is not None:
                # Returned, not raised: the call has to be counted, or asking for one name after another is free.
                return bound
            mailbox = mailbox_of(threepid.address)
            await tx.rate_limits.take("mailbox", mailbox, self._policy.per_mailbox, now_ms=now_ms)
            valid_until_ms = now_ms + EPHEMERAL_KEY_LIFETIME_MS
            await tx.ephemeral_keys.add(invite.public_key, now_ms=now_ms, valid_until_ms=valid_until_ms)
            await tx.invites.add(invite)
            return await self._add_mail(tx, invite)

        result = await self._database.transaction(use_case)
        if isinstance(result, Association):
            raise ThreepidInUse(result.user_id)
        if await self._outbox.attempt(result) is Outcome.REFUSED:
            await self._database.transaction(lambda tx: _take_back(tx, invite))
            raise EmailRefused("The invitation could not be sent to this address.")
        return StoredInvite(
            token=invite.token,
            public_key=self._signing_key.public_key,
            ephemeral_public_key=str(encode_base64(invite.public_key, urlsafe=True)),
            display_name=self._policy.obfuscation.display_name(threepid.address),
        )

    def _require_allowed(self, request: InviteRequest) -> None:
        policy = self._policy
        if server_of(request.sender) in policy.blocked_servers or request.room_id in policy.blocked_rooms:
            raise InviteBlocked
        texts = {"address": request.address, "room_id": request.room_id, "sender": request.sender, **request.details}
        # Where the web client is, is the homeserver's choice of address rather than someone's words.
        texts.pop(_WEB_CLIENT, None)
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

    async def _add_mail(self, tx: Transaction, invite: Invite) -> Job:
        mail = Mail(
            template="invite",
            to=invite.threepid.address,
            message_id=f"<{opaque(self._randomness, _MESSAGE_ID_BYTES)}@{self._message_id_domain}>",
            language=invite.languages,
            brand=invite.brand,
            variables=self._variables(invite),
        )
        return await tx.jobs.add_claimed(
            row_id(self._randomness),
            MAIL,
            mail_to_payload(mail),
            now_ms=self._clock.now_ms(),
            expires_at_ms=invite.expires_at_ms,
        )

    def _variables(self, invite: Invite) -> dict[str, str]:
        details = dict(invite.details)
        for name in _SHOWN:
            details.setdefault(name, "")
        details["sender_display_name"] = short_sender_name(details.get("sender_display_name", ""))
        details["room_name"] = short_room_name(details.get("room_name", ""))
        web_client = details.get(_WEB_CLIENT, "")
        if not web_client.startswith(("https://", "http://")):
            web_client = self._policy.web_client
        sign_url = self._sign_link(invite.token, invite.private_key)
        return {
            **details,
            "medium": invite.threepid.medium.value,
            "address": invite.threepid.address,
            "room_id": invite.room_id,
            "sender": invite.sender,
            "token": invite.token,
            "ephemeral_private_key": invite.private_key,
            "subject_header_value": self._subject(details, invite),
            "subject_is_set": "yes" if self._policy.subject_is_set else "",
            "web_client_location": web_client,
            "invite_url": invite_link(
                web_client,
                room_id=invite.room_id,
                sign_url=sign_url,
                details=details,
                email=invite.threepid.address,
            ),
        }

    def _subject(self, details: Mapping[str, str], invite: Invite) -> str:
        """The configured subject, `%(name)s` for any string of the request."""
        pattern = self._policy.subject_space if details.get("room_type") == "m.space" else self._policy.subject
        values = defaultdict(str, {**details, "sender": invite.sender, "room_id": invite.room_id})
        values["sender_display_name"] = values["sender_display_name"] or invite.sender
        try:
            return pattern % values
        except (ValueError, TypeError, KeyError):
            return pattern

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

    # --- for the operator -----------------------------------------------------------------

    async def list(self, *, limit: int) -> list[tuple[Invite, bool]]:
        """Live invites, the newest first, and whether a binding has taken each along."""
        now_ms = self._clock.now_ms()
        return await self._database.read(lambda tx: tx.invites.list_all(now_ms=now_ms, limit=limit))

    async def resend(self, invite_id: int) -> bool:
        """Commit another mail for an invite; False if there is none of this id."""

        async def use_case(tx: Transaction) -> bool:
            invite = await tx.invites.lookup(invite_id)
            if invite is not None:
                await self._add_mail(tx, invite)
            return invite is not None

        return await self._database.transaction(use_case)

    async def revoke(self, invite_id: int) -> bool:
        """Commit the end of an invite and of its key; False if there is none of this id."""

        async def use_case(tx: Transaction) -> bool:
            invite = await tx.invites.lookup(invite_id)
            if invite is not None:
                await tx.invites.remove([invite.id])
                await tx.ephemeral_keys.revoke(invite.public_key)
            return invite is not None

        return await self._database.transaction(use_case)

    async def cleanup(self) -> int:
        """Commit the removal of invites that are over; returns how many."""
        now_ms = self._clock.now_ms()
        return await self._database.transaction(lambda tx: tx.invites.cleanup(now_ms=now_ms))


async def _take_back(tx: Transaction, invite: Invite) -> None:
    await tx.invites.remove([invite.id])
    await tx.ephemeral_keys.remove(invite.public_key)
