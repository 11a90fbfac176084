"""Who is at the other end of a request."""

from __future__ import annotations

from aiohttp import web

from identity_server.api.app_keys import SETTINGS
from identity_server.domain.networks import client_network


def address_of(request: web.Request) -> str:
    """The client's own address, or "" where there is none (a unix socket)."""
    proxies = request.app[SETTINGS].trusted_proxies
    peer, forwarded_for = request.remote or "", request.headers.getall("X-Forwarded-For", [])
    if not forwarded_for and proxies.trusts(peer):
        proxies.silence.noted()
    return proxies.client_address(peer, forwarded_for)


def network_of(request: web.Request) -> str:
    """The client network that a request counts for."""
    return client_network(address_of(request))
