"""Seals what a thief of the database must not read, and blinds what must still be compared.

Every key is derived from a root key that lives outside the database, under a label of its own (key_ring.py).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection
from typing import Any, Protocol

import nacl.exceptions
from nacl.secret import Aead
from sqlalchemy import ColumnElement, bindparam

from identity_server.domain.identifiers import Threepid
from identity_server.domain.ports import Randomness
from identity_server.storage.sealing.key_ring import KeyRing

_BLIND_BYTES = 32
_SALT_BYTES = 16
COMMITMENT_BYTES = 16


class SealBroken(Exception):
    """A sealed value cannot be opened: another root key, a damaged row, or a value moved from elsewhere."""


class Sealer:
    """Seals and blinds under the newest key of a ring; opens, finds and compares under all of them.

    Attributes:
        key_id: names the root key on every row that is sealed now.
        key_ids: of every root key that rows may be sealed by, that one first.
    """

    def __init__(self, ring: KeyRing, *, randomness: Randomness) -> None:
        self.key_id = ring.sealing.key_id
        self.key_ids = tuple(key.key_id for key in ring.live)
        self._aeads = {key.key_id: Aead(key.derive("seal")) for key in ring.live}
        self._blind_keys = [key.derive("blind index") for key in ring.live]
        self._digest_keys = [keys.digests for keys in ring.digest_keys]
        self._audit_keys = {keys.key_id: keys.audit for keys in ring.digest_keys}
        self._randomness = randomness

    # --- sealing --------------------------------------------------------------------------

    def seal(self, place: str, row_id: object, plaintext: str) -> bytes:
        """Encrypt a value for one place ("table.column") in one row; it can't be opened anywhere else."""
        return self.seal_bytes(place, row_id, plaintext.encode())

    def seal_bytes(self, place: str, row_id: object, content: bytes) -> bytes:
        """Encrypt what is no text, as `seal` does."""
        nonce = self._randomness.token_bytes(Aead.NONCE_SIZE)
        return bytes(self._aeads[self.key_id].encrypt(content, _bound_to(place, row_id), nonce))

    def open(self, place: str, row_id: object, key_id: str, sealed: bytes) -> str:
        """Decrypt a value of that place and row.

        Raises:
            SealBroken: it was sealed by another key, for another place, or is damaged.
        """
        return self.open_bytes(place, row_id, key_id, sealed).decode()

    def open_bytes(self, place: str, row_id: object, key_id: str, sealed: bytes) -> bytes:
        """Decrypt what is no text, as `open` does.

        Raises:
            SealBroken: as `open`.
        """
        aead = self._aeads.get(key_id)
        if aead is None:
            raise SealBroken(f"{place} is sealed by key {key_id}, but the root key here is {self.key_id}")
        try:
            return bytes(aead.decrypt(sealed, _bound_to(place, row_id)))
        except nacl.exceptions.CryptoError:
            raise SealBroken(f"a value of {place} cannot be opened") from None

    # --- comparing ------------------------------------------------------------------------

    def blind(self, threepid: Threepid) -> bytes:
        """Stands for an address where rows are found by equality; meaningless without the root key."""
        return _blinded(self._blind_keys[0], threepid)

    def blinds(self, threepid: Threepid) -> list[bytes]:
        """What may stand for an address in rows that are there, the newest key's first."""
        return [_blinded(key, threepid) for key in self._blind_keys]

    def is_blind_of(self, column: ColumnElement[Any], threepid: Threepid) -> ColumnElement[bool]:
        """That a column holds what stands for this address."""
        return is_one_of(column, self.blinds(threepid))

    def digest(self, purpose: str, *parts: str) -> bytes:
        """A keyed digest of something that may be guessable, such as a client's own secret."""
        return _keyed(self._digest_keys[0], purpose, *parts)

    def digests(self, purpose: str, *parts: str) -> list[bytes]:
        """What `digest` may have said when rows were written that are there, the newest key's first."""
        return [_keyed(key, purpose, *parts) for key in self._digest_keys]

    def is_digest_of(self, column: ColumnElement[Any], purpose: str, *parts: str) -> ColumnElement[bool]:
        """That a column holds a digest of this."""
        return is_one_of(column, self.digests(purpose, *parts))

    # --- the audit journal ----------------------------------------------------------------

    def salt(self) -> bytes:
        """What makes an entry of the audit journal unlike any other."""
        return self._randomness.token_bytes(_SALT_BYTES)

    def can_commit(self, key_id: str) -> bool:
        """Whether that key is known, be it that it only was one once."""
        return key_id in self._audit_keys

    def commit(self, key_id: str, *parts: str) -> bytes:
        """Stands for what an entry of the audit journal says, or doesn't say readably, under a key that is known."""
        return _keyed(self._audit_keys[key_id], *parts)[:COMMITMENT_BYTES]


class LiveKeys:
    """What this process knows of the root keys now; replaced as a whole while one takes the other's place.

    Attributes:
        ring: the keys.
        sealer: works with them.
        randomness: what it draws from.
    """

    def __init__(self, ring: KeyRing, *, randomness: Randomness) -> None:
        self.randomness = randomness
        self.replace(ring)

    def replace(self, ring: KeyRing) -> None:
        """Go on with other keys; who has begun with the former ones ends with them."""
        self.ring = ring
        self.sealer = Sealer(ring, randomness=self.randomness)


class KeyGuard(Protocol):
    """Makes sure that no other process may be using a root key that is unknown to this one.

    Attributes:
        holds: whether that is known to be so still.
    """

    @property
    def holds(self) -> bool: ...

    async def hold(self) -> None:
        """Make sure of it.

        Raises:
            Unavailable: one may be.
        """


class _NoOtherKeys:
    holds = True

    async def hold(self) -> None:
        return


NO_OTHER_KEYS: KeyGuard = _NoOtherKeys()
"""For a database whose root key nobody replaces."""


def is_one_of(column: ColumnElement[Any], digests: Collection[bytes]) -> ColumnElement[bool]:
    """That a column holds one of these; as simple as can be where there is but one."""
    return column.in_(digests) if len(digests) != 1 else column == next(iter(digests))


def is_among(column: ColumnElement[Any], parameter: str) -> ColumnElement[bool]:
    """As `is_one_of`, for a statement that is built once: of the values that this parameter will have."""
    return column.in_(bindparam(parameter))


def _blinded(key: bytes, threepid: Threepid) -> bytes:
    return _keyed(key, *threepid.parts)


def _keyed(key: bytes, *parts: str) -> bytes:
    # No part holds a NUL (the grammars refuse it), so the joined text is unambiguous.
    return hashlib.blake2b("\0".join(parts).encode(), key=key, digest_size=_BLIND_BYTES).digest()


def _bound_to(place: str, row_id: object) -> bytes:
    return f"{place}\0{row_id}".encode()


def token_digest(token: str) -> bytes:
    """How a token of 256 random bits is stored: nothing is gained by guessing, so a plain SHA-256 will do."""
    return hashlib.sha256(token.encode()).digest()


def same_digest(left: bytes, right: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left, right)
