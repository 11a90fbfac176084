"""The benchmark's own idea of what is true is what both servers answer; and it notices when they don't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import requests, servers, world
from bench.checking import Checker, WrongAnswer
from bench.databases import lookup_plan, prepared

_ASSOCIATIONS = 60
_NOBODY_LISTENS = 9


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(_ASSOCIATIONS, root=tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("make", [servers.ours, servers.sydent])
async def test_both_servers_answer_what_the_world_says(make: servers.Make, data: Path, tmp_path: Path) -> None:
    server = make(data, tmp_path / "server", smtp_port=_NOBODY_LISTENS)
    await server.start()
    try:
        checker = Checker(server.name, server.port)
        for pool in (
            requests.pings(),
            requests.accounts(),
            requests.hash_details(),
            requests.lookups(1, associations=_ASSOCIATIONS),
            requests.lookups(100, associations=_ASSOCIATIONS),
            requests.hash_details(requests.newcomers(100)),
        ):
            await checker.check(pool.exchanges[:10])
        first = requests.first_lookups(100, associations=_ASSOCIATIONS).exchanges[:10]
        assert len(await checker.check_once(first, connections=4)) == 10
        wrong = requests.Exchange(
            requests.lookups(1, associations=_ASSOCIATIONS).exchanges[0].request, {"mappings": {}}
        )
        with pytest.raises(WrongAnswer):
            await checker.check([wrong])
        assert server.memory()[0].rss > server.memory()[0].uss > 0
    finally:
        server.kill()


def test_sydents_planner_is_helped_to_the_index_of_hashes(data: Path, tmp_path: Path) -> None:
    server = servers.sydent(data, tmp_path / "helped", smtp_port=_NOBODY_LISTENS)
    assert server.database is not None

    assert any("SCAN gta" in step for step in lookup_plan(data / "sydent.db"))
    assert not any("gta" in step and "SEARCH" not in step for step in lookup_plan(server.database))


def test_nobody_looks_up_for_the_first_time_twice() -> None:
    newcomers = [number for size in requests.FIRST_LOOKUPS for number in requests.newcomers(size)]
    assert newcomers == list(range(world.ACCOUNTS, world.ACCOUNTS + world.NEWCOMERS))
    pool = requests.first_lookups(1_000, associations=1_000)
    parts = [pool.part(number, 3).exchanges for number in range(3)]
    assert sorted(each.request for part in parts for each in part) == sorted(each.request for each in pool.exchanges)


def test_answer_with_a_mapping_too_few_or_too_many_is_wrong() -> None:
    exchange = requests.lookups(100, associations=1_000).exchanges[0]
    mappings = dict(exchange.expected["mappings"])
    assert len(mappings) == 50
    assert exchange.is_answered_by(json.dumps({"mappings": mappings}).encode())
    assert not exchange.is_answered_by(json.dumps({"mappings": {**mappings, "more": "@than:asked"}}).encode())
    mappings.popitem()
    assert not exchange.is_answered_by(json.dumps({"mappings": mappings}).encode())
    assert not exchange.is_answered_by(b"not JSON")
