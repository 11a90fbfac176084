"""The page for Prometheus, and what may stand on it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from identity_server.api.routes import INTERNAL_ROUTES, ROUTES, V1_ACCESS, V1_ALWAYS, V1_ASSOCIATIONS, V1_LOOKUP
from identity_server.domain.errors import Unavailable
from identity_server.domain.ports import DeliveryPostponed
from identity_server.metrics import Reading
from identity_server.metrics.table import BY_NAME
from identity_server.server.metrics_page import metrics_app
from identity_server.server.scraping import Scraping
from identity_server.storage.database import Database
from identity_server.wiring.measuring import read_signs
from tests.support.harness import Harness, _listening

_PATTERNS = {
    route.path
    for table in (ROUTES, V1_ALWAYS, V1_ACCESS, V1_ASSOCIATIONS, V1_LOOKUP, INTERNAL_ROUTES)
    for route in table
}

_LABELS = ("route", "medium", "method", "status", "kind", "state", "chore", "outcome", "limit", "result", "le")


def scraping(server: Harness) -> Scraping:
    """What a worker shows, of this process alone."""
    system = server.system

    async def read(followed: float | None) -> Reading:
        return await read_signs(system.services.vital_signs, chores=system.upkeep.shared_names, followed=followed)

    return Scraping(sums=lambda: server.metrics.totals, metrics=server.metrics, read=read)


async def page(server: Harness) -> dict[tuple[str, ...], float]:
    """Each sample's value, by its name and the values of its labels, in the order of _LABELS."""
    app = metrics_app(scraping(server).totals)
    async with _listening(app) as base, ClientSession() as session, session.get(f"{base}/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text = await response.text()
    return {
        (
            sample.name.removeprefix("identity_server_"),
            *(sample.labels[label] for label in _LABELS if label in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_requests_lookups_and_jobs_are_counted(server: Harness) -> None:
    alice = await server.register()
    await server.bound(alice, "alice@example.com")
    await server.system.runner.run_until_idle()
    await server.lookup(alice, "alice@example.com", "nobody@example.com", "nobody.else@example.com")
    samples = await page(server)
    lookup = "/_matrix/identity/v2/lookup"
    assert samples["http_request_duration_seconds_count", lookup, "POST", "200"] == 1
    assert samples["http_request_duration_seconds_bucket", lookup, "POST", "200", "+Inf"] == 1
    assert samples["http_request_duration_seconds_sum", lookup, "POST", "200"] > 0
    assert samples["lookup_addresses_total",] == 3
    assert samples["lookup_hits_total",] == 1
    assert samples["jobs_total", "mail", "done"] >= 1
    assert samples["jobs_total", "bind-notice", "done"] == 1
    assert [value for (name, *_), value in samples.items() if name == "build_info"] == [1]


async def test_nothing_of_a_caller_becomes_a_label(server: Harness) -> None:
    alice = await server.register()
    await server.get("/_matrix/identity/v2/secret-alice@example.com?access_token=" + alice.token)
    await server.get("/_matrix/identity/v2/pubkey/ed25519:alice", as_=alice)
    await server.request("BREW", "/_matrix/identity/v2/account", as_=alice)
    samples = await page(server)
    for name, *labels in samples:
        if not name.startswith("http_"):
            continue
        route, method, status, *_ = labels
        assert route in _PATTERNS | {"unknown"}, route
        assert method in {"GET", "POST", "other"}
        assert re.fullmatch(r"\d{3}", status)
    assert ("http_request_duration_seconds_count", "unknown", "GET", "404") in samples


async def test_clients_see_no_metrics(server: Harness) -> None:
    assert (await server.get("/metrics")).status == 404


async def test_everything_that_is_counted_is_declared(server: Harness) -> None:
    alice = await server.register()
    await server.bound(alice, "alice@example.com")
    await server.lookup(alice, "alice@example.com")
    totals = await scraping(server).totals()
    assert totals.reading is not None
    for name, *labels in (*totals.numbers, *totals.gauges, *totals.reading.gauges):
        assert len(BY_NAME[name].labels) == len(labels), name
        for label, value in zip(BY_NAME[name].labels, labels, strict=True):
            assert not label.values or value in label.values, (name, value)


async def test_what_was_never_counted_is_shown_as_zero(server: Harness) -> None:
    samples = await page(server)
    assert samples["refusals_total", "registrations"] == 0
    assert samples["jobs_total", "sms", "refused"] == 0
    assert samples["chore_runs_total", "sweep visits", "failed"] == 0


async def test_every_429_is_counted_by_its_limit(server: Harness) -> None:
    alice = await server.register()
    for number in range(25):
        await server.request_token(alice, f"alice{number}@example.com")
    for _ in range(31):
        await server.post("account/register", {})
    samples = await page(server)
    statuses = [value for (name, *labels), value in samples.items() if name.endswith("_count") and "429" in labels]
    assert samples["refusals_total", "validation mail"] == sum(statuses) == 20


async def test_data_is_shown_as_it_stands(server: Harness) -> None:
    alice = await server.register()
    await server.request_token(alice, "waits@example.com", secret="waits")
    await server.validated(alice, "proven@example.com", secret="proven")
    server.clock.advance(hours=23)
    await server.request_token(alice, "late@example.com", secret="late")
    server.clock.advance(hours=1, minutes=30)
    server.mail.answers.append(DeliveryPostponed("connect: refused"))
    await server.request_token(alice, "tried@example.com", secret="tried")
    server.clock.advance(seconds=90)
    samples = await page(server)
    assert samples["validation_sessions", "email", "over"] == 2
    assert samples["validation_sessions", "email", "pending"] == 2
    assert samples["validation_sessions", "msisdn", "pending"] == 0
    assert samples["jobs_waiting", "mail"] == 1
    assert samples["jobs_oldest_age_seconds", "mail"] == 90
    assert samples["jobs_overdue_seconds", "mail"] == 60
    assert samples["jobs_oldest_age_seconds", "sms"] == 0
    assert samples["pepper_age_seconds",] == 24.5 * 3600 + 90
    assert samples["pepper_rotation_seconds",] == 30 * 86_400
    assert samples["database_up",] == 1
    assert samples["index_lag_seconds",] == 0
    assert samples["chore_overdue_seconds", "sweep visits"] == 0


async def test_bindings_the_index_hasnt_seen_and_entries_that_wait_have_an_age(
    server: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await server.register()
    await server.bound(alice, "alice@example.com", secret="first")
    assert (await page(server))["index_associations",] == 1

    async def stands_still() -> None: ...

    monkeypatch.setattr(server.system.database, "_followers", [])
    monkeypatch.setattr(server.system.index, "catch_up", stands_still)
    await server.bound(alice, "alice@example.org", secret="second")
    server.clock.advance(minutes=5)
    monkeypatch.setattr("identity_server.server.scraping._FRESH_SECONDS", 0.0)
    monkeypatch.setattr("identity_server.server.scraping._PAUSE_FACTOR", 0)
    samples = await page(server)
    assert samples["index_associations",] == 1
    assert samples["index_lag_seconds",] == 300
    assert samples["audit_lag_seconds",] == 300
    await server.system.services.journal.link()
    assert (await page(server))["audit_lag_seconds",] == 0


async def test_chores_that_nobody_does_are_overdue(server: Harness) -> None:
    await server.system.upkeep.run_due()
    server.clock.advance(hours=3)
    samples = await page(server)
    assert samples["chore_runs_total", "sweep visits", "done"] == 1
    assert samples["chore_overdue_seconds", "sweep visits"] == 2.5 * 3600


async def test_tokens_are_remembered(server: Harness) -> None:
    alice = await server.register()
    for _ in range(5):
        await server.get("account", as_=alice)
    samples = await page(server)
    assert samples["token_checks_total", "asked"] == 1
    assert samples["token_checks_total", "remembered"] == 4


async def test_database_is_read_once_for_many_scrapes(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    source = scraping(server)
    before = (await source.totals()).numbers["database_transactions", "read"]
    for _ in range(20):
        totals = await source.totals()
    assert totals.numbers["database_transactions", "read"] == before
    # One that took a second is good for fifty.
    assert totals.reading is not None
    slow = {**totals.reading.gauges, ("database_reading_seconds",): 1.0}
    server.metrics.note_reading(Reading(totals.reading.taken_at - 40, slow))
    assert (await source.totals()).numbers["database_transactions", "read"] == before
    server.metrics.note_reading(Reading(totals.reading.taken_at - 60, slow))
    assert (await source.totals()).reading.taken_at >= totals.reading.taken_at  # type: ignore[union-attr]  # it has one


async def test_page_is_shown_while_the_database_is_away(server: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def is_away(*_arguments: Any, **_more: Any) -> None:
        raise Unavailable

    monkeypatch.setattr(Database, "read", is_away)
    samples = await page(server)
    assert samples["database_up",] == 0
    assert ("pepper_age_seconds",) not in samples
    assert samples["lookup_hits_total",] == 0
