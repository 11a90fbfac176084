"""Made-up values, with which every page can be made before anybody asks for one."""

from __future__ import annotations

from identity_server.domain.association import Association
from identity_server.domain.identifiers import SessionId, Threepid, UserId
from identity_server.domain.invite import Invite
from identity_server.domain.terms import Policy, Terms, Translation
from identity_server.domain.validation import ValidationSession

NOW_MS = 1_800_000_000_000
ALICE = UserId("@alice:example.org")


def sample_terms() -> Terms:
    """One policy."""
    return Terms((Policy("p", "1", {"en": Translation("Policy", "https://id.example.org/")}),))


def sample_association(threepid: Threepid) -> Association:
    """A binding of Alice's."""
    return Association.starting(NOW_MS, threepid=threepid, user_id=ALICE)


def sample_invite(threepid: Threepid) -> Invite:
    """An invite of Bob's."""
    return Invite(
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
        created_at_ms=NOW_MS,
        expires_at_ms=NOW_MS,
    )


def sample_session(threepid: Threepid) -> ValidationSession:
    """A session in which Alice has proved an address."""
    return ValidationSession(
        sid=SessionId("s"),
        threepid=threepid,
        requested_by=ALICE,
        send_attempt=1,
        next_link=None,
        created_at_ms=NOW_MS,
        validated_at_ms=NOW_MS,
    )
