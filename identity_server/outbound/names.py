"""Host names and services, looked up in DNS.

The C library would do the first in a thread for as long as it likes, and strangers choose the names: a few slow
name servers would hold up every other thread of the program. So DNS is asked on the event loop, under a time
limit. The rule: names are absolute (no search list), and the hosts file comes first.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import groupby, islice
from pathlib import Path

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.rdtypes.IN.SRV
import dns.resolver
from aiohttp.abc import AbstractResolver, ResolveResult

from identity_server.domain.errors import InvalidParameter
from identity_server.domain.identifiers import parse_server_name, split_server_name
from identity_server.domain.ports import Randomness
from identity_server.outbound.addresses import NO_ADDRESS_FOR_US

_CACHED_ANSWERS = 10_000
_CACHED_ANSWER_BYTES = 4096
_FOUND_SECONDS = 3600
_ABSENT_SECONDS = 300
_TRY_SECONDS = 1.5
_LOOKUP_SECONDS = 4.0
_MAX_TARGETS = 8
_MAX_ADDRESSES = 8
_WEIGHT_BYTES = 8


class NameLookupFailed(OSError):
    """A name could not be looked up. The text names it and says why.

    Attributes:
        told: what callers are told instead; None if they may know all of it.
    """

    def __init__(self, text: str, *, told: str | None = None) -> None:
        super().__init__(text)
        self.told = told


@dataclass(frozen=True, slots=True)
class Service:
    """A place that an SRV record names."""

    host: str
    port: int
    priority: int
    weight: int


class Names(AbstractResolver):
    """Looks names up; aiohttp's resolver for host names.

    Args:
        nameservers: (address, port) of the name servers to ask; empty means those of the machine.
        hosts_file: names that are known without asking; read once. None means none.
    """

    def __init__(
        self,
        *,
        nameservers: Sequence[tuple[str, int]] = (),
        hosts_file: Path | None = Path("/etc/hosts"),
    ) -> None:
        self._resolver = _make_resolver(nameservers)
        self._hosts = {} if hosts_file is None else _read_hosts(hosts_file)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a host, IPv6 first.

        Raises:
            NameLookupFailed: it has none, or DNS couldn't say.
        """
        name = host.lower().rstrip(".")
        addresses = self._hosts.get(name) or await self._addresses(name)
        results = [_resolve_result(host, address, port) for address in addresses]
        return [each for each in results if family in {socket.AF_UNSPEC, each["family"]}]

    async def close(self) -> None:
        """Nothing stays open between lookups."""

    async def services(self, name: str) -> tuple[Service, ...]:
        """The usable targets of an SRV record in no order; empty if there is no such record.

        Raises:
            NameLookupFailed: DNS couldn't say, or the record says that there is no such service.
        """
        try:
            # Gathered, as below: the library's `wait_for` of Python 3.11 may swallow a cancellation, `gather` never does.
            (answer,) = await asyncio.gather(self._resolver.resolve(name, dns.rdatatype.SRV))
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return ()
        except (dns.exception.DNSException, OSError) as error:
            raise NameLookupFailed(f"DNS lookup of {name}: {_reason(error)}") from None
        records = [record for record in answer if isinstance(record, dns.rdtypes.IN.SRV.SRV)]
        services = tuple(service for record in records if (service := _service(record)) is not None)
        if not services:
            raise NameLookupFailed(f"DNS lookup of {name}: the SRV record names no usable target")
        return services

    async def _addresses(self, name: str) -> list[str]:
        # AAAA before A, as every host prefers; aiohttp then tries the two families side by side.
        answers = await asyncio.gather(
            self._resolver.resolve(name, dns.rdatatype.AAAA),
            self._resolver.resolve(name, dns.rdatatype.A),
            return_exceptions=True,
        )
        # A hostile zone can list thousands, and every one of them would be tried.
        addresses = [
            record.to_text()
            for answer in answers
            if isinstance(answer, dns.resolver.Answer)
            for record in islice(answer, _MAX_ADDRESSES)
        ]
        if addresses:
            return addresses
        # Of two failures, the one that says least about the name decides: it may be there after all.
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        for error in errors:
            if not isinstance(error, dns.exception.DNSException | OSError):
                raise error
        errors.sort(key=lambda error: isinstance(error, dns.resolver.NXDOMAIN | dns.resolver.NoAnswer))
        is_absent = isinstance(errors[0], dns.resolver.NXDOMAIN | dns.resolver.NoAnswer)
        raise NameLookupFailed(
            f"DNS lookup of {name}: {_reason(errors[0])}", told=NO_ADDRESS_FOR_US if is_absent else None
        )


