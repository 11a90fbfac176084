"""Whom a homeserver's name belongs to, as far as names can tell.

The rule: what costs nothing makes no difference. Ports don't, nor do names below one's own domain, nor those that
others give away below theirs (dynamic DNS, hosting): a domain counts if a registry has sold it.
"""

from __future__ import annotations

from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList

from identity_server.domain.identifiers import ServerName, split_server_name
from identity_server.domain.networks import client_network


@cache
def load_suffixes() -> PublicSuffixList:
    """The names below which registries sell domains, as the package has brought them; they are read once."""
    return PublicSuffixList(only_icann=True)


@lru_cache(maxsize=10_000)
def registrable_domain(server_name: ServerName) -> str:
    """The domain that somebody had to register; the network, where the name is an IP address.

    >>> registrable_domain(ServerName("matrix.example.co.uk:8448"))
    'example.co.uk'
    >>> registrable_domain(ServerName("192.0.2.7:8448"))
    '192.0.2.0/24'
    """
    host, _ = split_server_name(server_name)
    network = client_network(host.strip("[]"))
    if network != client_network(None):
        return network
    # What is itself a suffix, or has no dot, is whoever's it is.
    return load_suffixes().privatesuffix(host) or host
