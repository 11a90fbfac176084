"""The page for Prometheus, and what may stand on it."""

from __future__ import annotations

import re

from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from identity_server.api.app_keys import METRICS
from identity_server.api.routes import INTERNAL_ROUTES, ROUTES, V1_ACCESS, V1_ALWAYS, V1_ASSOCIATIONS, V1_LOOKUP
from identity_server.server.metrics_page import metrics_app
from tests.support.harness import Harness, _listening

_PATTERNS = {
    route.path
    for table in (ROUTES, V1_ALWAYS, V1_ACCESS, V1_ASSOCIATIONS, V1_LOOKUP, INTERNAL_ROUTES)
    for route in table
}

_LABELS = ("route", "method", "status", "kind", "outcome", "le")


async def page(server: Harness) -> dict[tuple[str, ...], float]:
    """Each sample's value, by its name and the values of its labels, in the order of _LABELS."""
    app = metrics_app(lambda: server.system.app[METRICS].totals)
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
