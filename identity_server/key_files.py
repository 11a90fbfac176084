"""The secrets that live outside the database: where they come from, and that they are the right ones.

The rule: a key is made only for a database that knows none, or by whoever replaces the root key. Otherwise a missing or
different key is refused, because going on would make everything sealed unreadable or give the server another identity.

A root key is known by its fingerprint, never by the name of its file, so that none has to be renamed while one key takes
another's place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from identity_server.domain.ports import Randomness
from identity_server.domain.signing import SigningKey
from identity_server.storage.sealing.key_ring import ROOT_KEY_BYTES, KeyRing, RootKey, key_id_of
from identity_server.storage.sealing.server_keys import (
    FORMER_ROOT,
    NEXT_ROOT,
    ROOT,
    SIGNING,
    KeyState,
    KnownKey,
)

_log = structlog.get_logger(__name__)

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
        next_root_text, next_root_passphrase: the same of the root key that takes that one's place.
    """

    server_name: str
    directory: Path
    signing_text: str | None = field(default=None, repr=False)
    root_text: str | None = field(default=None, repr=False)
    root_passphrase: str | None = field(default=None, repr=False)
    next_root_text: str | None = field(default=None, repr=False)
    next_root_passphrase: str | None = field(default=None, repr=False)

    @property
    def signing_file(self) -> Path:
        """Where the signing key is, unless the configuration holds it."""
        return self.directory / "signing.key"

    @property
    def root_file(self) -> Path:
        """Where the first root key is, unless the configuration holds it."""
        return self.directory / "root.key"

    def later_root_file(self, key_id: str) -> Path:
        """Where a root key is that has taken another's place, unless the configuration holds it."""
        return self.directory / f"root-{key_id}.key"

    @property
    def root_files(self) -> list[Path]:
        """All files in which a root key may be, in use or not; the first one whether it is there or not."""
        return [self.root_file, *sorted(self.directory.glob("root-*.key"))]


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


def load_keys(
    sources: KeySources,
    state: KeyState,
    *,
    randomness: Randomness,
    next_may_be_missing: bool = False,
    may_make: bool = True,
) -> Keys:
    """Load all keys; make missing ones if the database is new.

    Args:
        sources: where they are.
        state: what the database knows of them.
        randomness: what new ones are made of.
        next_may_be_missing: is for who gives the next root key up.
        may_make: whether the database may be new.

    Raises:
        KeyProblem: a key is missing, can't be read, or isn't the one that the database was made with.
    """
    known, new = state.known, []
    if not may_make and not {ROOT, SIGNING} <= known.keys():
        raise KeyProblem(
            "the database knows of no keys, and only a server that is started makes some: if it should, look for the"
            " right database; else restart the server"
        )
    if ROOT in known:
        ring = find_root_keys(sources, state, next_may_be_missing=next_may_be_missing)
    else:
        root, salt = _first_root_key(sources, randomness)
        ring = KeyRing(root)
        new.append(KnownKey(ROOT, root.fingerprint, salt))
    signing = _signing_key(sources, known.get(SIGNING), randomness)
    fingerprint = _fingerprint_of(signing)
    if SIGNING not in known:
        new.append(KnownKey(SIGNING, fingerprint, None))
    elif known[SIGNING].fingerprint != fingerprint:
        raise KeyProblem(
            _not_the("signing key", expected=known[SIGNING].fingerprint, found=fingerprint)
            + f"; it is expected in {sources.signing_file}, or in the configuration's [crypto] section"
        )
    return Keys(root=ring, signing=signing, new=new)


def find_root_keys(sources: KeySources, state: KeyState, *, next_may_be_missing: bool = False) -> KeyRing:
    """The root keys that the database names; of those that are retired nothing is needed any more.

    Raises:
        KeyProblem: one of them isn't there.
    """
    finder = _RootKeyFinder(sources, state)
    wanted = [key for key in state.roots if not (key.name == NEXT_ROOT and next_may_be_missing)]
    sealing, *others = [finder.find(key) for key in wanted]
    return KeyRing(sealing, tuple(others))


def make_next_root_key(sources: KeySources, *, randomness: Randomness) -> tuple[RootKey, bytes | None]:
    """The root key that is to take the place of the one in use, and the salt that it is derived with.

    It is the one in the configuration, or a new one in a file of its own, which lasts before the database is told of it.

    Raises:
        KeyProblem: it can't be made.
    """
    if sources.next_root_text is not None:
        return RootKey.parse(sources.next_root_text), None
    if sources.next_root_passphrase is not None:
        salt = randomness.token_bytes(_SALT_BYTES)
        return RootKey.from_passphrase(sources.next_root_passphrase, salt=salt), salt
    if sources.root_text is not None or sources.root_passphrase is not None:
        raise KeyProblem(
            "the root key comes from the configuration, so the next one must, too: set `at_rest_next_key` in [crypto] (32"
            " bytes in base64, such as `openssl rand -base64 32` prints) or `at_rest_next_passphrase`, on every machine,"
            " and have the servers reload their configuration"
        )
    root = RootKey(randomness.token_bytes(ROOT_KEY_BYTES))
    _write_secret(sources.later_root_file(root.key_id), root.to_text())
    return root, None


