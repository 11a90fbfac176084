"""Signatures that others made on JSON (appendices, "Signing JSON" and "Canonical JSON").

The rule: what two programs could write in two ways is refused before any signature on it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import signedjson.key
import signedjson.sign

ALGORITHM_PREFIX: Final = "ed25519:"
"""How the ids of all keys begin that can be used here."""

_LARGEST_INTEGER = 2**53 - 1
_MAX_DEPTH = 64


class NotCanonical(ValueError):
    """The value has no canonical form: a fraction, a number out of range, or too many levels."""


def require_canonical(value: Any) -> None:
    """Check that a value read from JSON has one canonical form.

    Raises:
        NotCanonical: it has none, or is nested deeper than anything in the specification.
    """
    level = [value]
    for _ in range(_MAX_DEPTH):
        if not level:
            return
        level = [child for each in level for child in _children(each)]
    raise NotCanonical("it is nested too deeply")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list):
        return value
    if isinstance(value, float):
        raise NotCanonical("it holds a number that is no integer, or too large for one")
    if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
        raise NotCanonical("it holds an integer out of range")
    return []


def is_signed(message: Mapping[str, Any], *, name: str, key_id: str, public_key: bytes) -> bool:
    """Whether `message["signatures"][name][key_id]` is this key's signature on the rest of the message.

    Args:
        message: canonical (`require_canonical`), and its signatures are of the specified shape.
        name: who is said to have signed.
        key_id: begins with `ALGORITHM_PREFIX`.
        public_key: the 32 bytes of the key.
    """
    key = signedjson.key.decode_verify_key_bytes(key_id, public_key)
    try:
        signedjson.sign.verify_signed_json(dict(message), name, key)
    except (signedjson.sign.SignatureVerifyException, UnicodeEncodeError):
        # Half a character, as bytes that aren't UTF-8 leave it in a string, can't have been signed by anyone.
        return False
    return True
