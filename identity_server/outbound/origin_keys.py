"""The keys that homeservers publish for their signatures (`domain.ports.OriginKeys`).

The rule: a homeserver speaks for itself only. Its keys count if it signed the list of them under its own name,
and for as long as it says, but never longer than a week; nobody else is asked for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol

import orjson
from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from identity_server.domain.durations import DAY_MS, MINUTE_MS
from identity_server.domain.errors import HomeserverMisbehaved, HomeserverStep, HomeserverUnreachable
from identity_server.domain.identifiers import ServerName
from identity_server.domain.ports import Clock
from identity_server.domain.signatures import ALGORITHM_PREFIX, NotCanonical, is_signed, require_canonical
from identity_server.domain.signing import decode_public_key
from identity_server.outbound.https import Answer
from identity_server.outbound.single_flight import FetchAbandoned, Fetched, SingleFlightCache

KEYS_PATH: Final = "/_matrix/key/v2/server"
_MAX_BYTES = 256 * 1024
_MAX_LIFETIME_MS = 7 * DAY_MS
_REFETCH_MS = MINUTE_MS
_CAPACITY = 10_000
# A homeserver has one key, two while it changes them. The bounds keep the cache small whatever strangers publish.
_MAX_KEYS = 20
_MAX_KEY_ID = 128


class Federation(Protocol):
    """The part of `outbound.federation.Federation` that is needed here."""

    async def request(self, server_name: ServerName, method: str, path: str, *, max_bytes: int) -> Answer:
        """Send one request; the answer may have any status and any body.

        Raises:
            HomeserverUnreachable, HomeserverMisbehaved: as they say.
        """


class _VerifyKey(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    key: str


class _OldVerifyKey(_VerifyKey):
    expired_ts: int


class _ServerKeys(BaseModel):
    """The answer (server-server API, "Publishing Keys")."""

    model_config = ConfigDict(strict=True, extra="ignore", hide_input_in_errors=True)

    server_name: str
    valid_until_ts: int
    verify_keys: dict[str, _VerifyKey]
    old_verify_keys: dict[str, _OldVerifyKey] = Field(default_factory=dict)
    signatures: dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class _Key:
    public_key: bytes
    valid_until_ms: int


_Keys = Mapping[str, _Key]


class PublishedKeys:
    """Fetches, checks and keeps the keys of homeservers."""

    def __init__(self, *, federation: Federation, clock: Clock) -> None:
        self._federation = federation
        self._clock = clock
        self._cache: SingleFlightCache[ServerName, _Keys] = SingleFlightCache(
            self._fetch, clock=clock, capacity=_CAPACITY
        )
        self._asked_at_ms: LRUCache[ServerName, int] = LRUCache(_CAPACITY)

    def known(self, origin: ServerName, key_id: str) -> bytes | None:
        """A key that the homeserver has published and that is valid now, as far as is known without asking."""
        return self._valid(self._cache.peek(origin), key_id)

    async def find(self, origin: ServerName, key_id: str) -> bytes | None:
        """A key that the homeserver publishes and that is valid now; None if it publishes none with this id.

        A homeserver whose keys are known is asked for further ones at most once a minute.

        Raises:
            HomeserverUnreachable: it could not be asked, or it says that it can't answer now (429, 5xx).
            HomeserverMisbehaved: its answer is not what the specification says, or its keys are out of date.
        """
        keys = self._cache.peek(origin)
        if self._valid(keys, key_id) is None and (keys is None or self._may_ask_again(origin)):
            try:
                keys = await self._cache.refresh(origin)
            except FetchAbandoned:
                raise _unreachable(origin, HomeserverStep.FIND, "this server is stopping") from None
        return self._valid(keys, key_id)

    async def close(self) -> None:
        """End what is under way."""
        await self._cache.close()

    def _may_ask_again(self, origin: ServerName) -> bool:
        return self._clock.now_ms() - self._asked_at_ms.get(origin, 0) >= _REFETCH_MS

    def _valid(self, keys: _Keys | None, key_id: str) -> bytes | None:
        key = None if keys is None else keys.get(key_id)
        return None if key is None or key.valid_until_ms <= self._clock.now_ms() else key.public_key

    async def _fetch(self, origin: ServerName) -> Fetched[_Keys]:
        self._asked_at_ms[origin] = self._clock.now_ms()
        answer = await self._federation.request(origin, "GET", KEYS_PATH, max_bytes=_MAX_BYTES)
        if answer.status == HTTPStatus.TOO_MANY_REQUESTS or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise _unreachable(origin, HomeserverStep.STATUS, f"it answered with HTTP status {answer.status}")
        if answer.status != HTTPStatus.OK:
            raise _misbehaved(origin, HomeserverStep.STATUS, f"HTTP status {answer.status}")
        published = _read(origin, answer.body)
        now_ms = self._clock.now_ms()
        valid_until_ms = min(published.valid_until_ts, now_ms + _MAX_LIFETIME_MS)
        if valid_until_ms <= now_ms:
            raise _misbehaved(origin, HomeserverStep.CONTENT, "they are out of date by its own word")
        keys = _usable(published, now_ms=now_ms, valid_until_ms=valid_until_ms)
        if len(keys) > _MAX_KEYS:
            raise _misbehaved(origin, HomeserverStep.CONTENT, "they are too many")
        return Fetched(keys, lifetime_ms=valid_until_ms - now_ms)


def _read(origin: ServerName, body: bytes) -> _ServerKeys:
    """The homeserver's list, once it is sure that the homeserver made it.

    Raises:
        HomeserverMisbehaved: it is of another shape, of another server, or not signed by one of its keys.
    """
    try:
        content = orjson.loads(body)
        published = _ServerKeys.model_validate(content)
        require_canonical(content)
    except (orjson.JSONDecodeError, ValidationError, NotCanonical):
        raise _misbehaved(origin, HomeserverStep.CONTENT, "they are not in the specified form") from None
    if published.server_name != origin:
        raise _misbehaved(origin, HomeserverStep.CONTENT, "they are those of another server")
    if not _is_signed_by_itself(published, content):
        raise _misbehaved(origin, HomeserverStep.CONTENT, "they are not signed by one of them")
    return published


def _is_signed_by_itself(published: _ServerKeys, content: Mapping[str, Any]) -> bool:
    name = published.server_name
    current = _decoded(published.verify_keys)
    return any(
        is_signed(content, name=name, key_id=key_id, public_key=current[key_id])
        for key_id in published.signatures.get(name, {})
        if key_id in current
    )


def _usable(published: _ServerKeys, *, now_ms: int, valid_until_ms: int) -> _Keys:
    """The keys that may have signed something now.

    An old key is good for what was signed before `expired_ts`, and a request is signed when it is made.
    """
    keys = {
        key_id: _Key(public_key, min(published.old_verify_keys[key_id].expired_ts, valid_until_ms))
        for key_id, public_key in _decoded(published.old_verify_keys).items()
        if published.old_verify_keys[key_id].expired_ts > now_ms
    }
    current = _decoded(published.verify_keys)
    return keys | {key_id: _Key(public_key, valid_until_ms) for key_id, public_key in current.items()}


def _decoded(keys: Mapping[str, _VerifyKey]) -> dict[str, bytes]:
    """The ed25519 keys by id; other algorithms may come, and aren't used here."""
    decoded = ((key_id, decode_public_key(key.key)) for key_id, key in keys.items() if _is_key_id(key_id))
    return {key_id: public_key for key_id, public_key in decoded if public_key is not None}


def _is_key_id(key_id: str) -> bool:
    return key_id.startswith(ALGORITHM_PREFIX) and len(key_id) <= _MAX_KEY_ID


def _unreachable(origin: ServerName, step: HomeserverStep, why: str) -> HomeserverUnreachable:
    return HomeserverUnreachable(f"The signing keys of {origin} could not be fetched: {why}.", step=step)


def _misbehaved(origin: ServerName, step: HomeserverStep, why: str) -> HomeserverMisbehaved:
    return HomeserverMisbehaved(f"The signing keys of {origin} cannot be used: {why}.", step=step)
