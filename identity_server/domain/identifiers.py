"""The identifiers of the protocol and their grammars.

Each is a plain `str` subtype or a small frozen value that is only ever made by its `parse` function,
so that code which holds one need not check it again.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

import email_validator

from identity_server.domain.errors import InvalidEmail, InvalidParameter

ServerName = NewType("ServerName", str)
"""A homeserver's name in lower case, `host` or `host:port` (appendices, "Server Name")."""

UserId = NewType("UserId", str)
"""A Matrix ID, `@localpart:server` (appendices, "User Identifiers")."""

ClientSecret = NewType("ClientSecret", str)
"""A secret that the client made to hold on to its validation session."""

SessionId = NewType("SessionId", str)
"""`sid`: the public name of a validation session."""

MAX_MSISDN: Final = 15
"""How many digits a number has at most that can be dialled from abroad (E.164, section 6.2)."""

# `.local`, `.test` and the like are fine in closed networks: that the mail arrives is the proof.
email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()

_OPAQUE = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_MSISDN = re.compile(rf"[0-9]{{1,{MAX_MSISDN}}}")
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
# Letters and marks by their category, and yet nothing to be seen (Unicode's Default_Ignorable_Code_Point, and
# the empty Braille pattern).
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_MAX_SERVER_NAME = 230
_MAX_USER_ID_BYTES = 255
_MAX_EMAIL = 254
_MAX_PORT = 65535


class Medium(StrEnum):
    """What kind of address a 3PID is (appendices, "3PID Types")."""

    EMAIL = "email"
    MSISDN = "msisdn"


@dataclass(frozen=True, slots=True)
class Threepid:
    """A third-party identifier: a medium and an address in canonical form.

    Only the canonical form exists past the edge of the program: the address that is mailed is the one
    that is stored, hashed, bound and compared.
    """

    medium: Medium
    address: str

    @property
    def parts(self) -> tuple[str, str]:
        """How it is written into a keyed digest: its kind, and its name."""
        return self.medium.value, self.address

    def __repr__(self) -> str:
        # An address must not slip into a log line or a traceback.
        return f"Threepid(medium={self.medium.value!r}, address=<hidden>)"


def parse_client_secret(value: str) -> ClientSecret:
    """Check a client secret: 1 to 255 of `[0-9a-zA-Z.=_-]`.

    Raises:
        InvalidParameter: it is not one.
    """
    if not _OPAQUE.fullmatch(value):
        raise InvalidParameter("client_secret must be 1 to 255 of the characters 0-9 a-z A-Z . = _ -")
    return ClientSecret(value)


def parse_session_id(value: str) -> SessionId:
    """Check a session id: 1 to 255 of `[0-9a-zA-Z.=_-]`.

    Raises:
        InvalidParameter: it is not one.
    """
    if not _OPAQUE.fullmatch(value):
        raise InvalidParameter("sid must be 1 to 255 of the characters 0-9 a-z A-Z . = _ -")
    return SessionId(value)


def parse_server_name(value: str) -> ServerName:
    """Check a server name and put it in lower case.

    Takes a DNS name, an IPv4 address or an IPv6 address in brackets, with an optional port.

    Raises:
        InvalidParameter: it is none of these.
    """
    name = value.lower() if value.isascii() else ""
    host, port = split_server_name(name)
    if (
        not 0 < len(name) <= _MAX_SERVER_NAME
        or not _is_host(host)
        or (port is not None and not 0 < port <= _MAX_PORT)
        or name != (host if port is None else f"{host}:{port}")
    ):
        raise InvalidParameter("This is not a valid server name.")
    return ServerName(name)


def split_server_name(name: str) -> tuple[str, int | None]:
    """Split `host:port` into host (brackets kept) and port (None where there is none).

    A port that is not 1 to 5 digits is left on the host, where no grammar takes it.
    """
    host, separator, port = name.rpartition(":")
    if not separator or not re.fullmatch(r"[0-9]{1,5}", port):
        return name, None
    return host, int(port)


