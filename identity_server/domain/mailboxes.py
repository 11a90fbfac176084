"""Whom mail to an address reaches: what limits on mails count by."""

from __future__ import annotations

import unicodedata

from identity_server.domain.identifiers import ascii_domain


def mailbox_of(address: str) -> str:
    """Whom mail to a canonical address reaches, as far as can be told: to be counted by, never to be mailed.

    Someone who may write a few times to each address must not have a thousand addresses of one person: what
    follows a `+`, dots, look-alike letters and the two ways to write a domain don't count. That a few neighbours
    may share a name here is harmless.

    >>> mailbox_of("alice.smith+news@example.org")
    'alicesmith@example.org'
    """
    local, _, domain = address.rpartition("@")
    # Others are written in one way only.
    if not domain.isascii() or "xn--" in domain:
        # What can't be mailed is, as it stands, a name like any other.
        domain = ascii_domain(domain) or domain
    plain = unicodedata.normalize("NFKC", local).casefold()
    # An address may begin with a plus: then there is nothing before it to count by.
    name = plain.partition("+")[0].replace(".", "")
    return f"{name or plain}@{domain}"
