"""What is kept is kept for as long as the schedule says, which everybody can read, and no longer."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner

from identity_server.__main__ import main
from identity_server.domain import retention
from identity_server.domain.durations import HOUR_MS
from identity_server.domain.retention import Kept, retention_schedule
from identity_server.wiring.settings import retention_lifetimes
from tests.flows.test_invites import invite, settle
from tests.flows.test_phone import bound_phone, request_code
from tests.flows.test_privacy_page import PAGE, ask, ask_by_phone, press, token_for
from tests.support.harness import Harness, running

SETTINGS = {"SMS__MSISDN_REVALIDATE_AFTER_MONTHS": "6", "GENERAL__TERMS_PATH": "terms"}

# What is left of a row, and how often its time may run: by what `what` begins with.
LEFT = {
    "A phone number that is connected": ("associations WHERE medium = 'msisdn'", 1),
    "An address that is being confirmed": ("validation_sessions WHERE sealed_address IS NOT NULL", 2),
    "That an address was being": ("validation_sessions", 3),
    "A link that was mailed": ("validation_tokens", 1),
    "A code that was texted": ("validation_sessions WHERE code_hash IS NOT NULL AND validated_at_ms IS NULL", 1),
    "An invitation to": ("invites", 1),
    "The public key of": ("ephemeral_keys", 1),
    "A visit to": ("visits", 1),
    "A sign-in of": ("access_tokens", 1),
    "Who has asked": ("rate_limits", 1),
    "The network that": ("rate_limits", 1),
    "What an account has": ("asked_addresses", 1),
    "How much an account": ("lookup_budgets", 1),
    # What was done since is in it, too.
    "The journal of": ("audit_chain WHERE event = 'bound'", 1),
    "Which connection": (
        "association_changes WHERE change_seq < (SELECT max(change_seq) FROM association_changes)",
        1,
    ),
    "The peppers of": ("peppers WHERE id = 1", 1),
}
# The index has tests of its own.
ELSEWHERE = ("The index that",)


def left(server: Harness, row: Kept) -> int:
    what, _ = next(each for start, each in LEFT.items() if row.what.startswith(start))
    count: int = server.rows(f"SELECT count(*) FROM {what}")[0][0]
    return count


def deadline_ms(row: Kept) -> int:
    """How long after everything was done the last of it must be gone."""
    _, times = next(each for start, each in LEFT.items() if row.what.startswith(start))
    assert row.sweep is not None
    # Binding a number begins an hour later.
    return times * (row.at_most_ms or 0) + row.sweep.every_ms + HOUR_MS


async def do_everything(server: Harness) -> None:
    """Leave something in every row."""
    alice = await server.register()
    terms = (await server.get("terms")).json["policies"]
    urls = [each["en"]["url"] for each in terms.values()]
    assert (await server.post("terms", {"user_accepts": urls}, as_=alice)).status == 200
    await bound_phone(server, alice, secret="number")
    await server.bound(alice, "alice@example.com", secret="bound")
    await server.validated(alice, "proven@example.com", secret="proven")
    await server.request_token(alice, "asked@example.com", secret="asked")
    await request_code(server, alice, secret="another")
    await invite(server, alice)
    await press(server, "refuse", await token_for(server, "refused@example.com"))
    await ask(server, "visitor@example.com")
    await ask_by_phone(server)
    await server.lookup(alice, "carol@example.com", "dave@example.com")
    await server.system.services.journal.link()
    await settle(server)


async def come_round(server: Harness) -> None:
    """Have everything done that is due."""
    await settle(server)
    await server.system.upkeep.run_due()
    await server.take_pepper_into_use()
    await server.system.services.journal.link()


async def test_everything_is_gone_when_the_schedule_says_so(tmp_path: Path) -> None:
    async with running(tmp_path, settings=SETTINGS) as server:
        began_ms = server.clock.ms
        await do_everything(server)
        swept = [row for row in retention_schedule(retention_lifetimes(server.config)) if row.sweep is not None]
        swept = [row for row in swept if not row.what.startswith(ELSEWHERE)]
        assert [row.what for row in swept if not left(server, row)] == [], "something of each is there"
        done_ms = server.clock.ms
        rotation_ms = began_ms + 30 * 24 * HOUR_MS
        for row in sorted(swept, key=deadline_ms):
            if server.clock.ms < rotation_ms < done_ms + deadline_ms(row):
                server.clock.ms = rotation_ms
                await come_round(server)
            server.clock.ms = max(server.clock.ms, done_ms + deadline_ms(row))
            await come_round(server)
            assert left(server, row) == 0, row.what
        # What no time ends is still there.
        assert server.count("accounts") == 1
        assert server.count("accepted_terms") == 2
        assert server.rows("SELECT medium FROM associations") == [("email",)]
        assert server.count("refused_addresses") == 1
        assert server.count("jobs") == 0


async def test_no_limit_counts_for_longer_than_is_said(tmp_path: Path) -> None:
    async with running(tmp_path, settings=SETTINGS) as server:
        await do_everything(server)
        longest_ms = retention_lifetimes(server.config).limit_ms
        assert longest_ms == 24 * HOUR_MS
        (last_ms,) = server.rows("SELECT max(whole_again_at_ms) FROM rate_limits")[0]
        assert server.clock.ms + HOUR_MS < last_ms <= server.clock.ms + longest_ms


def test_networks_are_remembered_for_hours_not_days() -> None:
    (network,) = [row for row in retention_schedule(retention.Lifetimes()) if row.what.startswith("The network")]
    assert network.at_most_ms is not None
    assert network.at_most_ms <= 24 * HOUR_MS
    assert network.sweep is not None
    assert network.sweep.every_ms <= HOUR_MS


@pytest.mark.parametrize(
    ("language", "heading", "token", "phone"),
    [
        ("en", "What is kept, and for how long", "7 days", "190 days"),
        ("fr", "Ce qui est conservé, et combien de temps", "7 jours", "190 jours"),
        ("de", "Was gespeichert wird, und wie lange", "7 Tage", "190 Tage"),
        ("es", "Qué se guarda, y cuánto tiempo", "7 días", "190 días"),
    ],
)
async def test_people_can_read_it(tmp_path: Path, language: str, heading: str, token: str, phone: str) -> None:
    settings = {**SETTINGS, "GENERAL__ACCESS_TOKEN_LIFETIME_DAYS": "7"}
    async with running(tmp_path, settings=settings) as server:
        reply = await server.get(f"{PAGE}/retention", headers={"Accept-Language": language})
        assert (reply.status, reply.headers["Content-Language"]) == (200, language)
        text = unescape(reply.body.decode()).replace("\u00a0", " ")
        assert f"<h1>{heading}</h1>" in text
        assert token in text
        assert phone in text
        # What says nothing about anybody is for operators.
        personal = [row for row in retention_schedule(retention_lifetimes(server.config)) if row.is_personal]
        assert text.count("<dl ") == len(personal) > 15
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'")


async def test_every_page_that_people_read_about_their_data_leads_there(tmp_path: Path) -> None:
    async with running(tmp_path, settings=SETTINGS) as server:
        (policy, *_) = (await server.get("terms")).json["policies"].values()
        path = policy["de"]["url"].removeprefix("https://id.example.org")
        held = await press(server, "open", await token_for(server))
        for reply in (await server.get(path), await server.get(PAGE), held):
            assert b'href="https://id.example.org/_matrix/identity/privacy/retention"' in reply.body


def test_operators_print_it_for_their_records(tmp_path: Path) -> None:
    conf = tmp_path / "sydent.conf"
    conf.write_text("[audit]\nkeep_days = 3650\n")
    german = CliRunner().invoke(main, ["retention", "-c", str(conf), "--language", "de"])
    assert "| 10 Jahre; dann entfernt innerhalb von 1 Stunde |" in german.output
    rows = json.loads(CliRunner().invoke(main, ["retention", "-c", str(conf), "--json"]).output)
    (journal,) = [row for row in rows if row["sweep"] == "prune the audit journal"]
    assert journal["at_most_ms"] == 3650 * 24 * HOUR_MS
    assert {"what": "whom an entry is about", "forms": ["keyed"]}.items() <= journal["parts"][0].items()
    assert CliRunner().invoke(main, ["retention", "--language", "xx"]).exit_code == 2
