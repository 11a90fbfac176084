"""Proxies that are trusted, and what they say of where a request came from; no others are believed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

_log = structlog.get_logger(__name__)

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAX_HOPS = 32
# Some proxies write the client's port behind its address.
_WITH_PORT = re.compile(r"\[(?P<v6>[0-9A-Fa-f:.]+)\](?::[0-9]+)?|(?P<v4>[0-9.]+):[0-9]+")


class Silence:
    """Says in the log, once in each process, that a proxy doesn't say for whom it asks: nobody could see it otherwise."""

    __slots__ = ("_is_known",)

    def __init__(self) -> None:
        self._is_known = False

    def noted(self) -> None:
        """A request came from a trusted proxy, without a word about its client."""
        if not self._is_known:
            self._is_known = True
            _log.warning(
                "proxy.names_no_client",
                consequence="all who come through it share the limits of one client",
                advice="have it send X-Forwarded-For; a request of your own that went past it is no cause for concern",
            )


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """Networks whose X-Forwarded-For is believed."""

    networks: tuple[IpNetwork, ...] = ()
    silence: Silence = field(default_factory=Silence, compare=False, repr=False)

    def trusts(self, address: str) -> bool:
        """Whether this is a proxy of ours; text that is no address never is."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
            parsed = parsed.ipv4_mapped
        return any(parsed in network for network in self.networks if network.version == parsed.version)

    def client_address(self, peer: str, forwarded_for: Sequence[str]) -> str:
        """The right-most hop that isn't a trusted proxy: whatever stands left of it may be made up."""
        if not self.trusts(peer):
            return peer
        hops = [_without_port(hop.strip()) for line in forwarded_for for hop in line.split(",")][-_MAX_HOPS:]
        for hop in reversed(hops):
            if not self.trusts(hop):
                return hop
        return hops[0] if hops else peer


def _without_port(hop: str) -> str:
    match = _WITH_PORT.fullmatch(hop)
    return hop if match is None else match["v6"] or match["v4"]
