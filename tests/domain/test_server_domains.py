from __future__ import annotations

import pytest

from identity_server.domain.identifiers import ServerName
from identity_server.domain.server_domains import registrable_domain


@pytest.mark.parametrize(
    ("server_name", "domain"),
    [
        ("example.org", "example.org"),
        ("example.org:8448", "example.org"),
        ("localhost", "localhost"),
        ("matrix.chat.example.org:8448", "example.org"),
        ("one.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        # Names below these are given away.
        ("one.duckdns.org", "duckdns.org"),
        ("two.github.io:8448", "github.io"),
        ("matrix.home.lan", "home.lan"),
        ("xn--bcher-kva.example.xn--p1ai", "example.xn--p1ai"),
        ("192.0.2.7", "192.0.2.0/24"),
        ("192.0.2.99:8449", "192.0.2.0/24"),
        ("[2001:db8:1:2ff::1]:8448", "2001:db8:1:200::/56"),
    ],
)
def test_whom_a_name_belongs_to(server_name: str, domain: str) -> None:
    assert registrable_domain(ServerName(server_name)) == domain
