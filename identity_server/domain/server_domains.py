"""Whom a homeserver's name belongs to, as far as names can tell.

The rule: what costs nothing makes no difference. Ports don't, nor do names below one's own domain.
"""

from __future__ import annotations

from functools import lru_cache

from identity_server.domain.identifiers import ServerName, split_server_name
from identity_server.domain.networks import client_network


@lru_cache(maxsize=10_000)
def registrable_domain(server_name: ServerName) -> str:
    """The domain that somebody had to register; the network, where the name is an IP address.

    >>> registrable_domain(ServerName("192.0.2.7:8448"))
    '192.0.2.0/24'
    """
    host, _ = split_server_name(server_name)
    network = client_network(host.strip("[]"))
    return host if network == client_network(None) else network
