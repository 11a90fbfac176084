"""A database that the real Sydent made: it is moved, nobody notices, and it can be moved back."""

from __future__ import annotations

import base64
import itertools
import json
import re
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nacl.signing
import pytest
import signedjson.key
import signedjson.sign
from unpaddedbase64 import decode_base64

from tests.support.databases import read_everything
from tests.support.harness import Fakes, Harness, User, running
from tests.sydent.real import Operator, get_json
from tests.sydent.support import ALICE, BOB, OTHER_SERVER, SERVER_NAME

_ALICES_TOKEN = "a" * 64
_BOBS_TOKEN = "b" * 64
_INVITE_TOKEN = "t" * 128
_SEED = b"s" * 32
_EPHEMERAL_KEY = base64.urlsafe_b64encode(bytes(nacl.signing.SigningKey(_SEED).verify_key)).rstrip(b"=").decode()
_TERMS_URL = "https://example.org/terms-2.0-en.html"
_TERMS = f"""
master_version: "m1"
docs:
  terms:
    version: "2.0"
    langs:
      en: {{name: "Terms", url: "{_TERMS_URL}"}}
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """What clients of Sydent know, after its data was moved."""

    operator: Operator
    association: dict[str, Any]
    open_session: dict[str, str]
    validated_session: dict[str, str]
    report: dict[str, Any]


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    operator = Operator(tmp_path_factory.mktemp("operator"))
    (operator.folder / "terms.yaml").write_text(_TERMS)
    now_ms = int(time.time() * 1000)
    far = {
        "medium": "email",
        "address": "far@example.com",
        "mxid": "@far:example.org",
        "ts": now_ms - 5,
        "not_before": now_ms - 5,
        "not_after": now_ms + 10**9,
        "signatures": {OTHER_SERVER: {"ed25519:0": "theirs"}},
    }
    answers = operator.sydent(
        ("account", ALICE, now_ms, "m1", _ALICES_TOKEN),
        ("account", BOB, now_ms, None, _BOBS_TOKEN),
        ("agree", ALICE, [_TERMS_URL]),
        ("bind", "email", "Alice@Example.com", ALICE),
        ("bind", "email", "both@example.com", ALICE),
        ("bind", "email", "both@example.com", BOB),
        ("bind", "email", "gone@example.com", BOB),
        ("unbind", "email", "gone@example.com", BOB),
        ("bind", "msisdn", "447700900123", BOB),
        ("replicate", far, OTHER_SERVER, 17),
        ("invite", "carol@example.com", "!room", BOB, _INVITE_TOKEN, _EPHEMERAL_KEY),
        ("session", "email", "Carol@example.com", "carols_secret", False),
        ("session", "email", "dora@example.com", "doras_secret", True),
    )
    operator.point_at(operator.our_db)
    report = operator.report()
    return Moved(
        operator, association=answers[3], open_session=answers[-2], validated_session=answers[-1], report=report
    )


_servers = itertools.count(1)


def _fakes() -> Fakes:
    # The servers of these tests run over one database, in which no id may be drawn twice.
    fakes = Fakes(randomness=f"server {next(_servers)}")
    fakes.clock.ms = int(time.time() * 1000) + 1000
    return fakes


@pytest.fixture
async def server(moved: Moved) -> Any:
    settings = {"GENERAL__TERMS_PATH": str(moved.operator.folder / "terms.yaml")}
    async with running(moved.operator.folder, settings=settings, fakes=_fakes()) as opened:
        yield opened


@pytest.fixture
def alice() -> User:
    return User(ALICE, _ALICES_TOKEN)


def test_every_row_is_accounted_for(moved: Moved) -> None:
    with sqlite3.connect(moved.operator.sydent_db) as connection:
        for table, figures in moved.report["tables"].items():
            [(rows,)] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
            assert figures["read"] == rows, table
            sums = figures["moved"] + sum(figures["merged"].values()) + sum(figures["skipped"].values())
            assert sums == rows, table
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert set(moved.report["tables"]) == {name for name in tables if not name.startswith("sqlite_")}
    assert moved.report["tables"]["local_threepid_associations"]["moved"] == 3
    assert moved.report["tables"]["global_threepid_associations"]["moved"] == 1


async def test_old_tokens_and_consent_go_on_working(server: Harness, alice: User) -> None:
    assert (await server.get("account", as_=alice)).json == {"user_id": ALICE}
    refused = await server.get("account", as_=User(BOB, _BOBS_TOKEN))
    assert (refused.status, refused.errcode) == (403, "M_TERMS_NOT_SIGNED")


async def test_lookups_hash_as_they_did(server: Harness, moved: Moved, alice: User) -> None:
    with sqlite3.connect(moved.operator.sydent_db) as connection:
        hashes = dict(
            connection.execute("SELECT mxid, lookup_hash FROM global_threepid_associations ORDER BY ts").fetchall()
        )
        [(pepper,)] = connection.execute("SELECT lookup_pepper FROM hashing_metadata").fetchall()

    assert await server.pepper(alice) == pepper
    asked = [hashes[ALICE], hashes[BOB]]
    body = {"algorithm": "sha256", "pepper": pepper, "addresses": asked}
    reply = await server.post("lookup", body, as_=alice)
    # ALICE's newest row was for an address that is BOB's by now.
    assert reply.json["mappings"] == {hashes[ALICE]: BOB, hashes[BOB]: BOB}
    assert await server.find(alice, "alice@example.com") == ALICE
    assert await server.find(alice, "far@example.com") == "@far:example.org"
    assert await server.find(alice, "gone@example.com") is None


async def test_old_signatures_verify_with_the_key_that_is_published(server: Harness, moved: Moved) -> None:
    published = (await server.get("pubkey/ed25519:0")).json["public_key"]
    key = signedjson.key.decode_verify_key_bytes("ed25519:0", decode_base64(published))

    signedjson.sign.verify_signed_json(moved.association, SERVER_NAME, key)


async def test_mail_that_sydent_sent_still_validates(server: Harness, moved: Moved, alice: User) -> None:
    """And binding then takes along the invite that Sydent had stored."""
    session = {**moved.open_session, "client_secret": "carols_secret"}

    submitted = await server.post("validate/email/submitToken", session, as_=alice)
    assert submitted.json == {"success": True}
    bound = await server.bind(alice, session["sid"], secret="carols_secret")
    assert bound.json["address"] == "carol@example.com"

    await server.system.runner.run_until_idle()
    [(_, notice)] = [each for each in server.homeservers.notices.delivered if each[1].get("invites")]
    [invite] = notice["invites"]
    assert (invite["token"], invite["room_id"], invite["sender"]) == (_INVITE_TOKEN, "!room", BOB)


async def test_session_that_sydent_validated_can_be_bound(server: Harness, moved: Moved, alice: User) -> None:
    sid = moved.validated_session["sid"]
    bound = await server.bind(alice, sid, secret="doras_secret")
    assert (bound.status, bound.json["address"]) == (200, "dora@example.com")


async def test_keys_in_room_events_stay_valid(server: Harness) -> None:
    reply = await server.get("pubkey/ephemeral/isvalid", params={"public_key": _EPHEMERAL_KEY})
    assert reply.json == {"valid": True}


def test_second_run_changes_nothing(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.sydent(("bind", "email", "alice@example.com", ALICE), ("session", "email", "b@example.com", "s", False))
    operator.point_at(operator.our_db)
    operator.report()
    dump = read_everything(operator.our_db)

    again = operator.command("import-sydent", operator.sydent_db)

    assert read_everything(operator.our_db) == dump
    assert "Nothing new" in again.stdout


def test_the_move_can_be_undone(tmp_path: Path) -> None:
    """What is exported is opened by the real Sydent, which answers from it, and goes on from it; and so can be undone."""
    operator = Operator(tmp_path)
    operator.sydent(
        ("account", ALICE, 5000, "m1", _ALICES_TOKEN),
        ("agree", ALICE, [_TERMS_URL]),
        ("bind", "email", "alice@example.com", ALICE),
        # So that Sydent has numbered more rows than are given back to it.
        ("bind", "email", "gone@example.com", ALICE),
        ("unbind", "email", "gone@example.com", ALICE),
        ("invite", "carol@example.com", "!room", BOB, _INVITE_TOKEN, _EPHEMERAL_KEY),
    )
    operator.point_at(operator.our_db)
    operator.report()
    back = tmp_path / "back.db"

    told = operator.command("export-sydent", back)

    assert "access tokens" in told.stdout
    assert back.stat().st_mode & 0o077 == 0
    operator.point_at(back)
    with operator.serving_sydent() as url:
        found = get_json(f"{url}/api/v1/lookup?medium=email&address=alice@example.com")
        assert found["mxid"] == ALICE
        assert SERVER_NAME in found["signatures"]
        valid = get_json(f"{url}/api/v1/pubkey/ephemeral/isvalid?public_key={quote(_EPHEMERAL_KEY)}")
        assert valid == {"valid": True}
    [association] = operator.sydent(("bind", "email", "carol@example.com", BOB))
    assert [each["token"] for each in association["invites"]] == [_INVITE_TOKEN]
    _same_in_both(operator.sydent_db, back)

    operator.point_at(operator.our_db)
    tables = json.loads(operator.command("import-sydent", back, "--json").stdout)["tables"]
    assert tables["local_threepid_associations"]["moved"] == 1


def test_conf_that_sydent_has_rewritten_is_understood(tmp_path: Path) -> None:
    """Without a key in it, Sydent makes one and writes the whole file anew, all its defaults in it."""
    operator = Operator(tmp_path)
    operator.conf.write_text(re.sub(r"ed25519\.signingkey.*", "", operator.conf.read_text()))
    operator.sydent(("bind", "email", "alice@example.com", ALICE))
    rewritten = operator.conf.read_text()
    assert "email.invite.subject" in rewritten
    operator.conf.write_text(rewritten.replace(str(operator.sydent_db), str(operator.our_db)))

    assert operator.report()["tables"]["local_threepid_associations"]["moved"] == 1


def test_export_never_writes_over_a_file(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.point_at(operator.our_db)
    operator.command("db", "upgrade")
    existing = tmp_path / "existing"
    existing.write_text("precious")

    refused = operator.command("export-sydent", existing, expect=1)

    assert "exists already" in refused.stderr
    assert existing.read_text() == "precious"


def _same_in_both(first: Path, second: Path) -> None:
    """Schema, pepper, accounts, consent, and the first binding with its hash."""
    queries = (
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'index') ORDER BY name",
        "PRAGMA user_version",
        "SELECT * FROM hashing_metadata",
        "SELECT * FROM accounts",
        "SELECT * FROM accepted_terms_urls",
        "SELECT medium, address, mxid, ts, notBefore, notAfter, lookup_hash FROM local_threepid_associations LIMIT 1",
        "SELECT medium, address, mxid, ts, originServer, lookup_hash FROM global_threepid_associations LIMIT 1",
    )
    with sqlite3.connect(first) as one, sqlite3.connect(second) as other:
        for query in queries:
            assert other.execute(query).fetchall() == one.execute(query).fetchall(), query
        signed = "SELECT sgAssoc FROM global_threepid_associations ORDER BY id LIMIT 1"
        texts = [json.loads(each.execute(signed).fetchone()[0]) for each in (one, other)]
        assert texts[0] == texts[1], "the same key signs the same association in the same way"
        columns = [
            [each.execute(f"PRAGMA table_info({name})").fetchall() for name in ("peers", "tokens", "invite_tokens")]
            for each in (one, other)
        ]
        assert [[row[1] for row in table] for table in columns[0]] == [
            [row[1] for row in table] for table in columns[1]
        ]
