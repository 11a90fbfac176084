"""Addresses in the one form that this server knows.

The rule: the short cut for plain addresses gives exactly what `canonical_email` would, which tests hold it to;
without it, checking a million addresses takes longer than everything else together.
"""

from __future__ import annotations

import re

from identity_server.domain.errors import InvalidEmail
from identity_server.domain.identifiers import Medium, Threepid, canonical_email

# Plain lower-case ASCII throughout, ending in letters: such an address is canonical as it stands.
# A label with hyphens in its third and fourth place may be an encoded one: those take the long way.
_LABEL = r"(?!..--)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN = re.compile(
    rf"(?=.{{6,200}}\Z)(?=[^@]{{1,64}}@)[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*@(?:{_LABEL}\.)+[a-z]{{2,63}}\Z"
)
_PHONE = re.compile(r"[1-9][0-9]{1,14}")


class NotAnAddress(Exception):
    """No threepid can be made of this."""


class UnknownMedium(NotAnAddress):
    """Neither an e-mail address nor a phone number."""


def canonical(medium: str, address: str) -> Threepid:
    """The canonical form of an address that Sydent stored.

    Raises:
        UnknownMedium: the medium is neither `email` nor `msisdn`.
        NotAnAddress: the address can't be one.
    """
    if medium == Medium.EMAIL:
        if _PLAIN.match(address):
            return Threepid(Medium.EMAIL, address)
        try:
            return Threepid(Medium.EMAIL, canonical_email(address))
        except InvalidEmail:
            raise NotAnAddress from None
    if medium != Medium.MSISDN:
        raise UnknownMedium
    if not _PHONE.fullmatch(address):
        raise NotAnAddress
    return Threepid(Medium.MSISDN, address)
