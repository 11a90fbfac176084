from __future__ import annotations

import socket
from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from identity_server.outbound.addresses import _SPECIAL_PURPOSE, AddressRefused, AddressScreen


@pytest.mark.parametrize("network", _SPECIAL_PURPOSE)
def test_refuses_special_purpose_networks_from_first_to_last_address(network: str) -> None:
    screen = AddressScreen()
    assert not screen.permits(ip_network(network)[0])
    assert not screen.permits(ip_network(network)[-1])


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.0.9",  # is_global calls this one global
        "192.88.99.1",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # IPv4-compatible
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:0:a00:1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:0a00:0001::1",  # 6to4 of 10.0.0.1
        "2002:7f00:0001::",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
        "2001:4:112::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "3fff::1",
        "5f00::1",
    ],
)
def test_refuses(address: str) -> None:
    assert not AddressScreen().permits(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "172.15.255.255",
        "172.32.0.1",
        "100.128.0.1",
        "192.0.1.1",
        "2606:4700::1",
        "2001:200::1",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
        "2002:0101:0101::1",
    ],
)
def test_permits(address: str) -> None:
    assert AddressScreen().permits(ip_address(address))


@pytest.mark.parametrize("form", ["{}", "::ffff:{}", "64:ff9b::{}"])
def test_lists_hold_for_every_form_of_an_address(form: str) -> None:
    screen = AddressScreen(
        blacklist=[ip_network("9.9.9.0/24"), ip_network("::ffff:8.8.8.0/120")], whitelist=[ip_network("10.0.0.0/24")]
    )
    assert screen.permits(ip_address(form.format("10.0.0.7")))
    assert not screen.permits(ip_address(form.format("10.0.1.7")))
    assert not screen.permits(ip_address(form.format("9.9.9.9")))
    assert not screen.permits(ip_address(form.format("8.8.8.8")))


def test_a_whitelist_makes_exceptions_from_a_blacklist_that_adds_to_the_table() -> None:
    screen = AddressScreen(blacklist=[ip_network("9.0.0.0/8")], whitelist=[ip_network("9.9.9.9/32")])
    assert screen.permits(ip_address("9.9.9.9"))
    assert not screen.permits(ip_address("9.9.9.8"))
    assert not screen.permits(ip_address("127.0.0.1"))


def test_a_blacklisted_wrapping_form_is_refused_whatever_it_wraps() -> None:
    screen = AddressScreen(blacklist=[ip_network("2002::/16")])
    assert not screen.permits(ip_address("2002:0101:0101::1"))
    assert screen.permits(ip_address("1.1.1.1"))


def test_whitelisting_an_ipv6_loopback() -> None:
    assert AddressScreen(whitelist=[ip_network("::1/128")]).permits(ip_address("::1"))


@given(st.ip_addresses(v=4))
def test_whatever_python_calls_private_or_multicast_is_refused(address: IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved:
        assert not AddressScreen().permits(address)


def test_opens_sockets_for_permitted_addresses_only() -> None:
    screen = AddressScreen(whitelist=[ip_network("127.77.0.1/32")])
    kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    screen.open_socket((*kind, ("127.77.0.1", 1))).close()
    with pytest.raises(AddressRefused):
        screen.open_socket((*kind, ("127.77.0.2", 1)))
    with pytest.raises(AddressRefused):
        screen.open_socket((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", ("/tmp/x",)))
