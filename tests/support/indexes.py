"""A read index over a database, without a server around it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson

from identity_server.domain.hashing import Pepper, encode_digest, hash_threepid
from identity_server.domain.identifiers import UserId
from identity_server.domain.written_hashes import WrittenHashes
from identity_server.index.building import INDEX_FILE, IndexBuilder
from identity_server.index.keys import LookupKeys
from identity_server.index.read_index import ReadIndex
from identity_server.storage.database import Database
from identity_server.storage.sealing.key_ring import RootKey
from tests.support import make
from tests.support.databases import ROOT_KEY
from tests.support.fakes import START_MS, FakeClock

NOW = START_MS + 1


def new_builder(
    database: Database, folder: Path, *, root_key: RootKey = ROOT_KEY, after_hours: float = 1
) -> IndexBuilder:
    """Makes the file of a folder.

    Args:
        after_hours: how long ago the tests have changed what they have; an hour, as whenever the feed is trimmed.
    """
    keys = LookupKeys(root_key)
    clock = FakeClock()
    clock.advance(hours=after_hours)
    return IndexBuilder(database=database, clock=clock, keys=keys, folder=folder, offers_plain=True)


def new_index(database: Database, folder: Path, *, root_key: RootKey = ROOT_KEY, after_hours: float = 1) -> ReadIndex:
    """An index over the file of a folder, which follows the database."""
    build = new_builder(database, folder, root_key=root_key, after_hours=after_hours).build
    keys = LookupKeys(root_key)
    index = ReadIndex(database=database, keys=lambda: keys, path=folder / INDEX_FILE, build=build, offers_plain=True)
    database.follow(index.catch_up)
    return index


def query(address: str, pepper: Pepper) -> str:
    """What a client sends."""
    return encode_digest(hash_threepid(make.email(address), pepper.value))


def find_all(
    index: ReadIndex,
    addresses: Sequence[str],
    *,
    pepper: Pepper | None = None,
    asker: str | None = None,
    now_ms: int = NOW,
) -> dict[str, str | None]:
    """Who is behind addresses: by the newest pepper unless told otherwise, and by each of the ways to ask."""
    who = None if asker is None else UserId(asker)
    pepper = pepper or index.newest_pepper
    queries = {query(address, pepper): address for address in addresses}
    answers, read = index.answers, index.answers.keys.read
    each = {
        one: orjson.loads(answers.find(pepper, read([one]), asker=who, now_ms=now_ms).to_json()).get(one)
        for one in queries
    }
    # So many that they are looked at all at once; what nobody is behind doesn't matter.
    many = [*queries, *(query(f"nobody{number}@example.com", pepper) for number in range(20))]
    written = WrittenHashes.read(orjson.dumps(many))
    assert written is not None
    for hashes in read(many), read(written):
        at_once = answers.find(pepper, hashes, asker=who, now_ms=now_ms)
        assert orjson.loads(at_once.to_json()) == {one: user for one, user in each.items() if user is not None}
        assert len(at_once) == len(orjson.loads(at_once.to_json()))
    plain = {address: answers.find_plain(make.email(address), asker=who, now_ms=now_ms) for address in addresses}
    assert plain == {queries[one]: user for one, user in each.items()}
    return dict(plain)


def find(index: ReadIndex, address: str = "alice@example.com", *, now_ms: int = NOW) -> str | None:
    """Who is behind one address."""
    return find_all(index, [address], now_ms=now_ms)[address]
