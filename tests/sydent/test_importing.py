"""What becomes of Sydent's rows, on databases that were written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import signedjson.key
import signedjson.sign

from identity_server.domain.association import Association, Visibility
from identity_server.domain.identifiers import ClientSecret, Medium, SessionId, Threepid, UserId
from identity_server.domain.invite import EPHEMERAL_KEY_LIFETIME_MS, INVITE_LIFETIME_MS
from identity_server.domain.signing import SigningKey
from identity_server.domain.terms import Acceptance, Policy, Terms, Translation
from identity_server.domain.validation import CODE_LIFETIME_MS, SESSION_LIFETIME_MS
from identity_server.storage.sealing.key_ring import KeyRing, RootKey
from identity_server.storage.sealing.sealer import token_digest
from identity_server.sydent.importing import CannotImport, check_identity
from identity_server.sydent.reading import open_sydent
from identity_server.sydent.report import ImportReport, Merged, ReportDoesNotAddUp, Skipped, TableReport
from tests.support import make
from tests.support.databases import read_rows
from tests.support.fakes import START_MS
from tests.sydent.support import (
    ALICE,
    BOB,
    CODE_HASHER,
    DAY_MS,
    MINUTE_MS,
    OTHER_SERVER,
    PEPPER,
    ROOT_KEY,
    SERVER_NAME,
    SIGNING_TEXT,
    OldSydent,
    Target,
    open_target,
)

_JUST_NOW_S = START_MS // 1000 - 1
_VERIFY_KEY = signedjson.key.get_verify_key(signedjson.key.read_signing_keys([SIGNING_TEXT])[0])
LOCAL = "local_threepid_associations"
GLOBAL = "global_threepid_associations"


# --- bindings -------------------------------------------------------------------------------


async def test_binding_is_moved_as_it_was(sydent: OldSydent, target: Target) -> None:
    sydent.bind("alice@example.com", ts=START_MS - 5)

    report = await target.take(sydent)

    [(_, association)] = await target.database.read(lambda tx: tx.associations.list_page(after_id=-1, limit=9))
    expected = Association.starting(
        START_MS - 5, threepid=Threepid(Medium.EMAIL, "alice@example.com"), user_id=UserId(ALICE)
    )
    assert association == expected
    assert report.table(LOCAL) == TableReport(read=1, moved=1)
    assert report.table(GLOBAL).merged == {Merged.COPY: 1}


async def test_binding_of_another_server_is_moved_too(sydent: OldSydent, target: Target) -> None:
    """It is signed by this server when it is served, like any other."""
    sydent.publish("alice@example.com", origin=OTHER_SERVER, origin_id=7)

    report = await target.take(sydent)

    assert await target.bindings() == {"alice@example.com": ALICE}
    assert report.table(GLOBAL).moved == 1


async def test_what_is_bound_under_an_earlier_root_key_is_recognised(sydent: OldSydent, tmp_path: Path) -> None:
    sydent.bind("older@example.com", ALICE, ts=1000)
    sydent.bind("newer@example.com", ALICE, ts=1000)
    earlier, new = ROOT_KEY, RootKey(b"n" * 32)
    async with open_target(tmp_path) as target:
        rows = [make.association("older@example.com", user_id=BOB, ts=999)]
        rows += [make.association("newer@example.com", user_id=BOB, ts=1001)]
        await target.database.transaction(lambda tx: tx.associations.put_all(list(enumerate(rows)), now_ms=START_MS))
    async with open_target(tmp_path, ring=KeyRing(new, (earlier,))) as target:
        await target.take(sydent)
        assert await target.bindings() == {"older@example.com": ALICE, "newer@example.com": BOB}
    assert read_rows(tmp_path / "identity.db", "SELECT count(*) FROM associations") == [(2,)]


@pytest.mark.parametrize("foreign_is_newer", [True, False])
async def test_newest_row_decides_wherever_it_is(sydent: OldSydent, target: Target, foreign_is_newer: bool) -> None:
    sydent.bind("alice@example.com", ALICE, ts=1000)
    sydent.publish("alice@example.com", BOB, ts=1001 if foreign_is_newer else 999, origin=OTHER_SERVER, origin_id=1)

    report = await target.take(sydent)

    assert await target.bindings() == {"alice@example.com": BOB if foreign_is_newer else ALICE}
    loser = LOCAL if foreign_is_newer else GLOBAL
    assert report.table(loser).merged[Merged.OLDER] == 1


async def test_rows_of_earlier_bindings_are_merged(sydent: OldSydent, target: Target) -> None:
    """Sydent replaces the local row, but leaves what it had published."""
    sydent.bind("alice@example.com", ALICE, ts=1000)
    sydent.bind("alice@example.com", BOB, ts=2000)

    report = await target.take(sydent)

    assert await target.bindings() == {"alice@example.com": BOB}
    assert report.table(GLOBAL).merged == {Merged.COPY: 1, Merged.OLDER: 1}


async def test_address_whose_owner_wants_to_be_left_alone_is_left_out(sydent: OldSydent, target: Target) -> None:
    refused = Threepid(Medium.EMAIL, "alice@example.com")
    await target.database.transaction(lambda tx: tx.refusals.add(refused, now_ms=START_MS))
    sydent.bind("Alice@example.com")
    sydent.bind("bob@example.com", BOB)
    sydent.invite("alice@EXAMPLE.com", token="hers")
    sydent.invite("carol@example.com", token="carols")

    report = await target.take(sydent)

    assert await target.bindings() == {"bob@example.com": BOB}
    assert report.table(LOCAL).skipped == report.table("invite_tokens").skipped == {Skipped.REFUSED: 1}
    assert await target.database.read(lambda tx: tx.invites.list_of(refused, now_ms=START_MS)) == []


async def test_unbinding_hides_what_is_older(sydent: OldSydent, target: Target) -> None:
    sydent.unbind("alice@example.com", ts=2000)
    sydent.publish("alice@example.com", ts=1999, origin=OTHER_SERVER, origin_id=1)
    sydent.unbind("bob@example.com", ts=2000)
    sydent.publish("bob@example.com", BOB, ts=2001, origin=OTHER_SERVER, origin_id=2)

    report = await target.take(sydent)

    assert await target.bindings() == {"bob@example.com": BOB}
    assert report.table(LOCAL).skipped[Skipped.UNBOUND] == 1
    assert report.table(LOCAL).merged[Merged.OLDER] == 1


async def test_binding_that_cannot_be_moved_does_not_bring_back_the_one_before(
    sydent: OldSydent, target: Target
) -> None:
    sydent.publish("alice@example.com", ALICE, ts=1000, origin=OTHER_SERVER, origin_id=1)
    sydent.bind("alice@example.com", "nobody", ts=2000)

    report = await target.take(sydent)

    assert await target.bindings() == {}
    assert report.table(LOCAL).skipped == {Skipped.BAD_USER: 1}
    assert report.table(GLOBAL).merged[Merged.OLDER] == 1


async def test_case_is_folded_and_the_newest_spelling_wins(sydent: OldSydent, target: Target) -> None:
    sydent.bind("Alice@Example.com", ALICE, ts=3000)
    sydent.bind("ALICE@example.com", BOB, ts=2000)
    sydent.bind("stra\u00dfe@example.com", BOB, ts=1000)

    report = await target.take(sydent)

    assert await target.bindings() == {"alice@example.com": ALICE, "strasse@example.com": BOB}
    assert report.table(LOCAL).merged[Merged.OLDER] == 1
    assert report.rewritten == 2


async def test_phone_numbers_are_moved(sydent: OldSydent, target: Target) -> None:
    sydent.bind("447700900123", medium="msisdn")

    await target.take(sydent)

    assert await target.bindings() == {"447700900123": ALICE}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"address": "not an address"}, Skipped.BAD_ADDRESS),
        ({"address": "a@b@example.com"}, Skipped.BAD_ADDRESS),
        ({"medium": "fax"}, Skipped.BAD_MEDIUM),
        ({"address": "+447700900123", "medium": "msisdn"}, Skipped.BAD_ADDRESS),
        ({"mxid": "alice"}, Skipped.BAD_USER),
        ({"mxid": "@alice:Example.ORG"}, Skipped.BAD_USER),
        ({"ts": 2**60}, Skipped.BAD_VALIDITY),
        ({"ts": -(100 * 365 + 1) * DAY_MS}, Skipped.BAD_VALIDITY),
        ({"ts": b"x"}, Skipped.UNREADABLE),
    ],
)
async def test_row_that_cannot_be_right_is_skipped_with_its_reason(
    sydent: OldSydent, target: Target, values: dict[str, object], reason: Skipped
) -> None:
    row = {"address": "alice@example.com", "mxid": ALICE, "ts": 1000, "medium": "email", **values}
    ts = row.pop("ts")
    not_after = ts + 1 if isinstance(ts, int) else ts
    sydent.add(LOCAL, **row, ts=ts, notBefore=ts, notAfter=not_after)

    report = await target.take(sydent)

    assert await target.bindings() == {}
    assert report.table(LOCAL).skipped == {reason: 1}


async def test_binding_whose_time_is_over_is_skipped(sydent: OldSydent, target: Target) -> None:
    sydent.add(LOCAL, medium="email", address="a@example.com", mxid=ALICE, ts=1, notBefore=1, notAfter=START_MS)

    assert (await target.take(sydent)).table(LOCAL).skipped == {Skipped.OVER: 1}


# --- running it again -----------------------------------------------------------------------


def _fill(sydent: OldSydent) -> None:
    """Something of everything."""
    for number in range(40):
        sydent.bind(f"user{number}@example.com", f"@user{number}:example.org")
    sydent.unbind("user7@example.com", ts=START_MS - 10)
    sydent.publish("far@example.com", BOB, origin=OTHER_SERVER, origin_id=1)
    sydent.account(ALICE, token="a" * 64, consent="1.0")
    sydent.account(BOB, token="b" * 64)
    sydent.add("accepted_terms_urls", user_id=ALICE, url="https://example.org/terms-1.0")
    sydent.invite("new@example.com")
    sydent.add("ephemeral_public_keys", public_key="A" * 43, persistence_ts=START_MS // 1000)
    sydent.session(1, "Alice@example.com")
    sydent.session(2, "bob@example.com", validated=1, token="other", secret="more")


async def test_second_run_changes_nothing_and_says_so(sydent: OldSydent, target: Target) -> None:
    _fill(sydent)
    first = await target.take(sydent)
    before = target.dump()

    second = await target.take(sydent)

    assert target.dump() == before
    assert first.moved > 40
    assert second.moved == 0
    assert "Nothing new" in second.to_text()


async def test_what_is_new_in_sydent_is_added(sydent: OldSydent, target: Target) -> None:
    _fill(sydent)
    await target.take(sydent)
    sydent.bind("late@example.com", ts=START_MS)
    sydent.bind("user1@example.com", BOB, ts=START_MS)
    sydent.unbind("user2@example.com", ts=START_MS)
    sydent.account("@carol:example.org", token="c" * 64)

    report = await target.take(sydent)

    bindings = await target.bindings()
    assert bindings["late@example.com"] == ALICE
    assert bindings["user1@example.com"] == BOB
    assert "user2@example.com" not in bindings
    assert report.table(LOCAL).moved == 3
    assert report.table("tokens").moved == 1


async def test_what_was_unbound_here_stays_unbound(sydent: OldSydent, target: Target) -> None:
    sydent.bind("alice@example.com")
    await target.take(sydent)
    threepid = Threepid(Medium.EMAIL, "alice@example.com")
    await target.database.transaction(lambda tx: tx.associations.remove(threepid, now_ms=START_MS))
    sydent.bind("bob@example.com", BOB)

    await target.take(sydent)

    assert await target.bindings() == {"bob@example.com": BOB}


async def test_what_was_bound_here_since_stays(sydent: OldSydent, target: Target) -> None:
    sydent.bind("alice@example.com", ALICE, ts=START_MS - 10)
    sydent.unbind("carol@example.com", ts=START_MS - 10)
    ours = [
        (row, Association.starting(START_MS, threepid=Threepid(Medium.EMAIL, address), user_id=UserId(BOB)))
        for row, address in enumerate(("alice@example.com", "carol@example.com"))
    ]
    await target.database.transaction(lambda tx: tx.associations.put_all(ours, now_ms=START_MS))

    report = await target.take(sydent)

    assert await target.bindings() == {"alice@example.com": BOB, "carol@example.com": BOB}
    assert report.table(LOCAL).skipped == {Skipped.NEWER_HERE: 2}


async def test_visibility_is_the_operators_until_the_owner_decides(sydent: OldSydent, target: Target) -> None:
    async def visibilities() -> dict[str, str]:
        page = await target.database.read(lambda tx: tx.associations.list_page(after_id=-1, limit=9))
        return {association.threepid.address: association.visibility for _, association in page}

    for address in ("alice@example.com", "bob@example.com"):
        sydent.bind(address, ALICE, ts=1000)
    await target.take(sydent, visibility=Visibility.HOMESERVER)
    assert set((await visibilities()).values()) == {"homeserver"}

    hidden = make.association("alice@example.com", user_id=ALICE, ts=1000, visibility=Visibility.NOBODY)
    await target.database.transaction(lambda tx: tx.associations.replace(5, hidden, now_ms=START_MS))
    sydent.bind("alice@example.com", ALICE, ts=2000)
    sydent.bind("bob@example.com", BOB, ts=2000)
    await target.take(sydent)
    assert await visibilities() == {"alice@example.com": "nobody", "bob@example.com": "everyone"}


async def test_old_row_that_comes_late_does_not_undo_an_unbinding(sydent: OldSydent, target: Target) -> None:
    """Replication brings rows long after they were made."""
    sydent.unbind("alice@example.com", ts=2000)
    await target.take(sydent)
    sydent.publish("alice@example.com", ts=1000, origin=OTHER_SERVER, origin_id=1)

    report = await target.take(sydent)

    assert await target.bindings() == {}
    assert report.table(GLOBAL).merged == {Merged.OLDER: 1}


async def test_token_that_was_logged_out_here_stays_so(sydent: OldSydent, target: Target) -> None:
    sydent.account(ALICE, token="a" * 64)
    await target.take(sydent)
    await target.database.transaction(lambda tx: tx.access_tokens.remove(token_digest("a" * 64)))

    await target.take(sydent)

    assert await target.database.read(lambda tx: tx.access_tokens.find(token_digest("a" * 64))) is None


async def test_invite_that_was_delivered_here_does_not_come_back(sydent: OldSydent, target: Target) -> None:
    sydent.invite("new@example.com")
    await target.take(sydent)
    [(invite, _)] = await target.database.read(lambda tx: tx.invites.list_all(now_ms=START_MS, limit=9))
    await target.database.transaction(lambda tx: tx.invites.remove([invite.id]))

    report = await target.take(sydent)

    assert report.table("invite_tokens").skipped == {Skipped.BEFORE: 1}


async def test_number_of_a_deleted_invite_may_be_used_again(sydent: OldSydent, target: Target) -> None:
    sydent.invite("new@example.com")
    await target.take(sydent)
    sydent.connection.execute("DELETE FROM invite_tokens")
    sydent.invite("newer@example.com", token="u" * 128)
    sydent.connection.execute("UPDATE invite_tokens SET received_ts = ?", (START_MS // 1000 + 1,))

    assert (await target.take(sydent)).table("invite_tokens").moved == 1


async def test_dry_run_writes_nothing_and_foretells(sydent: OldSydent, target: Target) -> None:
    _fill(sydent)
    before = target.dump()

    foretold = await target.take(sydent, dry_run=True)

    assert target.dump() == before
    assert "would be moved" in foretold.to_text()
    assert foretold.tables == (await target.take(sydent)).tables


async def test_report_names_no_address(sydent: OldSydent, target: Target) -> None:
    _fill(sydent)
    sydent.bind("somebody at example.com")

    report = await target.take(sydent)

    shown = report.to_text() + str(report.to_json())
    assert Skipped.BAD_ADDRESS in shown
    assert "@" not in shown
    assert "example.com" not in shown


def test_account_that_does_not_add_up_is_a_fault() -> None:
    with pytest.raises(ReportDoesNotAddUp, match="tokens: 2 rows were read, but 1 are accounted for"):
        TableReport(read=2, moved=1).check("tokens")


async def test_readers_of_the_feed_hear_of_every_binding(sydent: OldSydent, target: Target) -> None:
    for number in range(3):
        sydent.bind(f"user{number}@example.com")

    await target.take(sydent)

    changes = await target.database.read(lambda tx: tx.associations.list_changes(after_seq=0, limit=9))
    page = await target.database.read(lambda tx: tx.associations.list_page(after_id=-1, limit=9))
    assert sorted(change.association_id for change in changes) == sorted(row for row, _ in page)


# --- accounts -------------------------------------------------------------------------------

_URL = "https://example.org/terms-1.0"
_TERMS = Terms((Policy("terms", "1.0", {"en": Translation("Terms", _URL)}),), master_version="m1")


async def test_accounts_keep_their_tokens_and_consent(sydent: OldSydent, target: Target) -> None:
    sydent.account(ALICE, token="a" * 64, consent="m1")
    sydent.add("accepted_terms_urls", user_id=ALICE, url=_URL)
    sydent.add("accepted_terms_urls", user_id=ALICE, url="https://example.org/terms-0.9")

    await target.take(sydent, terms=_TERMS)

    account = await target.database.read(lambda tx: tx.access_tokens.find(token_digest("a" * 64)))
    assert account is not None
    assert account.user_id == ALICE
    agreed = await target.database.read(lambda tx: tx.accounts.find_agreed_master_version(UserId(ALICE)))
    assert agreed == "m1"
    assert account.token_last_used_at_ms == START_MS, "its last use counts from the import"
    assert await target.database.read(lambda tx: tx.accounts.list_accepted(UserId(ALICE))) == {
        Acceptance("terms", "1.0", "en", _URL),
        Acceptance("", "", "", "https://example.org/terms-0.9"),
    }


async def test_consent_given_to_sydent_since_is_followed(sydent: OldSydent, target: Target) -> None:
    sydent.account(ALICE, token="a" * 64, consent="m0")
    sydent.account(BOB, token="b" * 64, consent="m0")
    await target.take(sydent, terms=_TERMS)
    sydent.connection.execute("UPDATE accounts SET consent_version = 'm1' WHERE user_id = ?", (ALICE,))
    sydent.connection.execute("UPDATE accounts SET consent_version = 'other' WHERE user_id = ?", (BOB,))
    await target.database.transaction(lambda tx: tx.accounts.agree_to_master_version(UserId(BOB), "m1"))

    report = await target.take(sydent, terms=_TERMS)

    assert report.table("accounts").moved == 1
    versions = await target.database.read(lambda tx: tx.imports.find_accounts([UserId(ALICE), UserId(BOB)]))
    assert versions == {ALICE: "m1", BOB: "m1"}


async def test_tokens_and_consent_without_an_account_are_skipped(sydent: OldSydent, target: Target) -> None:
    sydent.add("tokens", token="a" * 64, user_id=ALICE)
    sydent.add("accepted_terms_urls", user_id=ALICE, url=_URL)

    report = await target.take(sydent)

    assert report.table("tokens").skipped == {Skipped.NO_ACCOUNT: 1}
    assert report.table("accepted_terms_urls").skipped == {Skipped.NO_ACCOUNT: 1}


async def test_account_of_nobody_is_skipped_with_all_it_has(sydent: OldSydent, target: Target) -> None:
    sydent.account("nobody", token="a" * 64)
    sydent.add("accepted_terms_urls", user_id="nobody", url=_URL)

    report = await target.take(sydent)

    for table in ("accounts", "tokens", "accepted_terms_urls"):
        assert report.table(table).skipped == {Skipped.BAD_USER: 1}


# --- pepper, keys, invites ------------------------------------------------------------------


async def test_pepper_is_kept(sydent: OldSydent, target: Target) -> None:
    report = await target.take(sydent)

    [pepper] = await target.database.read(lambda tx: tx.peppers.list())
    assert (pepper.value, pepper.created_at_ms) == (PEPPER, START_MS)
    assert report.table("hashing_metadata").moved == 1


async def test_server_that_has_a_pepper_keeps_its_own(sydent: OldSydent, target: Target) -> None:
    await target.database.transaction(lambda tx: tx.peppers.add("ours", now_ms=1))

    report = await target.take(sydent)

    assert report.table("hashing_metadata").skipped == {Skipped.OWN_PEPPER: 1}
    assert [each.value for each in await target.database.read(lambda tx: tx.peppers.list())] == ["ours"]


async def test_ephemeral_keys_are_valid_for_a_year_from_now(sydent: OldSydent, target: Target) -> None:
    key = bytes(range(32))
    sydent.add("ephemeral_public_keys", public_key="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8", persistence_ts=1)
    sydent.add("ephemeral_public_keys", public_key="AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", persistence_ts=2)
    sydent.add("ephemeral_public_keys", public_key="short", persistence_ts=3)

    report = await target.take(sydent)

    last_ms = START_MS + EPHEMERAL_KEY_LIFETIME_MS - 1
    assert await target.database.read(lambda tx: tx.ephemeral_keys.is_valid(key, now_ms=last_ms))
    assert not await target.database.read(lambda tx: tx.ephemeral_keys.is_valid(key, now_ms=last_ms + 1))
    table = report.table("ephemeral_public_keys")
    assert (table.moved, table.merged, table.skipped) == (1, {Merged.SAME_KEY: 1}, {Skipped.BAD_KEY: 1})


async def test_waiting_invite_is_moved_without_the_key_that_only_its_mail_has(
    sydent: OldSydent, target: Target
) -> None:
    sydent.invite("New@example.com", token="waiting")
    sydent.invite("old@example.com", token="delivered", sent_s=5)
    sydent.invite("odd@example.com", token="odd", sender="bob")

    report = await target.take(sydent)

    invite = await target.database.read(lambda tx: tx.invites.find_by_token("waiting", now_ms=START_MS))
    assert invite is not None
    assert (invite.threepid.address, invite.room_id, invite.sender) == ("new@example.com", "!room:example.org", BOB)
    assert invite.created_at_ms == START_MS - DAY_MS, "Sydent keeps seconds here"
    assert invite.expires_at_ms == START_MS + INVITE_LIFETIME_MS
    assert (invite.private_key, invite.public_key) == ("", b"")
    assert report.table("invite_tokens").skipped == {Skipped.DELIVERED: 1, Skipped.BAD_USER: 1}


async def test_homeserver_that_sydent_had_not_reached_is_told(sydent: OldSydent, target: Target) -> None:
    """Sydent marks invites when they are bound, deletes them when the homeserver has listened, and forgets its tries."""
    sydent.bind("new@example.com", ALICE)
    sydent.invite("New@example.com", token="unheard", sent_s=_JUST_NOW_S)

    report = await target.take(sydent)

    [notice] = await target.notices()
    assert (notice["address"], notice["mxid"]) == ("new@example.com", ALICE)
    [invite] = notice["invites"]
    assert (invite["token"], invite["sender"], invite["mxid"]) == ("unheard", BOB, ALICE)
    signedjson.sign.verify_signed_json(invite["signed"], SERVER_NAME, _VERIFY_KEY)
    signedjson.sign.verify_signed_json(notice, SERVER_NAME, _VERIFY_KEY)
    assert report.table("invite_tokens") == TableReport(read=1, moved=1, rewritten=1)


async def test_homeserver_is_told_once_however_often_the_import_runs(sydent: OldSydent, target: Target) -> None:
    sydent.bind("new@example.com", ALICE)
    sydent.invite("new@example.com", sent_s=_JUST_NOW_S)
    await target.take(sydent, dry_run=True)
    assert await target.notices() == []

    await target.take(sydent)
    await target.take(sydent)

    assert len(await target.notices()) == 1


async def test_invite_that_was_bound_between_two_imports_is_told_of(sydent: OldSydent, target: Target) -> None:
    sydent.invite("new@example.com")
    await target.take(sydent)
    sydent.bind("new@example.com", ALICE)
    sydent.connection.execute("UPDATE invite_tokens SET sent_ts = ?", (_JUST_NOW_S,))

    await target.take(sydent)

    [notice] = await target.notices()
    assert notice["mxid"] == ALICE


async def test_invite_whose_address_was_unbound_since_waits(sydent: OldSydent, target: Target) -> None:
    sydent.invite("new@example.com", token="waiting", sent_s=_JUST_NOW_S)
    sydent.unbind("new@example.com")

    await target.take(sydent)

    assert await target.notices() == []
    [(invite, is_taken)] = await target.database.read(lambda tx: tx.invites.list_all(now_ms=START_MS, limit=9))
    assert (invite.token, is_taken) == ("waiting", False)


@pytest.mark.parametrize(
    ("age_s", "keeps_delivered_invites"),
    [
        pytest.param(1, True, id="Sydent kept what was delivered (delete_tokens_on_bind = false)"),
        pytest.param(14 * DAY_MS // 1000, False, id="older than a homeserver is tried"),
    ],
)
async def test_invite_that_was_delivered_is_not_delivered_again(
    sydent: OldSydent, target: Target, age_s: int, keeps_delivered_invites: bool
) -> None:
    sydent.bind("new@example.com", ALICE)
    sydent.invite("new@example.com", sent_s=START_MS // 1000 - age_s)

    report = await target.take(sydent, keeps_delivered_invites=keeps_delivered_invites)

    assert report.table("invite_tokens").skipped == {Skipped.DELIVERED: 1}
    assert await target.notices() == []


# --- validation sessions --------------------------------------------------------------------


async def test_sessions_that_can_be_used_are_moved(sydent: OldSydent, target: Target) -> None:
    sydent.session(11, "Alice@example.com", token="T" * 32)
    sydent.session(12, validated=1, secret="other", token="V" * 32)
    sydent.session(13, secret="late", mtime=START_MS - SESSION_LIFETIME_MS, token="L" * 32)

    report = await target.take(sydent)

    session = await target.database.read(
        lambda tx: tx.validation_sessions.lookup(SessionId("11"), ClientSecret("secret"))
    )
    assert session is not None
    assert session.threepid is not None
    assert session.threepid.address == "alice@example.com"
    assert session.requested_by is None, "Sydent doesn't know who asked"
    assert session.expires_at_ms == START_MS - MINUTE_MS + SESSION_LIFETIME_MS
    validated = await target.database.read(lambda tx: tx.validation_sessions.lookup_by_id(SessionId("12")))
    assert validated is not None
    assert validated.validated_at_ms == START_MS - MINUTE_MS
    found = await target.database.read(lambda tx: tx.validation_sessions.find_by_token(token_digest("T" * 32)))
    assert found is not None
    assert found[0].sid == "11"
    assert report.table("threepid_validation_sessions").skipped == {Skipped.OVER: 1}
    assert report.table("threepid_token_auths").skipped == {Skipped.NO_SESSION: 1}


async def test_session_validated_with_sydent_since_is_followed(sydent: OldSydent, target: Target) -> None:
    sydent.session(11)
    await target.take(sydent)
    sydent.connection.execute("UPDATE threepid_validation_sessions SET validated = 1")

    report = await target.take(sydent)

    assert report.table("threepid_validation_sessions").moved == 1
    session = await target.database.read(lambda tx: tx.validation_sessions.lookup_by_id(SessionId("11")))
    assert session is not None
    assert session.validated_at_ms is not None


async def test_of_two_sessions_that_are_one_here_the_newer_is_moved(sydent: OldSydent, target: Target) -> None:
    sydent.session(11, "Alice@example.com", mtime=START_MS - 2, token="old")
    sydent.session(12, "alice@example.com", mtime=START_MS - 1, token="new")

    report = await target.take(sydent)

    assert report.table("threepid_validation_sessions").merged == {Merged.SAME_SESSION: 1}
    assert await target.database.read(lambda tx: tx.validation_sessions.lookup_by_id(SessionId("12"))) is not None


async def test_codes_are_moved_as_codes(sydent: OldSydent, target: Target) -> None:
    """Their digest alone would tell them to whoever tries all the million."""
    sydent.session(11, "447700900123", medium="msisdn", token="123456")
    sydent.session(12, "447700900124", medium="msisdn", token="111111", validated=1)
    sydent.session(13, "447700900125", medium="msisdn", token="222222", mtime=START_MS - CODE_LIFETIME_MS)

    report = await target.take(sydent)

    session = await target.database.read(lambda tx: tx.validation_sessions.lookup_by_id(SessionId("11")))
    assert session is not None
    assert session.code is not None
    assert session.code.expires_at_ms == START_MS - MINUTE_MS + CODE_LIFETIME_MS
    assert CODE_HASHER.matches(session.code.hashed, SessionId("11"), "123456")
    file = target.directory / "identity.db"
    assert read_rows(file, "SELECT count(*) FROM validation_tokens") == [(0,)]
    assert read_rows(file, "SELECT sid FROM validation_sessions ORDER BY sid") == [("11",), ("12",)]
    assert report.table("threepid_validation_sessions").skipped == {Skipped.CODE: 1}
    assert report.table("threepid_token_auths").moved == 1


# --- schemas --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", range(6))
async def test_every_schema_can_be_imported(tmp_path: Path, version: int) -> None:
    sydent = OldSydent(tmp_path / "old.db", version=version)
    sydent.bind("Alice@example.com")
    sydent.publish("far@example.com", BOB, origin=OTHER_SERVER, origin_id=1)
    sydent.invite("new@example.com")
    sydent.session(5)
    sydent.add("peers", name=OTHER_SERVER, active=1)
    if version >= 1:
        sydent.unbind("gone@example.com")
    if version >= 4:
        sydent.account(ALICE, token="a" * 64)

    async with open_target(tmp_path) as target:
        report = await target.take(sydent)
        assert await target.bindings() == {"alice@example.com": ALICE, "far@example.com": BOB}
        assert (await target.take(sydent)).moved == 0

    assert report.table("tokens").moved == (1 if version >= 4 else 0)
    assert report.table("peers").skipped == {Skipped.NO_REPLICATION: 1}


async def test_marks_do_not_survive_a_renumbering(tmp_path: Path) -> None:
    """Sydent numbers its rows anew when it leaves schema 0."""
    old, new = OldSydent(tmp_path / "old.db", version=0), OldSydent(tmp_path / "new.db", version=1)
    for number in range(5):
        old.bind(f"user{number}@example.com")
    new.bind("late@example.com")

    async with open_target(tmp_path) as target:
        await target.take(old)
        await target.take(new)
        assert len(await target.bindings()) == 6


# --- who Sydent was -------------------------------------------------------------------------


def test_same_name_and_key_are_accepted(sydent: OldSydent) -> None:
    with open_sydent(sydent.path) as source:
        check_identity(source, server_name=SERVER_NAME, signing_key=None)
    sydent.bind("alice@example.com")
    with open_sydent(sydent.path) as source:
        key = SigningKey.parse(SIGNING_TEXT, server_name=SERVER_NAME)
        check_identity(source, server_name=SERVER_NAME, signing_key=key)


@pytest.mark.parametrize("key", [None, SigningKey(server_name=SERVER_NAME, version="0", seed=b"k" * 32)])
def test_other_key_is_refused(sydent: OldSydent, key: SigningKey | None) -> None:
    sydent.bind("alice@example.com")
    with open_sydent(sydent.path) as source, pytest.raises(CannotImport, match="not signed by this server's key"):
        check_identity(source, server_name=SERVER_NAME, signing_key=key)


def test_other_name_is_refused(sydent: OldSydent) -> None:
    sydent.bind("alice@example.com")
    key = SigningKey.parse(SIGNING_TEXT, server_name="new.example.org")
    with open_sydent(sydent.path) as source, pytest.raises(CannotImport, match=r"made by id\.example\.org"):
        check_identity(source, server_name="new.example.org", signing_key=key)


@pytest.mark.parametrize(
    ("moved", "dry_run", "said"),
    [
        (1, False, "1 row moved."),
        (2, False, "2 rows moved."),
        (1, True, "1 row would be moved. Nothing was written."),
    ],
)
def test_report_counts_as_people_do(moved: int, dry_run: bool, said: str) -> None:
    report = ImportReport(dry_run=dry_run, tables={"accounts": TableReport(read=moved, moved=moved)})
    assert report.to_text().splitlines()[-1] == said
