"""Seals what a thief of the database must not read, and blinds what must still be compared.

One 32-byte root key lives outside the database; every other key is derived from it under a label of its own.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass

import nacl.exceptions
from argon2.low_level import Type, hash_secret_raw
from nacl.secret import Aead

from identity_server.domain.identifiers import Threepid
from identity_server.domain.ports import Randomness

ROOT_KEY_BYTES = 32
_DERIVED_BYTES = 32
_BLIND_BYTES = 32
_SALT_BYTES = 16
COMMITMENT_BYTES = 16
# What deriving a root key costs: once per start, so it may take a second and 256 MiB.
_PASSPHRASE_MEMORY_KIB = 256 * 1024
_PASSPHRASE_PASSES = 4


class SealBroken(Exception):
    """A sealed value cannot be opened: another root key, a damaged row, or a value moved from elsewhere."""


@dataclass(frozen=True, slots=True, repr=False)
class RootKey:
    """The key that everything at rest hangs on. Losing it loses the data."""

    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != ROOT_KEY_BYTES:
            raise ValueError("a root key has 32 bytes")

    @classmethod
    def parse(cls, text: str) -> RootKey:
        """Read 32 bytes in base64, either alphabet, padded or not.

        Raises:
            ValueError: it is something else. The text is not repeated: it is a secret.
        """
        normal = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
        try:
            return cls(base64.b64decode(normal + "=" * (-len(normal) % 4), validate=True))
        except (binascii.Error, ValueError):
            raise ValueError("a root key is written as 32 bytes in base64") from None

    @classmethod
    def from_passphrase(cls, passphrase: str, *, salt: bytes) -> RootKey:
        """Derive by argon2id; takes about a second and 256 MiB."""
        return cls(
            hash_secret_raw(
                passphrase.encode(),
                salt,
                time_cost=_PASSPHRASE_PASSES,
                memory_cost=_PASSPHRASE_MEMORY_KIB,
                parallelism=1,
                hash_len=ROOT_KEY_BYTES,
                type=Type.ID,
            )
        )

    def to_text(self) -> str:
        """How it is written to its file."""
        return base64.b64encode(self.secret).decode()

    def derive(self, label: str) -> bytes:
        """A key for one use; labels are never used for two."""
        return hashlib.blake2b(label.encode(), key=self.secret, digest_size=_DERIVED_BYTES).digest()

    @property
    def fingerprint(self) -> str:
        """Names the key without giving it away."""
        return self.derive("fingerprint").hex()

    @property
    def key_id(self) -> str:
        """The short name written on sealed rows."""
        return self.fingerprint[:8]


class Sealer:
    """Seals and blinds under one root key.

    Attributes:
        key_id: names the root key on every sealed row.
    """

    def __init__(self, root_key: RootKey, *, randomness: Randomness) -> None:
        self.key_id = root_key.key_id
        self._aead = Aead(root_key.derive("seal"))
        self._blind_key = root_key.derive("blind index")
        self._digest_key = root_key.derive("digests")
        self._audit_key = root_key.derive("audit")
        self._randomness = randomness

    def seal(self, place: str, row_id: object, plaintext: str) -> bytes:
        """Encrypt a value for one place ("table.column") in one row; it can't be opened anywhere else."""
        nonce = self._randomness.token_bytes(Aead.NONCE_SIZE)
        return bytes(self._aead.encrypt(plaintext.encode(), f"{place}\0{row_id}".encode(), nonce))

    def open(self, place: str, row_id: object, key_id: str, sealed: bytes) -> str:
        """Decrypt a value of that place and row.

        Raises:
            SealBroken: it was sealed by another key, for another place, or is damaged.
        """
        if key_id != self.key_id:
            raise SealBroken(f"{place} is sealed by key {key_id}, but the root key here is {self.key_id}")
        try:
            return self._aead.decrypt(sealed, f"{place}\0{row_id}".encode()).decode()
        except nacl.exceptions.CryptoError:
            raise SealBroken(f"a value of {place} cannot be opened") from None

    def blind(self, threepid: Threepid) -> bytes:
        """Stands for an address where rows are found by equality; meaningless without the root key."""
        return self._keyed(self._blind_key, threepid.medium.value, threepid.address)

    def digest(self, purpose: str, *parts: str) -> bytes:
        """A keyed digest of something that may be guessable, such as a client's own secret."""
        return self._keyed(self._digest_key, purpose, *parts)

    def salt(self) -> bytes:
        """What makes an entry of the audit journal unlike any other."""
        return self._randomness.token_bytes(_SALT_BYTES)

    def commit(self, *parts: str) -> bytes:
        """Stands for what an entry of the audit journal says, or doesn't say readably."""
        return self._keyed(self._audit_key, *parts)[:COMMITMENT_BYTES]

    @staticmethod
    def _keyed(key: bytes, *parts: str) -> bytes:
        # No part holds a NUL (the grammars refuse it), so the joined text is unambiguous.
        return hashlib.blake2b("\0".join(parts).encode(), key=key, digest_size=_BLIND_BYTES).digest()


def token_digest(token: str) -> bytes:
    """How a token of 256 random bits is stored: nothing is gained by guessing, so a plain SHA-256 will do."""
    return hashlib.sha256(token.encode()).digest()


def same_digest(left: bytes, right: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left, right)
