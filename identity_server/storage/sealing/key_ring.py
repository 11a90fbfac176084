"""The root keys: the one that seals, another while one takes the other's place, and what is kept of earlier ones.

The rule: whoever looks for something by a blind or a keyed digest looks for it under every key of the ring, so that
nothing is overlooked and nothing is stored twice while rows of two keys stand side by side.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from argon2.low_level import Type, hash_secret_raw

ROOT_KEY_BYTES = 32
_DERIVED_BYTES = 32
# What deriving a root key costs: once per start, so it may take a second and 256 MiB.
_PASSPHRASE_MEMORY_KIB = 256 * 1024
_PASSPHRASE_PASSES = 4
_KEY_ID_CHARACTERS = 8


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
        return key_id_of(self.fingerprint)

    @property
    def digest_keys(self) -> DigestKeys:
        """What is kept of it when another key has taken its place."""
        return DigestKeys(
            key_id=self.key_id,
            digests=self.derive("digests"),
            audit=self.derive("audit"),
            codes=self.derive("codes of text messages"),
        )


def key_id_of(fingerprint: str) -> str:
    """The short name of the key that has this fingerprint."""
    return fingerprint[:_KEY_ID_CHARACTERS]


@dataclass(frozen=True, slots=True, repr=False)
class DigestKeys:
    """Keys of digests that can't be made anew under another root key, because what they stand for isn't kept.

    They outlive their root key and open nothing: whoever has them can only compare.

    Attributes:
        key_id: of the root key that they are derived from.
        digests: of client secrets, refused addresses, limits.
        audit: of commitments in the audit journal.
        codes: of codes that were texted.
    """

    key_id: str
    digests: bytes
    audit: bytes
    codes: bytes


@dataclass(frozen=True, slots=True, repr=False)
class KeyRing:
    """Every key that something in the database hangs on.

    Attributes:
        sealing: seals and blinds what is written.
        others: what is there may still be sealed by these: one key at most, while another takes its place.
        retired: what was kept of keys that nothing is sealed by any more.
    """

    sealing: RootKey
    others: tuple[RootKey, ...] = ()
    retired: tuple[DigestKeys, ...] = ()

    @property
    def live(self) -> tuple[RootKey, ...]:
        """The root keys, the one that seals first."""
        return self.sealing, *self.others

    @property
    def digest_keys(self) -> tuple[DigestKeys, ...]:
        """Those of all keys, the newest first."""
        return *(key.digest_keys for key in self.live), *self.retired

    @property
    def code_keys(self) -> Mapping[str, bytes]:
        """By key id, what codes were hashed under; the first is for new ones."""
        return {keys.key_id: keys.codes for keys in self.digest_keys}
