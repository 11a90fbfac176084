"""Which addresses this server may connect to, so that strangers can't make it talk to its own network.

Anyone can name a homeserver, so anyone can name 10.0.0.1, or a name that resolves to it, or redirect there.
The rule: every outgoing socket to a homeserver is opened by `AddressScreen.open_socket`, which sees the very
address that is about to be connected to, whatever name, redirect or DNS answer led to it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

NO_ADDRESS_FOR_US = "it has no address that this server connects to"
"""What callers are told of a name that leads nowhere, and of one that leads into a network of ours: they could otherwise
ask which names there are in it. The log tells one from the other."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's IPv4 and IPv6 Special-Purpose Address Registries (2025-10), with what they leave out. Blocks that are
# "globally reachable" are here too: none of them is a place for a homeserver. The forms that only wrap an IPv4
# address (::ffff:0:0/96, 64:ff9b::/96, 2002::/16) are missing because what they wrap is judged instead.
# Not `is_global`: its answers differ between Python versions, and 3.11 lets several of these through.
_SPECIAL_PURPOSE = (
    "0.0.0.0/8",  # "this network"
    "10.0.0.0/8",  # private use
    "100.64.0.0/10",  # shared address space (carrier-grade NAT)
    "127.0.0.0/8",  # loopback
    "169.254.0.0/16",  # link local, cloud metadata
    "172.16.0.0/12",  # private use
    "192.0.0.0/24",  # IETF protocol assignments
    "192.0.2.0/24",  # documentation
    "192.31.196.0/24",  # AS112
    "192.52.193.0/24",  # automatic multicast tunnelling
    "192.88.99.0/24",  # deprecated 6to4 relays
    "192.168.0.0/16",  # private use
    "192.175.48.0/24",  # AS112
    "198.18.0.0/15",  # benchmarking
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast (not in the registry)
    "240.0.0.0/4",  # reserved, and limited broadcast
    "::/96",  # unspecified, loopback, and IPv4-compatible (the last not in the registry)
    "::ffff:0:0:0/96",  # IPv4-translated (not in the registry)
    "64:ff9b:1::/48",  # NAT64 with a local prefix: where its bits lie is anyone's choice
    "100::/64",  # discard only
    "100:0:0:1::/64",  # dummy prefix
    "2001::/23",  # IETF protocol assignments: Teredo, benchmarking, ORCHID, DRIP and more
    "2001:db8::/32",  # documentation
    "2620:4f:8000::/48",  # AS112
    "3fff::/20",  # documentation
    "5f00::/16",  # segment routing
    "fc00::/7",  # unique local
    "fe80::/10",  # link local
    "fec0::/10",  # site local (deprecated; not in the registry)
    "ff00::/8",  # multicast (not in the registry)
)

_NAT64 = IPv6Network("64:ff9b::/96")
_MAPPED = IPv6Network("::ffff:0:0/96")


class AddressRefused(OSError):
    """The screen doesn't let this address through."""

    def __init__(self) -> None:
        # The same text for every address: aiohttp keeps the class of several failures only if they read alike.
        super().__init__(errno.EACCES, "refused by the address screen")


class AddressScreen:
    """Decides which addresses may be connected to.

    An address that wraps an IPv4 address (mapped, 6to4, NAT64's well-known prefix) is judged as the address
    inside. The built-in table of special-purpose networks always holds; `blacklist` adds to it, and
    `whitelist` makes exceptions from both.
    """

    def __init__(self, *, blacklist: Iterable[Network] = (), whitelist: Iterable[Network] = ()) -> None:
        builtin = (ip_network(network) for network in _SPECIAL_PURPOSE)
        self._refused = _by_version((*builtin, *blacklist))
        self._excepted = _by_version(whitelist)

    def permits(self, address: Address) -> bool:
        """Whether this server may connect to `address`."""
        judged = _unwrap(address)
        if _is_in(judged, self._excepted):
            return True
        # The wrapped form is looked up too: someone who lists 2002::/16 means every 6to4 address.
        wrapped = judged != address and _is_in(address, self._refused)
        return not wrapped and not _is_in(judged, self._refused)

    def open_socket(self, addr_info: tuple[Any, ...]) -> socket.socket:
        """Open a socket for an address as `getaddrinfo` gives it; aiohttp's `socket_factory`.

        Raises:
            AddressRefused: the address is not permitted. No packet has been sent.
        """
        family, kind, protocol, _, sockaddr = addr_info
        if family not in {socket.AF_INET, socket.AF_INET6} or not self.permits(ip_address(sockaddr[0])):
            raise AddressRefused
        return socket.socket(family=family, type=kind, proto=protocol)


def _by_version(networks: Iterable[Network]) -> dict[int, tuple[Network, ...]]:
    unwrapped = [_unwrap_network(network) for network in networks]
    return {version: tuple(each for each in unwrapped if each.version == version) for version in (4, 6)}


def _is_in(address: Address, networks: dict[int, tuple[Network, ...]]) -> bool:
    return any(address in network for network in networks[address.version])


def _unwrap(address: Address) -> Address:
    """The IPv4 address inside, or the address itself (without the interface it is scoped to)."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or IPv6Address(int(address))


def _unwrap_network(network: Network) -> Network:
    """A network of mapped addresses as the IPv4 network that it means."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network
