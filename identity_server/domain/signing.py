"""The server's long-term signing key (appendices, "Signing JSON")."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import nacl.signing
import signedjson.key
import signedjson.sign
from unpaddedbase64 import decode_base64, encode_base64

_SEED_BYTES = 32
_HEX_SEED = re.compile(r"[0-9a-fA-F]{64}")
_KEY_LINE = re.compile(r"ed25519 ([0-9A-Za-z_]{1,64}) ([0-9A-Za-z+/_-]{43})=?")


class SigningKey:
    """An Ed25519 key with its version, and the name that it signs for.

    Attributes:
        server_name: the name under which signatures are filed.
        key_id: `ed25519:VERSION`.
    """

    def __init__(self, *, server_name: str, version: str, seed: bytes) -> None:
        self.server_name = server_name
        self.key_id = f"ed25519:{version}"
        self._key = signedjson.key.decode_signing_key_base64("ed25519", version, encode_base64(seed))

    @classmethod
    def parse(cls, text: str, *, server_name: str) -> SigningKey:
        """Read `ed25519 VERSION SEED`, or the single hex word of old Sydent installations (version 0).

        Raises:
            ValueError: it is neither. The text is not repeated: it is a secret.
        """
        words = text.strip()
        if _HEX_SEED.fullmatch(words):
            return cls(server_name=server_name, version="0", seed=bytes.fromhex(words))
        match = _KEY_LINE.fullmatch(words)
        if not match:
            raise ValueError("a signing key is written `ed25519 VERSION SEED`, the seed as 43 characters of base64")
        return cls(server_name=server_name, version=match[1], seed=decode_base64(match[2]))

    @staticmethod
    def text_from_seed(seed: bytes) -> str:
        """How a new key is written to its file."""
        if len(seed) != _SEED_BYTES:
            raise ValueError("a seed has 32 bytes")
        return f"ed25519 0 {encode_base64(seed)}"

    @property
    def public_key(self) -> str:
        """The public half in unpadded standard base64."""
        return str(encode_base64(bytes(self._verify_key)))

    @property
    def _verify_key(self) -> nacl.signing.VerifyKey:
        verify_key = self._key.verify_key
        assert isinstance(verify_key, nacl.signing.VerifyKey)
        return verify_key

    def sign(self, message: dict[str, Any]) -> dict[str, Any]:
        """A copy of the message with this key's signature added."""
        signed: dict[str, Any] = signedjson.sign.sign_json(dict(message), self.server_name, self._key)
        return signed

    def has_signed(self, message: Mapping[str, Any]) -> bool:
        """Whether this key, and nobody else, has signed exactly this message."""
        bare = {name: value for name, value in message.items() if name != "signatures"}
        try:
            # Ed25519 signs the same text in the same way each time.
            return self.sign(bare) == message
        except (TypeError, ValueError):
            # It has no canonical form.
            return False

    def is_public_key(self, text: str) -> bool:
        """Whether `text` is this key's public half, in either alphabet, padded or not."""
        return decode_public_key(text) == bytes(self._verify_key)


def decode_public_key(text: str) -> bytes | None:
    """The 32 bytes of a public key written in either base64 alphabet, or None if it isn't one.

    A space counts as `+`: that is what becomes of a plus sign that was not percent-encoded in a query.
    """
    try:
        key: bytes = decode_base64(text.replace(" ", "+").replace("-", "+").replace("_", "/").rstrip("="))
    except ValueError:
        return None
    return key if len(key) == _SEED_BYTES else None
