from __future__ import annotations

import pytest

from identity_server.domain.networks import client_network


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2ff::1", "2001:db8:1:200::/56"),
        ("fe80::1%eth0", "fe80::/56"),
        ("", "local"),
        (None, "local"),
        ("nonsense", "local"),
        ("/run/identity.sock", "local"),
    ],
)
def test_networks(address: str | None, network: str) -> None:
    assert client_network(address) == network