def _is_host(host: str) -> bool:
    try:
        if host.startswith("[") and host.endswith("]"):
            return "%" not in host and bool(ipaddress.IPv6Address(host[1:-1]))
        if re.fullmatch(r"[0-9.]+", host):
            return bool(ipaddress.IPv4Address(host))
    except ValueError:
        return False
    return all(_DNS_LABEL.fullmatch(label) for label in host.split("."))


def parse_user_id(value: str) -> UserId:
    """Check a Matrix ID, historical local parts (any printable characters) included.

    Raises:
        InvalidParameter: it is not one.
    """
    localpart, separator, server = value[1:].partition(":")
    if (
        not value.startswith("@")
        or not separator
        or len(value.encode("utf-8", "surrogatepass")) > _MAX_USER_ID_BYTES
        or not localpart.isprintable()
        or " " in localpart
    ):
        raise InvalidParameter("This is not a valid Matrix ID.")
    if server != parse_server_name(server):
        raise InvalidParameter("The server name of a Matrix ID must be in lower case.")
    return UserId(value)


def server_of(user_id: UserId) -> ServerName:
    """The server that a Matrix ID belongs to."""
    return ServerName(user_id.partition(":")[2])


def canonical_email(value: str) -> str:
    """The one form of an e-mail address: NFC, casefolded whole (MSC2265), bare.

    >>> canonical_email("Alice@Example.ORG")
    'alice@example.org'

    Raises:
        InvalidEmail: not one bare address (`a@b@c`, a display name, a list, an IP literal), or it holds
            controls, invisible or bidirectional characters.
    """
    if not 0 < len(value) <= 2 * _MAX_EMAIL or any(_is_deceptive(character) for character in value):
        raise InvalidEmail
    try:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).casefold())
        checked = email_validator.validate_email(
            folded, check_deliverability=False, globally_deliverable=False, strict=True
        )
    except (email_validator.EmailNotValidError, UnicodeError):
        raise InvalidEmail from None
    # A domain of full-width, circled or mathematical letters would be mailed as the one that they stand for, and
    # every mixture of them be an address of its own.
    if not _same_labels(folded.rpartition("@")[2], checked.domain, checked.ascii_domain):
        raise InvalidEmail
    # The checked form would turn `xn--` labels into Unicode; searchers hash what they typed, so keep that.
    if folded != unicodedata.normalize("NFC", folded.casefold()) or len(folded.encode()) > _MAX_EMAIL:
        raise InvalidEmail
    # No top-level domain is a number: this is an IP address without its brackets.
    if folded.rpartition(".")[2].isdecimal():
        raise InvalidEmail
    return folded


def parse_threepid(medium: str, address: str) -> Threepid:
    """A 3PID in its one form: an e-mail address, or the digits of a phone number, country code first.

    Raises:
        InvalidParameter: no such medium, or no address of it.
    """
    if medium == Medium.EMAIL:
        try:
            return Threepid(Medium.EMAIL, canonical_email(address))
        except InvalidEmail:
            raise InvalidParameter("The address is not a valid address of its medium.") from None
    if medium == Medium.MSISDN:
        if not _MSISDN.fullmatch(address):
            raise InvalidParameter("The address must be the digits of a phone number, country code first.")
        return Threepid(Medium.MSISDN, address)
    raise InvalidParameter("The medium must be email or msisdn.")


def ascii_domain(domain: str) -> str | None:
    """A domain as DNS knows it, whichever of its two forms it is written in; None if no mail could go there.

    >>> ascii_domain("bücher.example")
    'xn--bcher-kva.example'
    """
    try:
        return email_validator.validate_email(
            f"a@{domain}", check_deliverability=False, globally_deliverable=False
        ).ascii_domain
    except (email_validator.EmailNotValidError, UnicodeError):
        return None


def _same_labels(domain: str, unicode_form: str, ascii_form: str) -> bool:
    """Whether each label is written in one of its two proper forms."""
    written, *proper = (name.split(".") for name in (domain, unicode_form, ascii_form))
    return len(written) == len(proper[0]) and all(
        label in forms for label, *forms in zip(written, *proper, strict=True)
    )


def _is_deceptive(character: str) -> bool:
    """Controls, format characters (zero width, bidi), separators, surrogates, private use, unassigned, blanks."""
    category = unicodedata.category(character)
    return category in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"} or bool(_BLANK.fullmatch(character))