def order_services(services: Iterable[Service], randomness: Randomness) -> list[Service]:
    """The order in which to try the targets of an SRV record (RFC 2782), at most 8 of them."""
    ordered: list[Service] = []
    by_priority = sorted(services, key=lambda service: (service.priority, service.weight))
    for _, group in groupby(by_priority, key=lambda service: service.priority):
        pool = list(group)
        while pool:
            ordered.append(pool.pop(_draw([service.weight for service in pool], randomness)))
    return ordered[:_MAX_TARGETS]


def _draw(weights: Sequence[int], randomness: Randomness) -> int:
    """The index of one of the weights, each drawn as often as its share says."""
    ticket = int.from_bytes(randomness.token_bytes(_WEIGHT_BYTES)) % (sum(weights) + 1)
    running = 0
    for index, weight in enumerate(weights):
        running += weight
        if running >= ticket:
            return index
    raise AssertionError("the ticket is never above the sum")


class _AnswerCache(dns.resolver.LRUCache):
    """Keeps answers as long as DNS says, but not for ever, and none that is out of proportion.

    Left alone, dnspython keeps "no such name" for 136 years if a name server doesn't say for how long.
    """

    def put(self, key: dns.resolver.CacheKey, value: dns.resolver.Answer) -> None:
        if len(value.response.wire or b"") > _CACHED_ANSWER_BYTES:
            return
        longest_seconds = _ABSENT_SECONDS if value.rrset is None else _FOUND_SECONDS
        value.expiration -= max(0, value.chaining_result.minimum_ttl - longest_seconds)
        super().put(key, value)


def _make_resolver(nameservers: Sequence[tuple[str, int]]) -> dns.asyncresolver.Resolver:
    try:
        resolver = dns.asyncresolver.Resolver(configure=not nameservers)
    except dns.resolver.NoResolverConfiguration:
        # A machine without DNS: the hosts file may still do.
        resolver = dns.asyncresolver.Resolver(configure=False)
    if nameservers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in nameservers]
    resolver.cache = _AnswerCache(_CACHED_ANSWERS)
    resolver.use_search_by_default = False
    resolver.domain = dns.name.root
    resolver.timeout = _TRY_SECONDS
    resolver.lifetime = _LOOKUP_SECONDS
    return resolver


def _read_hosts(path: Path) -> Mapping[str, list[str]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    hosts: dict[str, list[str]] = {}
    for line in lines:
        address, *names = line.partition("#")[0].split() or [""]
        try:
            ip_address(address)
        except ValueError:
            continue
        for name in names:
            hosts.setdefault(name.lower(), []).append(address)
    return hosts


def _resolve_result(host: str, address: str, port: int) -> ResolveResult:
    return {
        "hostname": host,
        "host": address,
        "port": port,
        "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
        "proto": socket.IPPROTO_TCP,
        "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    }


def _service(record: dns.rdtypes.IN.SRV.SRV) -> Service | None:
    """The place that a record names, or None if it names none: the root, port 0, or no name of a host."""
    try:
        host = parse_server_name(record.target.to_text(omit_final_dot=True))
    except InvalidParameter:
        return None
    if record.port == 0 or split_server_name(host)[1] is not None:
        return None
    return Service(host, record.port, record.priority, record.weight)


def _reason(error: BaseException) -> str:
    match error:
        case dns.resolver.NXDOMAIN():
            return "there is no such name"
        case dns.resolver.NoAnswer():
            return "the name has no address"
        case dns.exception.Timeout():
            return "no name server answered in time"
        case dns.resolver.NoNameservers():
            return "no name server gave a usable answer"
        case _:
            return "it failed"
