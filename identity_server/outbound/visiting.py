"""The web as an app on this machine sees it: no address is out of bounds, and certificates are judged by the system.

Only for what the operator has named; strangers choose where `outbound/federation.py` goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network

from identity_server.outbound.addresses import AddressScreen
from identity_server.outbound.https import HttpsClient, make_tls_context
from identity_server.outbound.names import Names

_EVERYWHERE = tuple(ip_network(network) for network in ("0.0.0.0/0", "::/0"))
_CONNECTIONS = 2


def make_visitor(*, nameservers: Sequence[tuple[str, int]] = ()) -> HttpsClient:
    """A client for the operator's own questions. Close it at the end."""
    return HttpsClient(
        names=Names(nameservers=nameservers),
        screen=AddressScreen(whitelist=_EVERYWHERE),
        tls=make_tls_context(verify=True, ca_file=None),
        connections_per_host=_CONNECTIONS,
    )
