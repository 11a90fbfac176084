"""Client networks: what limits count by where nobody says who asks, or many may be one."""

from __future__ import annotations

import ipaddress

_IPV4_PREFIX = 24
_IPV6_PREFIX = 56


def client_network(address: str | None) -> str:
    """The network that a client address counts for: a /24 or a /56.

    What is no address (a unix socket's peer, say) counts as one network of its own.

    >>> client_network("192.0.2.17")
    '192.0.2.0/24'
    """
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return "local"
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    prefix = _IPV4_PREFIX if isinstance(parsed, ipaddress.IPv4Address) else _IPV6_PREFIX
    return str(ipaddress.ip_network((parsed, prefix), strict=False))