def where_expected(sources: KeySources, state: KeyState, key: KnownKey) -> Path:
    """The file in which a root key is looked for that isn't in the configuration."""
    is_first = not state.retired and (key.name == FORMER_ROOT or not state.was_rotated) and key.name != NEXT_ROOT
    return sources.root_file if is_first else sources.later_root_file(key_id_of(key.fingerprint))


class _RootKeyFinder:
    """Looks for root keys by their fingerprints wherever one may be."""

    def __init__(self, sources: KeySources, state: KeyState) -> None:
        self._sources = sources
        self._state = state
        self._at_hand = [
            RootKey.parse(text) for text in (sources.root_text, sources.next_root_text) if text is not None
        ]
        self._passphrases = [
            each for each in (sources.root_passphrase, sources.next_root_passphrase) if each is not None
        ]
        self._unreadable: list[str] = []
        for file in sources.root_files:
            try:
                self._at_hand.append(RootKey.parse(_read(file, title="root key")))
            except FileNotFoundError:
                continue
            except ValueError as error:
                self._unreadable.append(f"{file}: {error}")
            except KeyProblem as problem:
                self._unreadable.append(str(problem))

    def find(self, key: KnownKey) -> RootKey:
        """The key of this fingerprint.

        Raises:
            KeyProblem: it isn't there.
        """
        for each in self._candidates(key):
            if each.fingerprint == key.fingerprint:
                return each
        raise KeyProblem(self._why(key))

    def _candidates(self, key: KnownKey) -> Iterator[RootKey]:
        yield from self._at_hand
        if key.salt is not None:
            yield from (RootKey.from_passphrase(each, salt=key.salt) for each in self._passphrases)

    def _why(self, key: KnownKey) -> str:
        file = where_expected(self._sources, self._state, key)
        expected = f"it is expected in {file}, or in the configuration's [crypto] section"
        if key.name == NEXT_ROOT:
            return (
                f"the root key is being replaced, and the next one (its fingerprint begins with"
                f" {key.fingerprint[:8]}) isn't here: {expected}. Copy it from the machine where `keys rotate-root` was"
                " run, or give it up with `keys rotate-root --cancel`."
            )
        if key.name == FORMER_ROOT:
            return (
                "the root key is being replaced, and some of the data is still sealed by the former one (its fingerprint"
                f" begins with {key.fingerprint[:8]}), which isn't here: {expected}. Restore it from your copy;"
                " `keys rotate-root` tells when it is no longer needed."
            )
        if self._unreadable:
            return self._unreadable[0]
        if not self._at_hand and not self._passphrases:
            return (
                f"the root key of this database is missing: {expected}. Restore it from your copy; nothing else can"
                " stand in for it."
            )
        return self._other_key(key, expected)

    def _other_key(self, key: KnownKey, expected: str) -> str:
        replaced = {each.id for each in self._state.retired}
        former = self._state.known.get(FORMER_ROOT)
        replaced |= set() if former is None else {key_id_of(former.fingerprint)}
        if any(each.key_id in replaced for each in self._at_hand):
            return (
                "this root key has been replaced by `keys rotate-root`: what the database holds is sealed by the one"
                f" whose fingerprint begins with {key.fingerprint[:8]}; {expected}. Copy it from the machine where that"
                " command was run. The former key opens older backups only."
            )
        found = self._at_hand[0].fingerprint if self._at_hand else None
        return f"{_not_the('root key', expected=key.fingerprint, found=found)}; {expected}"


def _not_the(title: str, *, expected: str, found: str | None) -> str:
    but_not = "" if found is None else f", not {found[:8]}"
    return f"this is not the {title} that the database was made with (its fingerprint begins with {expected[:8]}{but_not})"


def _first_root_key(sources: KeySources, randomness: Randomness) -> tuple[RootKey, bytes | None]:
    if sources.root_text is not None:
        return RootKey.parse(sources.root_text), None
    if sources.root_passphrase is not None:
        salt = randomness.token_bytes(_SALT_BYTES)
        return RootKey.from_passphrase(sources.root_passphrase, salt=salt), salt
    fresh = RootKey(randomness.token_bytes(ROOT_KEY_BYTES)).to_text()
    text = _read_or_make(sources.root_file, fresh, title="root key", may_make=True)
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
        return _read(file, title=title)
    except FileNotFoundError:
        if not may_make:
            raise KeyProblem(
                f"the {title} of this database is missing: it is expected in {file}. Restore it from your copy;"
                " nothing else can stand in for it."
            ) from None
    _write_secret(file, fresh)
    _log.warning("key.made", title=title, file=str(file), advice="keep a copy apart from the database's")
    return fresh


def _read(file: Path, *, title: str) -> str:
    try:
        text = file.read_text("ascii")
        mode = file.stat().st_mode
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise KeyProblem(f"the {title} in {file} can't be read: {type(error).__name__}") from None
    if mode & _OTHERS_MAY_READ:
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
