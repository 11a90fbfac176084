"""Phone numbers: what people type becomes the digits that are texted, stored, hashed, bound and compared.

The rule: a number exists past the edge of the program only as the digits of its E.164 form, without the plus
(appendices, "3PID Types").
"""

from __future__ import annotations

from dataclasses import dataclass, field

import phonenumbers

from identity_server.domain.errors import InvalidAddress
from identity_server.domain.identifiers import MAX_MSISDN, Medium, Threepid


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A phone number that a message can be sent to.

    Attributes:
        msisdn: the digits of its E.164 form, without the plus.
        international: as people write it, `+44 7700 900123`.
        calling_code: the country calling code, `44`; several countries may share one.
    """

    msisdn: str = field(repr=False)
    international: str = field(repr=False)
    calling_code: str

    @property
    def threepid(self) -> Threepid:
        """The number as an address."""
        return Threepid(Medium.MSISDN, self.msisdn)


def parse_phone_number(number: str, country: str = "") -> PhoneNumber:
    """Read a number as if it were dialled from a country.

    Only its length is checked beyond that, since new ranges are opened faster than lists of them are: that the
    message arrives is the proof.

    >>> parse_phone_number("07700 900123", "GB").msisdn
    '447700900123'

    Args:
        number: as typed; in international form it needs no country.
        country: an ISO 3166-1 alpha-2 code, in either case; empty where only international form will do.

    Raises:
        InvalidAddress: no number can be read from it, or none that could be dialled from abroad.
    """
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in number):
        raise InvalidAddress("This is not a valid phone number.")
    try:
        parsed = phonenumbers.parse(number, country.upper())
    except phonenumbers.NumberParseException:
        raise InvalidAddress("This is not a valid phone number.") from None
    if parsed.extension:
        # A message would reach the main number, which isn't what was asked for.
        raise InvalidAddress("A phone number with an extension cannot be validated.")
    msisdn = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164).removeprefix("+")
    is_possible = phonenumbers.is_possible_number_with_reason(parsed) == phonenumbers.ValidationResult.IS_POSSIBLE
    # Of some countries the library knows longer ones, which are dialled within them only.
    if not is_possible or len(msisdn) > MAX_MSISDN:
        raise InvalidAddress("This is not a valid phone number.")
    return PhoneNumber(
        msisdn=msisdn,
        international=phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.INTERNATIONAL),
        calling_code=str(parsed.country_code),
    )
