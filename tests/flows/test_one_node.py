"""Two workers of one node are as one to whoever asks: what one has done, the other knows by its next answer."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from identity_server.storage.database import Database
from identity_server.storage.stamps import Subject
from identity_server.wiring import index as index_wiring
from tests.support.harness import ALICE, Fakes, Harness, User, running

TERMS = """
master_version: "1"
docs:
  terms:
    version: "1.0"
    langs:
      en: {name: "Terms", url: "https://example.org/terms"}
"""
_URL = "https://example.org/terms"


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[tuple[Harness, Harness]]:
    file = tmp_path / "terms.yaml"
    file.write_text(TERMS)
    settings = {"GENERAL__TERMS_PATH": str(file)}
    first = Fakes()
    second = first.beside()
    async with (
        running(tmp_path, settings=settings, fakes=first) as one,
        running(tmp_path, settings=settings, fakes=second) as other,
    ):
        yield one, other


@pytest.fixture
async def alice(workers: tuple[Harness, Harness]) -> User:
    one, _ = workers
    alice = await one.register(ALICE)
    await one.post("terms", {"user_accepts": [_URL]}, as_=alice)
    return alice


async def test_bindings_are_seen_by_the_next_lookup_of_any_worker(
    workers: tuple[Harness, Harness], alice: User
) -> None:
    for number in range(10):
        here, there = workers if number % 2 else workers[::-1]
        address = f"alice{number}@example.com"
        # So much later that mails may be asked for again.
        here.clock.advance(hours=1)
        sid = await here.bound(alice, address, secret=f"secret{number}")
        assert await there.find(alice, address) == ALICE
        body = {
            "mxid": ALICE,
            "sid": sid,
            "client_secret": f"secret{number}",
            "threepid": {"medium": "email", "address": address},
        }
        assert (await there.post("3pid/unbind", body)).status == 200
        assert await here.find(alice, address) is None


async def test_logout_is_known_everywhere_at_once(workers: tuple[Harness, Harness], alice: User) -> None:
    one, _ = workers
    for worker in workers:
        assert (await worker.get("account", as_=alice)).status == 200

    await one.post("account/logout", {}, as_=alice)

    for worker in workers:
        assert (await worker.get("account", as_=alice)).errcode == "M_UNAUTHORIZED"


async def test_consent_is_known_everywhere_at_once(workers: tuple[Harness, Harness]) -> None:
    one, _ = workers
    bob = await one.register("@bob:example.org")
    for worker in workers:
        assert (await worker.get("account", as_=bob)).errcode == "M_TERMS_NOT_SIGNED"

    await one.post("terms", {"user_accepts": [_URL]}, as_=bob)

    for worker in workers:
        assert (await worker.get("account", as_=bob)).status == 200


async def test_token_that_another_worker_saw_used_does_not_die_of_disuse(
    workers: tuple[Harness, Harness], alice: User
) -> None:
    one, other = workers
    assert (await other.get("account", as_=alice)).status == 200
    for _ in range(7):
        one.clock.advance(days=10)
        assert (await one.get("account", as_=alice)).status == 200
        await one.system.services.accounts.record_token_uses()

    assert (await other.get("account", as_=alice)).status == 200


async def test_known_tokens_cost_no_query(
    workers: tuple[Harness, Harness], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = workers
    await one.get("account", as_=alice)
    await one.lookup(alice, "nobody@example.com")

    async def no_reading(_database: Database, _use_case: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Database, "read", no_reading)
    assert (await one.get("account", as_=alice)).status == 200
    assert (await one.lookup(alice, "nobody@example.com")).json == {"mappings": {}}


async def test_new_pepper_is_honoured_by_all_as_soon_as_one_gives_it_out(
    workers: tuple[Harness, Harness], alice: User
) -> None:
    one, other = workers
    await one.bound(alice, "alice@example.com")
    before = await one.pepper(alice)
    await other.system.services.peppers.rotate()
    for worker in workers:
        await worker.take_pepper_into_use()
    after = await one.pepper(alice)
    assert after != before
    for pepper in (before, after):
        for worker in workers:
            found = (await worker.lookup(alice, "alice@example.com", pepper=pepper)).json["mappings"]
            assert list(found.values()) == [ALICE]


async def test_pepper_that_only_one_worker_knows_is_answered_for_by_all(
    workers: tuple[Harness, Harness], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there before everybody is told of it, and one may have looked without having been told."""
    one, other = workers
    await one.bound(alice, "alice@example.com")
    await other.find(alice, "alice@example.com")
    monkeypatch.setattr(
        other.system.database.stamps, "read", partial(_as_before, other.system.database.stamps.read(Subject.LOOKUPS))
    )
    await one.rotate_pepper()
    after = await one.pepper(alice)
    found = (await other.lookup(alice, "alice@example.com", pepper=after)).json
    assert list(found["mappings"].values()) == [ALICE]


def _as_before(stamp: int, _subject: Subject) -> int:
    return stamp


async def test_large_index_is_made_by_a_process_of_its_own(
    workers: tuple[Harness, Harness], alice: User, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    one, other = workers
    await one.bound(alice, "alice@example.com")
    monkeypatch.setattr(index_wiring, "_SMALL", 0)
    before = await one.pepper(alice)

    await one.system.services.peppers.rotate()
    for worker in workers:
        await worker.take_pepper_into_use()

    assert await other.pepper(alice) == await one.pepper(alice) != before
    assert await other.find(alice, "alice@example.com") == ALICE
    assert "Traceback" not in capfd.readouterr().err


async def test_process_that_cannot_make_the_index_leaves_the_old_one(
    workers: tuple[Harness, Harness], alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = workers
    await one.bound(alice, "alice@example.com")
    before = await one.pepper(alice)
    monkeypatch.setattr(index_wiring, "_SMALL", 0)
    monkeypatch.setattr(sys, "executable", "/bin/false")

    await one.system.services.peppers.rotate()
    await one.system.index.settled()

    assert await one.pepper(alice) == before
    assert await one.find(alice, "alice@example.com") == ALICE
