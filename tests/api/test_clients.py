"""The client's address behind proxies: only what our own proxies say is believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog

from identity_server.api.proxies import TrustedProxies
from identity_server.domain.networks import client_network
from tests.api.support import assert_refused
from tests.support.harness import ALICE, Harness, running

PROXIES = TrustedProxies(tuple(ipaddress.ip_network(each) for each in ("10.0.0.0/8", "127.0.0.1/32", "fd00::/8")))
CLIENT = "203.0.113.7"


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("10.1.1.1", [CLIENT], CLIENT),
        ("10.1.1.1", [f"198.51.100.1, {CLIENT}"], CLIENT),
        ("10.1.1.1", [f"{CLIENT}, 10.2.2.2, 127.0.0.1"], CLIENT),
        ("10.1.1.1", [f"198.51.100.1, 10.3.3.3, {CLIENT}, 10.2.2.2"], CLIENT),
        ("10.1.1.1", ["198.51.100.1", CLIENT], CLIENT),
        ("10.1.1.1", [CLIENT, "10.2.2.2"], CLIENT),
        ("10.1.1.1", [f"  {CLIENT}\t,\t10.2.2.2 "], CLIENT),
        ("fd00::1", ["2001:db8::1"], "2001:db8::1"),
        ("::ffff:10.1.1.1", [CLIENT], CLIENT),
        ("10.1.1.1", [f"{CLIENT}, ::ffff:10.2.2.2"], CLIENT),
        # Nobody but a proxy of ours is believed.
        (CLIENT, ["198.51.100.1"], CLIENT),
        (CLIENT, ["10.1.1.1"], CLIENT),
        ("::ffff:203.0.113.7", ["198.51.100.1"], "::ffff:203.0.113.7"),
        ("", ["198.51.100.1"], ""),
        # A request that began at a proxy.
        ("10.1.1.1", [], "10.1.1.1"),
        ("10.1.1.1", ["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
    ],
)
def test_the_right_most_hop_that_is_not_ours(peer: str, forwarded: Sequence[str], found: str) -> None:
    assert PROXIES.client_address(peer, forwarded) == found


@pytest.mark.parametrize(
    "garbage",
    [
        "",
        ",",
        "unknown",
        "_hidden",
        "10.1.1",
        "10.1.1.1.1",
        "010.1.1.1",
        "10.1.1.1/8",
        "\x00",
        "\udcff",
        "\u0661\u0660.\u0661.\u0661.\u0661",
    ],
)
def test_garbage_is_trusted_by_nobody_and_counts_as_one_network(garbage: str) -> None:
    found = PROXIES.client_address("10.1.1.1", [f"{CLIENT}, {garbage}"])
    assert found != CLIENT
    assert client_network(found) == "local"


def test_a_list_without_end_is_read_from_the_right() -> None:
    endless = ", ".join(["198.51.100.1"] * 100_000 + [CLIENT, "10.2.2.2"])
    assert PROXIES.client_address("10.1.1.1", [endless]) == CLIENT
    # Past so many hops of ours, the trail is given up rather than followed to what may be made up.
    assert PROXIES.client_address("10.1.1.1", [", ".join([CLIENT] + ["10.2.2.2"] * 40)]) == "10.2.2.2"


async def registered(server: Harness, forwarded_for: str, number: int) -> int:
    body = {
        "matrix_server_name": "example.org",
        "access_token": server.homeservers.issue(f"@user{number}:example.org"),
    }
    reply = await server.post("account/register", body, headers={"X-Forwarded-For": forwarded_for})
    if reply.status == 429:
        assert_refused(reply, 429, "M_LIMIT_EXCEEDED", hidden=forwarded_for)
        assert reply.json["retry_after_ms"] > 0
        assert int(reply.headers["Retry-After"]) >= 1
    return reply.status


async def test_limits_count_the_client_behind_a_trusted_proxy(tmp_path: Path) -> None:
    async with running(tmp_path, settings={"HTTP__TRUSTED_PROXIES": "127.0.0.1"}) as server:
        statuses = [await registered(server, f"198.51.100.{number}, {CLIENT}", number) for number in range(31)]
        assert statuses == [200] * 30 + [429]
        assert await registered(server, "192.0.2.1", 31) == 200


async def test_limits_count_the_peer_where_no_proxy_is_trusted(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        statuses = [await registered(server, f"198.51.{number}.1", number) for number in range(31)]
        assert statuses == [200] * 30 + [429]


@pytest.mark.parametrize(
    ("trusted", "headers", "times"),
    [("127.0.0.1", {}, 1), ("127.0.0.1", {"X-Forwarded-For": CLIENT}, 0), ("", {}, 0)],
)
async def test_proxy_that_names_no_client_is_told_of_once(
    tmp_path: Path, trusted: str, headers: dict[str, str], times: int
) -> None:
    async with running(tmp_path, settings={"HTTP__TRUSTED_PROXIES": trusted}) as server:
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                body = {"matrix_server_name": "example.org", "access_token": server.homeservers.issue(ALICE)}
                assert (await server.post("account/register", body, headers=headers)).status == 200
    assert sum(each["event"] == "proxy.names_no_client" for each in logs) == times
