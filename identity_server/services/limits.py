"""Every limit, by whom it counts; and how it is forgotten, in its time or with whom it counts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from identity_server.domain.identifiers import Medium, Threepid, UserId
from identity_server.domain.mailboxes import mailbox_of
from identity_server.domain.ports import Clock
from identity_server.domain.rate_limits import RateLimit
from identity_server.services.sweeping import in_batches
from identity_server.storage.database import Database, Transaction
from identity_server.storage.erasure.rows import People

LIMITS_OF_USERS = frozenset({"bind", "validation mail", "visibility"})
LIMITS_OF_MAILBOXES = frozenset({"mailbox", "mailbox by sender", "visit mail"})
LIMITS_OF_NUMBERS = frozenset({"text message", "wrong code", "wrong visit code"})
LIMITS_OF_OTHERS: Mapping[str, str] = {
    "erasures": "a network",
    "key fetches": "a network",
    "registrations": "a network",
    "text messages": "a country",
    "visit text": "a network",
    "visit texts": "all texts of a day",
    "visits": "a network",
}
"""Limits by whom they count, and those that count nobody. A test fails for one that isn't among them."""

WITH_PLACES = frozenset({"visit mail", "wrong code", "wrong visit code"})
_SHARE_OF_MAILBOX = "mailbox by sender"
_WHEREVER_FROM = frozenset({_SHARE_OF_MAILBOX, "visit mail"})
"""Limits of mailboxes that count each account or network by itself."""
_PLACES = [str(place) for place in range(32)]
"""More than any limit has."""


class Limits:
    """Forgets what makes no difference any more, whoever has taken it."""

    def __init__(self, *, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def cleanup(self) -> int:
        """Commit the removal of allowances that are whole again; returns how many."""
        now_ms = self._clock.now_ms()
        return await in_batches(self._database, lambda tx, limit: tx.rate_limits.cleanup(now_ms=now_ms, limit=limit))


async def take_of_mailbox(
    tx: Transaction, address: str, *, sender: str, share: RateLimit, whole: RateLimit, now_ms: int
) -> None:
    """Use one mail of what a mailbox may be sent, and of the share that its sender has of that.

    Args:
        tx: the transaction that writes the mail.
        address: any of the mailbox's addresses.
        sender: the account that has the mail sent, or else its network.
        share: how often that sender.
        whole: how often all together.
        now_ms: the time.

    Raises:
        RateLimited: either is used up.
    """
    mailbox = mailbox_of(address)
    await tx.rate_limits.take("mailbox by sender", mailbox, share, now_ms=now_ms, asked_from=sender)
    await tx.rate_limits.take("mailbox", mailbox, whole, now_ms=now_ms)


async def forget_limits_of(
    tx: Transaction, people: People, *, written_to: Collection[tuple[UserId, Threepid]]
) -> int:
    """Forget what is remembered of people, as a step of erasing them; returns how many rows that were.

    Args:
        tx: the transaction that it is a step of.
        people: a few.
        written_to: the addresses that each of them had mails sent to, as far as that is still known. How much of another's
            mailbox somebody has used up can't be found otherwise: what is stored of it leads to the mailbox alone.
    """
    shares = {(mailbox_of(to.address), user_id) for user_id, to in written_to if to.medium is Medium.EMAIL}
    forgotten = await tx.rate_limits.forget(list(_limits_of(people)))
    mailboxes = {mailbox_of(each.address) for each in people.threepids if each.medium is Medium.EMAIL}
    for name in _WHEREVER_FROM:
        forgotten += sum([await tx.rate_limits.forget_wherever(name, mailbox) for mailbox in mailboxes])
    return forgotten + await tx.rate_limits.forget_asked_from(_SHARE_OF_MAILBOX, shares)


def _limits_of(people: People) -> Iterator[tuple[str, ...]]:
    """How limits are stored that count these people."""
    counted: list[tuple[str, str]] = [(name, user_id) for name in LIMITS_OF_USERS for user_id in people.user_ids]
    for threepid in people.threepids:
        if threepid.medium is Medium.EMAIL:
            counted += [(name, mailbox_of(threepid.address)) for name in LIMITS_OF_MAILBOXES]
        else:
            counted += [(name, threepid.address) for name in LIMITS_OF_NUMBERS]
    for name, whom in counted:
        yield from ((name, whom, place) for place in _PLACES) if name in WITH_PLACES else ((name, whom),)
