"""Another root key takes the place of the one in use, and nobody notices but whoever has the old one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from identity_server.domain.identifiers import UserId
from identity_server.domain.ports import DeliveryPostponed
from identity_server.key_files import KeyProblem, find_signing_key
from identity_server.services.audit.check import AuditCheck
from identity_server.services.keys.root_rotation import RotationGivenUp
from identity_server.storage.sealing.key_ring import KeyRing, RootKey
from identity_server.storage.sealing.resealing import DROPPED_TABLES, SEALED_TABLES
from identity_server.storage.sealing.sealer import SealBroken, Sealer
from identity_server.wiring.settings import key_sources
from tests.flows.test_audit import events
from tests.flows.test_invites import invite, settle
from tests.flows.test_phone import request_code
from tests.flows.test_phone import submit as submit_code
from tests.flows.test_privacy_page import press, text_of, token_for
from tests.support import make
from tests.support.databases import read_everything, read_rows, write_rows
from tests.support.fakes import FakeRandomness
from tests.support.harness import ALICE, BOB, Fakes, Harness, running
from tests.support.loop_time import pass_on_loop
from tests.support.rotation import LEASE_SECONDS, interrupted, rotate, rotation_of

BOUND = "bound@example.com"
CODES = "07700 900123"


def key_files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "keys").glob("root*.key"))


def root_key(file: Path) -> RootKey:
    return RootKey.parse(file.read_text())


def new_file(tmp_path: Path) -> Path:
    (file,) = (each for each in key_files(tmp_path) if each.name != "root.key")
    return file


def key_ids(server: Harness) -> set[str]:
    """Every root key that rows name as the one that has sealed them."""
    tables = [each.table.name for each in SEALED_TABLES] + [table.name for table in DROPPED_TABLES]
    return {key_id for name in tables for (key_id,) in server.rows(f"SELECT key_id FROM {name}")}


async def test_everything_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes, key_lease_seconds=LEASE_SECONDS) as server:
        alice, bob = await server.register(ALICE), await server.register(BOB)
        await server.bound(alice, BOUND)
        pending = (await server.request_token(alice, "pending@example.com", secret="p")).json["sid"]
        token = server.mail.last_token
        validated = await server.validated(bob, "carol@example.com", secret="v")
        by_code = (await request_code(server, alice, CODES)).json["sid"]
        assert (await invite(server, alice, "carol@example.com")).status == 200
        leave_alone = await token_for(server, "nobody@example.com")
        assert (await press(server, "refuse", leave_alone)).status == 200
        visit = await token_for(server, BOUND)
        server.mail.answers.append(DeliveryPostponed("connect: refused"))
        await server.request_token(bob, "waiting@example.com", secret="w")
        assert await server.find(bob, BOUND) == alice.user_id
        (former,) = {root_key(file) for file in key_files(tmp_path)}
        assert key_ids(server) == {former.key_id}
        assert server.count("asked_addresses"), "what was asked for is kept, too"

        await rotate(server)

        new = root_key(new_file(tmp_path))
        assert key_ids(server) == {new.key_id}
        assert await server.find(bob, BOUND) == alice.user_id
        assert (await server.submit(alice, pending, token, secret="p")).status == 200
        assert (await submit_code(server, alice, by_code)).json == {"success": True}
        assert (await server.bind(bob, validated, secret="v")).status == 200
        await settle(server)
        notice = server.homeservers.notices.delivered[-1][1]
        assert [each["mxid"] for each in notice["invites"]] == [BOB], "the invite went along with the binding"
        assert alice.user_id in text_of(await press(server, "open", visit))
        refused = await server.request_token(alice, "nobody@example.com", secret="n")
        assert refused.errcode == "M_THREEPID_DENIED"
        server.clock.advance(minutes=1)
        await settle(server)
        assert server.mail.sent[-1].to == "waiting@example.com", "what waited for the relay is sent"
        assert await events(server, make.email(BOUND)) == ["bound"], "entries of the former key are found"
        assert await events(server, UserId(BOB)) == ["bound"]
        assert "root_key_rotated" in await events(server)
        await server.system.services.journal.link()
        signing_key = find_signing_key(key_sources(server.config))
        assert signing_key is not None
        findings = await AuditCheck(database=server.system.database, signing_key=signing_key).run()
        assert (findings.faults, findings.of_other_keys) == ([], 0)
    for file in key_files(tmp_path):
        if root_key(file) == former:
            file.unlink()
    async with running(tmp_path, fakes=fakes) as server:
        assert await server.find(bob, BOUND) == alice.user_id, "only the new key is needed from now on"


def values_of(server: Harness) -> Iterator[tuple[str, bytes]]:
    for table, *row in read_everything(server.config.db.file):
        for value in row:
            if isinstance(value, bytes | memoryview):
                yield table, bytes(value)


async def test_the_former_key_opens_nothing_any_more(tmp_path: Path) -> None:
    async with running(tmp_path, key_lease_seconds=LEASE_SECONDS) as server:
        alice = await server.register()
        sid = await server.bound(alice, BOUND)
        await invite(server, alice, "carol@example.com")
        await request_code(server, alice, CODES)
        visit = await token_for(server, BOUND)
        former = Sealer(KeyRing(root_key(tmp_path / "keys" / "root.key")), randomness=FakeRandomness())
        threepids = [make.email(BOUND), make.email("carol@example.com")]
        (before,) = server.rows("SELECT id, key_id, sealed_address FROM associations")
        places = {each.table.name: each for each in SEALED_TABLES}
        assert former.open("associations.sealed_address", *before) == BOUND, "the test can tell"
        blinds = {blind for each in threepids for blind in former.blinds(each)}
        blinds |= {former.digest("visited address", *each.parts) for each in threepids}
        assert blinds & {value for _, value in values_of(server)}

        await rotate(server)

        assert not blinds & {value for _, value in values_of(server)}
        opened = []
        for table, sealed in places.items():
            columns = ", ".join((sealed.row, *sealed.sealed))
            for row_id, *values in server.rows(f"SELECT {columns} FROM {table}"):
                for column, value in zip(sealed.sealed, values, strict=True):
                    if value is not None:
                        with suppress(SealBroken):
                            name = sealed.named(row_id)
                            opened.append(former.open(f"{table}.{column}", name, former.key_id, bytes(value)))
        assert opened == []
        assert sid
        assert visit


async def test_the_index_is_made_anew_under_the_new_key(tmp_path: Path) -> None:
    async with running(tmp_path, key_lease_seconds=LEASE_SECONDS) as server:
        alice = await server.register()
        await server.bound(alice, BOUND)
        file = server.config.index_folder / "lookups.index"
        before = server.system.index.answers.file.fingerprint
        await rotate(server)
        await server.system.look_at_keys()
        await server.system.index.poll()
        await server.system.index.settled()
        after = server.system.index.answers.file.fingerprint
        assert after == root_key(new_file(tmp_path)).derive("fingerprint of the lookup key").hex() != before
        assert before.encode() not in file.read_bytes()
        assert await server.find(alice, BOUND) == alice.user_id


async def test_old_or_new_key_alone_is_refused_with_what_to_do(tmp_path: Path) -> None:
    keys, fakes = tmp_path / "keys", Fakes()
    async with running(tmp_path, fakes=fakes, key_lease_seconds=LEASE_SECONDS) as server:
        alice = await server.register()
        await server.bound(alice, BOUND)
        await interrupted(server.config, after="New data is sealed")
    new = new_file(tmp_path)
    for missing, sentence in ((new, f"has been replaced.*{new}"), (keys / "root.key", "still sealed by the former")):
        kept = missing.read_bytes()
        missing.unlink()
        with pytest.raises(KeyProblem, match=sentence):
            async with running(tmp_path, fakes=fakes):
                pass
        missing.write_bytes(kept)
    async with running(tmp_path, fakes=fakes, key_lease_seconds=LEASE_SECONDS) as server:
        assert await server.find(alice, BOUND) == alice.user_id
        await rotate(server)
    new.rename(tmp_path / "elsewhere")
    with pytest.raises(KeyProblem, match="has been replaced by `keys rotate-root`"):
        async with running(tmp_path, fakes=fakes):
            pass


@pytest.mark.parametrize("step", ["The next root key is", "New data is sealed", "associations:"])
async def test_whoever_takes_it_up_again_comes_to_the_end(tmp_path: Path, step: str) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes, key_lease_seconds=LEASE_SECONDS) as server:
        alice = await server.register()
        await server.bound(alice, BOUND)
        await invite(server, alice, "carol@example.com")
        await interrupted(server.config, after=step)
        assert await server.find(alice, BOUND) == alice.user_id
        await server.bound(alice, "later@example.com", secret="l")
    async with running(tmp_path, fakes=fakes, key_lease_seconds=LEASE_SECONDS) as server:
        assert await server.find(alice, "later@example.com") == alice.user_id
        await rotate(server)
        assert key_ids(server) == {root_key(new_file(tmp_path)).key_id}
        assert await server.find(alice, BOUND) == alice.user_id
        assert server.count("associations") == 2
        assert await events(server) == ["bound", "bound", "root_key_rotated"]


async def test_next_key_may_be_given_up_until_it_is_in_use(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes, key_lease_seconds=LEASE_SECONDS) as server:
        alice = await server.register()
        await server.bound(alice, BOUND)
        async with rotation_of(server.config) as rotation:
            with pytest.raises(RotationGivenUp, match="not being replaced"):
                await rotation.cancel()
        await interrupted(server.config, after="The next root key is")
        assert await server.find(alice, BOUND) == alice.user_id
        new_file(tmp_path).unlink()
    with pytest.raises(KeyProblem, match="give it up with `keys rotate-root --cancel`"):
        async with running(tmp_path, fakes=fakes):
            pass
    async with rotation_of(server.config) as rotation:
        await rotation.cancel()
    async with running(tmp_path, fakes=fakes, key_lease_seconds=LEASE_SECONDS) as server:
        assert await server.find(alice, BOUND) == alice.user_id
        await interrupted(server.config, after="New data is sealed")
        async with rotation_of(server.config) as rotation:
            with pytest.raises(RotationGivenUp, match="in use already"):
                await rotation.cancel()


async def test_next_key_waits_until_every_server_knows_it(tmp_path: Path) -> None:
    """A second machine has a directory of its own for its keys."""
    elsewhere = tmp_path / "elsewhere"
    fakes, other_fakes = Fakes(), Fakes(randomness="other")
    async with running(tmp_path, fakes=fakes, key_lease_seconds=LEASE_SECONDS) as here:
        elsewhere.mkdir(mode=0o700)
        for file in (tmp_path / "keys").iterdir():
            (elsewhere / file.name).write_bytes(file.read_bytes())
        settings = {"CRYPTO__KEY_DIR": str(elsewhere), "LOOKUP__INDEX_DIR": str(tmp_path / "other-index")}
        async with running(tmp_path, settings=settings, fakes=other_fakes, key_lease_seconds=LEASE_SECONDS) as there:
            alice = await here.register()
            await here.bound(alice, BOUND)
            told: list[str] = []
            times = itertools.count(1)

            async def settle() -> None:
                if next(times) == 3:
                    assert key_ids(here) == {root_key(tmp_path / "keys" / "root.key").key_id}
                    await there.bound(alice, "there@example.com", secret="t")
                    file = new_file(tmp_path)
                    (elsewhere / file.name).write_bytes(file.read_bytes())
                pass_on_loop(LEASE_SECONDS)
                await there.system.look_at_keys()

            async with rotation_of(here.config, settle=settle) as rotation:
                await rotation.run(told.append)
            file = new_file(tmp_path)
            for sentence in told[1:3]:
                assert sentence.startswith("Waiting for ")
                assert f"Copy its file to {elsewhere / file.name}" in sentence
            assert told[3].startswith("New data is sealed")
            assert key_ids(here) == {root_key(file).key_id}
            for server in (here, there):
                await server.system.index.poll()
                assert await server.find(alice, BOUND) == alice.user_id
                assert await server.find(alice, "there@example.com") == alice.user_id
            assert here.count("key_holdouts") == 0


async def test_server_that_was_out_of_reach_meanwhile_does_nothing_before_it_has_the_key(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    async with running(tmp_path, key_lease_seconds=LEASE_SECONDS) as here:
        alice = await here.register()
        await here.bound(alice, BOUND)
        elsewhere.mkdir(mode=0o700)
        for file in (tmp_path / "keys").iterdir():
            (elsewhere / file.name).write_bytes(file.read_bytes())
        settings = {"CRYPTO__KEY_DIR": str(elsewhere), "LOOKUP__INDEX_DIR": str(tmp_path / "other-index")}
        fakes = Fakes(randomness="other")
        async with running(tmp_path, fakes=fakes, settings=settings, key_lease_seconds=LEASE_SECONDS) as there:
            # It is asked for nothing, and looks at nothing, until all is over.
            await rotate(here)
            reply = await there.request_token(alice, "later@example.com")
            assert reply.status == 503
            assert here.count("validation_sessions") == 1
            file = new_file(tmp_path)
            (elsewhere / file.name).write_bytes(file.read_bytes())
            assert (await there.request_token(alice, "later@example.com")).status == 200
            assert key_ids(here) == {root_key(file).key_id}


async def test_limits_go_on_counting(tmp_path: Path) -> None:
    async with running(tmp_path, key_lease_seconds=LEASE_SECONDS) as server:
        alice = await server.register()
        replies = [await server.request_token(alice, BOUND, attempt=number) for number in range(1, 7)]
        assert [reply.status for reply in replies] == [200] * 5 + [429]
        await rotate(server)
        assert (await server.request_token(alice, BOUND, attempt=9)).status == 429


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"CRYPTO__AT_REST_KEY": "A" * 43 + "="}, {"CRYPTO__AT_REST_NEXT_KEY": "B" * 42 + "A="}),
        ({"CRYPTO__AT_REST_PASSPHRASE": "one passphrase of mine"}, {"CRYPTO__AT_REST_NEXT_KEY": "B" * 42 + "A="}),
        ({}, {"CRYPTO__AT_REST_NEXT_PASSPHRASE": "another passphrase of mine"}),
    ],
)
async def test_keys_may_come_from_the_configuration(
    tmp_path: Path, first: dict[str, str], then: dict[str, str]
) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes, settings=first) as server:
        alice = await server.register()
        await server.bound(alice, BOUND)
    async with running(tmp_path, fakes=fakes, settings={**first, **then}, key_lease_seconds=LEASE_SECONDS) as server:
        await rotate(server)
        assert await server.find(alice, BOUND) == alice.user_id
    moved = {name.replace("NEXT_", ""): value for name, value in then.items()}
    async with running(tmp_path, fakes=fakes, settings=moved) as server:
        assert await server.find(alice, BOUND) == alice.user_id
        assert (tmp_path / "keys" / "root.key").exists() == (not first)


async def test_key_from_the_configuration_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"CRYPTO__AT_REST_KEY": "A" * 43 + "="}) as server:
        with pytest.raises(KeyProblem, match="set `at_rest_next_key`"):
            await rotate(server)
        assert read_rows(server.config.db.file, "SELECT name FROM server_keys ORDER BY name") == [
            ("root",),
            ("signing",),
        ]


async def test_it_can_be_done_again_and_again(tmp_path: Path) -> None:
    async with running(tmp_path, key_lease_seconds=LEASE_SECONDS) as server:
        alice = await server.register()
        await server.bound(alice, BOUND)
        leave_alone = await token_for(server, "nobody@example.com")
        assert (await press(server, "refuse", leave_alone)).status == 200
        for _ in range(3):
            async with rotation_of(server.config) as rotation:
                await rotation.run(lambda _: None)
        assert server.count("retired_keys") == 3
        assert len(key_ids(server)) == 1
        assert (await server.request_token(alice, "nobody@example.com", secret="n")).errcode == "M_THREEPID_DENIED"
        assert await events(server, make.email(BOUND)) == ["bound"]
        async with rotation_of(server.config) as rotation:
            standing = await rotation.standing()
        assert len(standing.retired) == 3
        assert (standing.next_root, standing.former_root, standing.left) == (None, None, {})


async def test_what_cannot_be_opened_keeps_nothing_else_from_being_sealed_anew(tmp_path: Path) -> None:
    async with running(tmp_path, key_lease_seconds=LEASE_SECONDS) as server:
        alice = await server.register()
        await server.bound(alice, BOUND)
        await invite(server, alice, "carol@example.com")
        write_rows(server.config.db.file, "UPDATE invites SET id = id + 1")
        told = await rotate(server)
        assert any(sentence.startswith("1 rows could not be opened") for sentence in told)
        assert server.rows("SELECT count(*) FROM server_keys") == [(2,)]
        assert await server.find(alice, BOUND) == alice.user_id
