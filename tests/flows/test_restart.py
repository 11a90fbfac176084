"""A restart in the middle: everything is as before. And keys that are missing or wrong are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from identity_server.key_files import KeyProblem
from tests.support.databases import on_postgresql
from tests.support.harness import SECRET, Fakes, Harness, running


async def test_everything_is_as_before(tmp_path: Path) -> None:
    fakes = Fakes()
    async with running(tmp_path, fakes=fakes) as server:
        alice = await server.register()
        await server.bound(alice, "bound@example.com")
        pending = (await server.request_token(alice, "pending@example.com", secret="p")).json["sid"]
        validated = await server.validated(alice, "validated@example.com", secret="v")
        token = server.mail.sent[1].variables["token"]
        pepper = await server.pepper(alice)
        public_key = (await server.get("pubkey/ed25519:0")).json
    async with running(tmp_path, fakes=fakes) as server:
        assert (await server.get("account", as_=alice)).status == 200
        assert await server.pepper(alice) == pepper
        assert (await server.get("pubkey/ed25519:0")).json == public_key
        assert await server.find(alice, "bound@example.com") == alice.user_id
        assert (await server.submit(alice, pending, token, secret="p")).status == 200
        assert (await server.bind(alice, validated, secret="v")).status == 200


@pytest.mark.parametrize("name", ["root.key", "signing.key"])
async def test_missing_key_is_refused_by_name(tmp_path: Path, name: str) -> None:
    async with running(tmp_path):
        pass
    file = tmp_path / "keys" / name
    kept = file.read_bytes()
    file.unlink()
    with pytest.raises(KeyProblem, match=str(file)):
        async with running(tmp_path):
            pass
    assert not file.exists(), "no key is made for a database that has one"
    file.write_bytes(kept)
    async with running(tmp_path) as server:
        assert (await server.get("/ready")).status == 200


@pytest.mark.parametrize("name", ["root.key", "signing.key"])
async def test_different_key_is_refused(tmp_path: Path, name: str) -> None:
    async with running(tmp_path):
        pass
    other = tmp_path / "other"
    other.mkdir()
    async with running(other, fakes=_other_fakes()):
        pass
    (tmp_path / "keys" / name).write_bytes((other / "keys" / name).read_bytes())
    with pytest.raises(KeyProblem, match="this is not the"):
        async with running(tmp_path):
            pass


def _other_fakes() -> Fakes:
    fakes = Fakes()
    fakes.randomness.token_bytes(1)
    return fakes


async def test_keys_and_database_are_private(tmp_path: Path) -> None:
    async with running(tmp_path):
        files = ["keys/root.key", "keys/signing.key", *([] if on_postgresql() else ["db/identity.db"])]
        for file in files:
            assert (tmp_path / file).stat().st_mode & 0o777 == 0o600


async def test_keys_may_come_from_the_configuration(tmp_path: Path) -> None:
    settings = {
        "CRYPTO__ED25519_SIGNINGKEY": "ed25519 1 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "CRYPTO__AT_REST_KEY": "A" * 43 + "=",
    }
    async with running(tmp_path, settings=settings) as server:
        assert (await server.get("pubkey/ed25519:1")).status == 200
        missing = await server.get("pubkey/ed25519:0")
        assert (missing.status, missing.errcode) == (404, "M_NOT_FOUND")
        assert not (tmp_path / "keys").exists()


async def test_root_key_may_be_derived_from_a_passphrase(tmp_path: Path) -> None:
    settings = {"CRYPTO__AT_REST_PASSPHRASE": "correct horse battery staple"}
    async with running(tmp_path, settings=settings) as server:
        alice = await server.register()
        await server.bound(alice, "alice@example.com")
        assert not (tmp_path / "keys" / "root.key").exists()
    async with running(tmp_path, settings=settings) as server:
        assert await server.find(alice, "alice@example.com") == alice.user_id
    with pytest.raises(KeyProblem, match="root key"):
        async with running(tmp_path, settings={"CRYPTO__AT_REST_PASSPHRASE": "incorrect horse battery staple"}):
            pass


async def test_public_keys_are_recognised_in_any_spelling(server: Harness) -> None:
    key: str = (await server.get("pubkey/ed25519:0")).json["public_key"]
    urlsafe = key.replace("+", "-").replace("/", "_")
    for spelling in (key, key + "=", urlsafe):
        reply = await server.get("pubkey/isvalid", params={"public_key": spelling})
        assert reply.json == {"valid": True}
    for other in ("A" * 43, "x", "é"):
        assert (await server.get("pubkey/isvalid", params={"public_key": other})).json == {"valid": False}
        assert (await server.get("pubkey/ephemeral/isvalid", params={"public_key": other})).json == {"valid": False}


async def test_unbinding(server: Harness) -> None:
    alice = await server.register()
    sid = await server.bound(alice, "alice@example.com")
    threepid = {"medium": "email", "address": "alice@example.com"}
    good = {"sid": sid, "client_secret": SECRET, "mxid": alice.user_id, "threepid": threepid}

    async def refused(**changes: object) -> tuple[int, str | None]:
        reply = await server.post("3pid/unbind", {**good, **changes})
        return reply.status, reply.errcode

    assert await refused(client_secret="wrong") == (403, "M_FORBIDDEN")
    assert await refused(sid="wrong") == (403, "M_FORBIDDEN")
    assert await refused(threepid={"medium": "email", "address": "bob@example.com"}) == (403, "M_FORBIDDEN")
    assert await refused(threepid={"medium": "fax", "address": "1"}) == (400, "M_INVALID_PARAM")
    bare = await server.post("3pid/unbind", {"mxid": alice.user_id, "threepid": threepid})
    assert (bare.status, bare.errcode) == (403, "M_FORBIDDEN")
    assert await refused(mxid="@bob:example.org") == (200, None)
    assert await server.find(alice, "alice@example.com") == alice.user_id, "bound to someone else: left as it is"
    assert await refused() == (200, None)
    assert await refused() == (200, None), "no longer bound: fine"
    pending = (await server.request_token(alice, "alice@example.com", secret="p")).json["sid"]
    assert await refused(sid=pending, client_secret="p") == (400, "M_SESSION_NOT_VALIDATED")
    server.clock.advance(hours=24)
    assert await refused(sid=pending, client_secret="p") == (400, "M_SESSION_EXPIRED")
