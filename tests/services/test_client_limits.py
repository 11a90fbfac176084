from __future__ import annotations

import pytest

from identity_server.domain.errors import RateLimited
from identity_server.domain.rate_limits import RateLimit
from identity_server.services.client_limits import ClientLimits, client_network
from tests.support.fakes import FakeClock


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
        ("", "local"),
        (None, "local"),
        ("nonsense", "local"),
    ],
)
def test_networks(address: str | None, network: str) -> None:
    assert client_network(address) == network


def test_networks_do_not_share_their_allowance() -> None:
    limits = ClientLimits(clock=FakeClock(), limit=RateLimit(burst=1, interval_ms=1000), at_once=5)
    with limits.admit("a"):
        pass
    with limits.admit("b"):
        pass
    with pytest.raises(RateLimited), limits.admit("a"):
        pass


def test_what_failed_is_no_longer_under_way() -> None:
    limits = ClientLimits(clock=FakeClock(), limit=RateLimit(burst=9, interval_ms=1), at_once=1)
    with pytest.raises(KeyError), limits.admit("a"):
        raise KeyError
    with limits.admit("a"), pytest.raises(RateLimited), limits.admit("a"):
        pass
