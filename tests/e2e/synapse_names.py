"""Loaded by a Synapse, as a module of its configuration: has it look names up at the tests' name server.

Of itself Synapse asks the machine for addresses and Twisted for SRV records, and no key of its configuration says where
else. What it looks up, and what it makes of the answers, stays its own.

The one rule: of the machine nothing is asked but where `localhost` is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.names import client, dns


class NameServer:
    """Synapse makes one when it starts, before it serves anybody.

    Args:
        config: its section in the configuration: `address` is host and port of the name server.
    """

    def __init__(self, config: dict[str, str], _api: object) -> None:
        host, _, port = config["address"].rpartition(":")
        resolver = client.Resolver(servers=[(host, int(port))])
        # Whoever asks Twisted for SRV records asks this one.
        client.theResolver = resolver
        reactor.installNameResolver(_Addresses(resolver, machine=reactor.nameResolver))


@dataclass(frozen=True, slots=True)
class _Resolution:
    name: str

    def cancel(self) -> None:
        """Nobody waits for long: the name server is on loopback."""


class _Addresses:
    """What Twisted asks for the addresses of a name (`IHostnameResolver`)."""

    def __init__(self, resolver: Any, *, machine: Any) -> None:
        self._resolver = resolver
        self._machine = machine

    def resolveHostName(  # noqa: N802 - Twisted's name
        self,
        receiver: Any,
        name: str,
        portNumber: int = 0,  # noqa: N803 - Twisted's name
        *others: Any,
        **named: Any,
    ) -> Any:
        if name == "localhost":
            return self._machine.resolveHostName(receiver, name, portNumber, *others, **named)
        resolution = _Resolution(name)
        receiver.resolutionBegan(resolution)

        def found(answer: Any) -> None:
            for record in answer[0]:
                if record.type == dns.A:
                    receiver.addressResolved(IPv4Address("TCP", record.payload.dottedQuad(), portNumber))
            receiver.resolutionComplete()

        def missing(_failure: Any) -> None:
            receiver.resolutionComplete()

        self._resolver.lookupAddress(name).addCallbacks(found, missing)
        return resolution
