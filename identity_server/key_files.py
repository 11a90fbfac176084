"""The two secrets that live outside the database: where they come from, and that they are the right ones.

The rule: a key is made only for a database that knows none. Afterwards a missing or different key is refused,
because going on would make everything sealed unreadable or give the server another identity.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from identity_server.domain.ports import Randomness
from identity_server.domain.signing import SigningKey
from identity_server.storage.key_ring import ROOT_KEY_BYTES, KeyRing, RootKey
from identity_server.storage.server_keys import KnownKey

_log = structlog.get_logger(__name__)

ROOT = "root"
SIGNING = "signing"
_SALT_BYTES = 16
_IN_CONF = "ed25519.signingkey"
_OTHERS_MAY_READ = 0o077


class KeyProblem(Exception):
    """A key is missing or isn't the right one; the text says which and where it is expected."""


@dataclass(frozen=True, slots=True)
class KeySources:
    """What the configuration says about keys.

    Attributes:
        directory: where key files are.
        signing_text, root_text, root_passphrase: keys given in the configuration itself.
    """

    server_name: str
    directory: Path
    signing_text: str | None = field(default=None, repr=False)
    root_text: str | None = field(default=None, repr=False)
    root_passphrase: str | None = field(default=None, repr=False)

    @property
    def signing_file(self) -> Path:
        """Where the signing key is, unless the configuration holds it."""
        return self.directory / "signing.key"

    @property
    def root_file(self) -> Path:
        """Where the root key is, unless the configuration holds it."""
        return self.directory / "root.key"


@dataclass(frozen=True, slots=True)
class Keys:
    """Both keys, and what the database is to remember of them."""

    root: KeyRing
    signing: SigningKey
    new: list[KnownKey]


def find_signing_key(sources: KeySources) -> SigningKey | None:
    """The signing key as it is, for whoever must not make one; None if there is none yet.

    Raises:
        KeyProblem: it can't be read.
    """
    text, origin = sources.signing_text, _IN_CONF
    if text is None:
        if not sources.signing_file.exists():
            return None
        text = _read_or_make(sources.signing_file, "", title="signing key", may_make=False)
        origin = str(sources.signing_file)
    return _parse_signing_key(text, origin, sources.server_name)


def load_keys(sources: KeySources, known: dict[str, KnownKey], *, randomness: Randomness) -> Keys:
    """Load both keys; make missing ones if the database is new.

    Raises:
        KeyProblem: a key is missing, can't be read, or isn't the one that the database was made with.
    """
    root, salt = _root_key(sources, known.get(ROOT), randomness)
    signing = _signing_key(sources, known.get(SIGNING), randomness)
    found = (
        (KnownKey(ROOT, root.fingerprint, salt), "root key", sources.root_file),
        (KnownKey(SIGNING, _fingerprint_of(signing), None), "signing key", sources.signing_file),
    )
    for key, title, file in found:
        expected = known.get(key.name)
        if expected is not None and expected.fingerprint != key.fingerprint:
            raise KeyProblem(
                f"this is not the {title} that the database was made with (its fingerprint begins with"
                f" {expected.fingerprint[:8]}, not {key.fingerprint[:8]}); it is expected in {file},"
                " or in the configuration's [crypto] section"
            )
    return Keys(root=KeyRing(root), signing=signing, new=[key for key, _, _ in found if key.name not in known])


def _root_key(sources: KeySources, known: KnownKey | None, randomness: Randomness) -> tuple[RootKey, bytes | None]:
    if sources.root_text is not None:
        return RootKey.parse(sources.root_text), None
    if sources.root_passphrase is not None:
        salt = known.salt if known is not None else None
        salt = salt or randomness.token_bytes(_SALT_BYTES)
        return RootKey.from_passphrase(sources.root_passphrase, salt=salt), salt
    fresh = RootKey(randomness.token_bytes(ROOT_KEY_BYTES)).to_text()
    text = _read_or_make(sources.root_file, fresh, title="root key", may_make=known is None)
    try:
        return RootKey.parse(text), None
    except ValueError as error:
        raise KeyProblem(f"{sources.root_file}: {error}") from None


def _signing_key(sources: KeySources, known: KnownKey | None, randomness: Randomness) -> SigningKey:
    text, origin = sources.signing_text, _IN_CONF
    if text is None:
        fresh = SigningKey.text_from_seed(randomness.token_bytes(ROOT_KEY_BYTES))
        text = _read_or_make(sources.signing_file, fresh, title="signing key", may_make=known is None)
        origin = str(sources.signing_file)
    return _parse_signing_key(text, origin, sources.server_name)


def _parse_signing_key(text: str, origin: str, server_name: str) -> SigningKey:
    try:
        return SigningKey.parse(text, server_name=server_name)
    except ValueError as error:
        raise KeyProblem(f"{origin}: {error}") from None


def _read_or_make(file: Path, fresh: str, *, title: str, may_make: bool) -> str:
    try:
        text = file.read_text("ascii")
    except FileNotFoundError:
        if not may_make:
            raise KeyProblem(
                f"the {title} of this database is missing: it is expected in {file}. Restore it from your copy;"
                " nothing else can stand in for it."
            ) from None
        _write_secret(file, fresh)
        _log.warning("key.made", title=title, file=str(file), advice="keep a copy apart from the database's")
        return fresh
    except (OSError, UnicodeDecodeError) as error:
        raise KeyProblem(f"the {title} in {file} can't be read: {type(error).__name__}") from None
    if file.stat().st_mode & _OTHERS_MAY_READ:
        _log.warning("key.readable_by_others", file=str(file), advice=f"chmod 600 {file}")
    return text


def _write_secret(file: Path, text: str) -> None:
    """Write a file that wasn't there; it lasts before the database is told of the key."""
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as handle:
            handle.write(text + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        # The file's name is in the folder, which a power cut would otherwise forget.
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyProblem(f"no key can be written to {file}: {error.strerror}") from None


def _fingerprint_of(signing: SigningKey) -> str:
    return hashlib.sha256(f"{signing.key_id} {signing.public_key}".encode()).hexdigest()
