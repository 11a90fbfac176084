from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from pathlib import Path

import dns.rdatatype
import dns.resolver
import pytest

from identity_server.outbound.names import NameLookupFailed, Names, Service, order_services
from identity_server.outbound.system import SystemRandomness
from tests.outbound.support import FakeRandomness, Internet


def names(internet: Internet, hosts_file: Path | None = None) -> Names:
    return Names(nameservers=internet.nameservers, hosts_file=hosts_file)


async def addresses(looked_up: Names, host: str, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[str]:
    return [result["host"] for result in await looked_up.resolve(host, 8448, family)]


async def test_both_families_ipv6_first(internet: Internet) -> None:
    internet.dns.add("hs.test", "A", "1.2.3.4")
    internet.dns.add("hs.test", "AAAA", "2606:4700::1")
    looked_up = names(internet)
    assert await addresses(looked_up, "hs.test") == ["2606:4700::1", "1.2.3.4"]
    assert await addresses(looked_up, "HS.test.", socket.AF_INET) == ["1.2.3.4"]
    assert internet.dns.queries["hs.test", "A"] == 1, "the second answer comes from the cache"


async def test_one_family_is_enough_even_if_the_other_fails(internet: Internet) -> None:
    internet.dns.add("hs.test", "A", "1.2.3.4")
    assert await addresses(names(internet), "hs.test") == ["1.2.3.4"]


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("gone.test", "there is no such name"),
        ("mail.test", "the name has no address"),
        ("broken.test", "no name server gave a usable answer"),
    ],
)
async def test_says_why_a_name_has_no_address(internet: Internet, host: str, reason: str) -> None:
    internet.dns.add("mail.test", "MX", "10 mx.test.")
    internet.dns.failing.add("broken.test")
    with pytest.raises(NameLookupFailed, match=f"{host}: {reason}"):
        await names(internet).resolve(host)


async def test_a_silent_name_server_is_not_waited_for_for_long(internet: Internet) -> None:
    internet.dns.silent.add("silent.test")
    looked_up = names(internet)
    looked_up._resolver.lifetime = 0.05
    with pytest.raises(NameLookupFailed, match="no name server answered in time"):
        await looked_up.resolve("silent.test")


@pytest.mark.parametrize(("host", "seconds"), [("hs.test", 3600), ("gone.test", 300)])
async def test_answers_are_not_kept_for_ever(internet: Internet, host: str, seconds: int) -> None:
    internet.dns.add("hs.test", "A", "1.2.3.4")
    internet.dns.add("hs.test", "AAAA", "2606:4700::1")
    internet.dns.ttl = 2**31 - 1
    looked_up, before = names(internet), time.time()
    with contextlib.suppress(NameLookupFailed):
        await looked_up.resolve(host)
    after = time.time()
    cache = looked_up._resolver.cache
    assert isinstance(cache, dns.resolver.LRUCache)
    assert cache.data
    for node in cache.data.values():
        assert before + seconds <= node.value.expiration <= after + seconds


async def test_of_many_addresses_a_few_are_tried(internet: Internet) -> None:
    internet.dns.add("many.test", "A", *(f"10.0.0.{last}" for last in range(1, 255)))
    internet.dns.add("many.test", "AAAA", *(f"fd00::{last}" for last in range(1, 255)))
    looked_up = names(internet)
    assert len(await addresses(looked_up, "many.test")) == 16
    assert len(await addresses(looked_up, "many.test")) == 16
    assert internet.dns.queries["many.test", "A"] == 1
    assert internet.dns.queries["many.test", "AAAA"] == 2, "an answer of some 7 KiB is not kept"


async def test_the_hosts_file_comes_first(internet: Internet, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_bytes(b"# comment\n1.2.3.4 a.test B.test # more\n\nnonsense c.test\n::2 a.test\n\xff\xfe\n")
    internet.dns.add("c.test", "A", "5.6.7.8")
    looked_up = names(internet, hosts)
    assert await addresses(looked_up, "A.TEST") == ["1.2.3.4", "::2"]
    assert await addresses(looked_up, "b.test") == ["1.2.3.4"]
    assert await addresses(looked_up, "c.test") == ["5.6.7.8"]


async def test_a_missing_hosts_file_is_an_empty_one(internet: Internet, tmp_path: Path) -> None:
    with pytest.raises(NameLookupFailed):
        await names(internet, tmp_path / "none").resolve("hs.test")


async def test_a_cancellation_that_comes_with_an_answer_is_not_forgotten(
    internet: Internet, monkeypatch: pytest.MonkeyPatch
) -> None:
    internet.dns.add("_matrix-fed._tcp.hs.test", "SRV", "10 0 8448 a.test.")
    looked_up = names(internet)
    resolve = looked_up._resolver.resolve

    async def forgetful(name: str, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        # As the `wait_for` that it calls, when both come in one turn of the loop.
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return await resolve(name, kind)
        raise AssertionError

    monkeypatch.setattr(looked_up._resolver, "resolve", forgetful)
    looking = asyncio.create_task(looked_up.services("_matrix-fed._tcp.hs.test"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking


async def test_no_service_record_is_no_service(internet: Internet) -> None:
    internet.dns.add("_b._tcp.hs.test", "TXT", '"x"')
    looked_up = names(internet)
    assert await looked_up.services("_a._tcp.hs.test") == ()
    assert await looked_up.services("_b._tcp.hs.test") == ()


async def test_unusable_service_targets_are_left_out(internet: Internet) -> None:
    internet.dns.add(
        "_a._tcp.hs.test", "SRV", "1 2 0 zero.test.", "1 2 99 bad\\032name.test.", "3 4 5 Good.test.", "1 2 3 ."
    )
    assert await names(internet).services("_a._tcp.hs.test") == (Service("good.test", 5, 3, 4),)


async def test_a_service_that_is_decidedly_not_there(internet: Internet) -> None:
    internet.dns.add("_a._tcp.hs.test", "SRV", "0 0 0 .")
    with pytest.raises(NameLookupFailed, match="names no usable target"):
        await names(internet).services("_a._tcp.hs.test")


async def test_a_failing_service_lookup_is_not_the_absence_of_the_service(internet: Internet) -> None:
    internet.dns.failing.add("_a._tcp.hs.test")
    with pytest.raises(NameLookupFailed):
        await names(internet).services("_a._tcp.hs.test")


def service(host: str, priority: int, weight: int) -> Service:
    return Service(host, 1, priority, weight)


class Ticket:
    def __init__(self, number: int) -> None:
        self.number = number

    def token_bytes(self, length: int) -> bytes:
        return self.number.to_bytes(length)


@pytest.mark.parametrize(("ticket", "order"), [(0, "abc"), (40, "abc"), (41, "bac"), (100, "bac"), (101, "abc")])
def test_lower_priorities_come_first_and_weights_decide_within_one(ticket: int, order: str) -> None:
    services = [service("c", 2, 50), service("b", 1, 60), service("a", 1, 40)]
    assert "".join(each.host for each in order_services(services, Ticket(ticket))) == order


def test_weights_are_shares() -> None:
    services = [service("a", 1, 1), service("b", 1, 3), service("z", 1, 0)]
    first = Counter(order_services(services, SystemRandomness())[0].host for _ in range(2000))
    assert 0.5 < first["b"] / 2000 < 0.7  # 3 of the 5 tickets 0 to 4
    assert 0.1 < first["a"] / 2000 < 0.3
    assert 0.1 < first["z"] / 2000 < 0.3


def test_no_more_than_eight_targets() -> None:
    assert len(order_services([service(str(index), 1, 1) for index in range(50)], FakeRandomness())) == 8
