"""What was read before a change is never remembered after it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from identity_server.services.authentication import stamped_cache
from identity_server.services.authentication.stamped_cache import StampedCache
from identity_server.storage.stamps import Stamps, Subject


def new_cache(stamps: Stamps, *, lifetime_seconds: float | None = None) -> StampedCache[str, int]:
    return StampedCache(stamps, Subject.ACCOUNTS, lifetime_seconds=lifetime_seconds)


async def test_values_are_forgotten_with_their_stamp(tmp_path: Path) -> None:
    mine, theirs = Stamps(tmp_path / "stamps"), Stamps(tmp_path / "stamps")
    cache = new_cache(mine)
    assert cache.get("a") is None
    cache.put("a", 1, as_of=cache.as_of())
    assert cache.get("a") == 1
    theirs.renew(Subject.LOOKUPS)
    assert cache.get("a") == 1, "another subject"

    theirs.renew(Subject.ACCOUNTS)

    assert cache.get("a") is None


async def test_what_was_read_before_a_change_is_not_remembered_after_it() -> None:
    stamps = Stamps()
    cache = new_cache(stamps)
    assert cache.get("a") is None
    as_of = cache.as_of()
    stamps.renew(Subject.ACCOUNTS)

    cache.put("a", 1, as_of=as_of)
    assert cache.get("a") is None
    cache.put("a", 1, as_of=as_of)
    assert cache.get("a") is None


async def test_where_others_may_change_things_a_value_holds_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    cache = new_cache(Stamps(), lifetime_seconds=1.0)
    cache.get("a")
    cache.put("a", 1, as_of=cache.as_of())
    now = 100.9
    assert cache.get("a") == 1
    now = 101.0
    assert cache.get("a") is None


async def test_it_grows_no_larger_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamped_cache, "_SIZE", 3)
    cache = new_cache(Stamps())
    cache.get("0")
    for number in range(5):
        cache.put(str(number), number, as_of=cache.as_of())
    assert [cache.get(str(number)) for number in range(5)] == [None, None, 2, 3, 4]
