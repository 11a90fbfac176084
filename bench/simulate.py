"""`python -m bench.simulate`: what a hundred million associations and more would take, as Markdown tables.

Arithmetic where arithmetic is enough, and a simulation for what queues: how far nodes lag behind a commit, and what
their asking costs the database.

The rule: every number that isn't computed here is an option with its origin in its help. Measured ones come from a
run of `python -m bench` (`--from`), or from the run that is named beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import click

from bench.lag import Cluster, simulate
from bench.plan import MEMORY, ROTATION, START_FIRST
from bench.report import to_table
from bench.results import OURS, Results
from bench.steady import percentile

_GB = 1e9
_PAGE_BYTES = 8192
_SECONDS_PER_YEAR = 365.25 * 86_400
_SIMULATED_SECONDS = 60.0
_NODE_COUNTS = (3, 10, 30, 100)
_WAYS = (
    ("polls every 1 s", 1.0, False),
    ("polls every 0.5 s", 0.5, False),
    ("NOTIFY, polls every 5 s", 5.0, True),
)


def _assumed(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Everything that isn't computed."""

    mxid_bytes: float = _assumed(31, "A Matrix ID in the index, on average.")
    record_bytes: float = _assumed(
        35, "The index's record of an association: id, from when, until when, where its Matrix ID is and how long."
    )
    key_bytes: float = _assumed(16, "The key of an association in the table of one pepper.")
    spare: float = _assumed(1.05, "Room in the tables for what comes after they were built.")
    process_mb: float = _assumed(110, "A process without any associations, in MB.")
    build_us: float = _assumed(25, "Reading, unsealing and hashing one association, in microseconds of one core.")
    rehash_us: float = _assumed(25, "The same for a new pepper: the file is made anew, beside the one in use.")
    cores: float = _assumed(16, "Cores of a node.")
    busy: float = _assumed(0.6, "How busy a node may be at its peak.")
    lookups_1: float = _assumed(14_000, "Lookups of 1 per second and core.")
    lookups_100: float = _assumed(6_000, "Lookups of 100 per second and core.")
    lookups_1000: float = _assumed(1_200, "Lookups of 1000 per second and core.")
    changes_per_year: float = _assumed(0.3, "Bindings made or removed in a year, per association.")
    peak: float = _assumed(10, "How much busier the busiest minute is than the mean.")
    row_bytes: float = _assumed(
        420,
        "An association in PostgreSQL 15 with its indexes: 362 bytes freshly packed, measured; indexes fill to 70 %.",
    )
    account_bytes: float = _assumed(
        660, "An account with token and accepted terms in PostgreSQL 15 with indexes, measured with 2000 of them."
    )
    accounts: float = _assumed(0.5, "Accounts, per association.")
    wal_per_bind: float = _assumed(
        20_000, "Write-ahead log of one full flow to bind, in bytes: measured on PostgreSQL 15, 100 000 associations."
    )
    transactions_per_bind: float = _assumed(
        17, "Transactions of one full flow to bind, its notices included: measured likewise, reading ones too."
    )
    whole_pages: float = _assumed(
        10, "Pages that a flow is first to touch since a checkpoint; the log takes each whole, 8 KiB."
    )
    feed_hours: float = _assumed(1, "How long the feed of changes is kept.")
    feed_query_us: float = _assumed(300, "One question for what is new, in microseconds of the database's core.")
    feed_row_us: float = _assumed(40, "One change more in the answer, in microseconds of the database's core.")
    network_us: float = _assumed(500, "From a node to the database, one way.")
    database_cores: float = _assumed(4, "Cores of the database for the questions of nodes.")


# --- tables -----------------------------------------------------------------------------------


def index_memory(given: Assumptions, sizes: Sequence[int]) -> str:
    """Of one node, with the tables of one pepper, and of two while a rotation's grace time lasts."""
    rows = []
    for size in sizes:
        record, table = _index(given, size)
        for shards in (1, 4, 16):
            one = (record + table) / shards
            rows.append(
                (
                    _count(size),
                    str(shards),
                    _gigabytes(record / shards),
                    _gigabytes(table / shards),
                    _gigabytes(one + given.process_mb * 1e6),
                    _gigabytes(one + table / shards + given.process_mb * 1e6),
                    f"{(record + table) / size:.0f} B",
                )
            )
    heads = (
        *("associations", "parts of the index", "records and Matrix IDs", "table of a pepper"),
        *("node, one pepper", "node, two peppers", "per association"),
    )
    return to_table(heads, rows)


def _index(given: Assumptions, size: int) -> tuple[float, float]:
    """Bytes of what is kept once, and of what is kept for each pepper."""
    # A key points to its record by number: four bytes reach as far as 4.3 thousand million.
    reference = 4 if size < 2**32 else 5
    return (
        size * (given.record_bytes + given.mxid_bytes) * given.spare,
        size * (given.key_bytes + reference) * given.spare,
    )


def build_times(given: Assumptions, sizes: Sequence[int]) -> str:
    """How long a node needs for an index, and for a new pepper's table."""
    rows = []
    for size in sizes:
        build, rehash = size * given.build_us / 1e6, size * given.rehash_us / 1e6
        record, _ = _index(given, size)
        read = size * given.row_bytes / 2
        rows.append(
            (
                _count(size),
                _duration(build),
                _duration(build / given.cores),
                _duration(rehash),
                _duration(rehash / given.cores),
                _gigabytes(read),
                _duration(record / (1.0 * _GB)),
            )
        )
    heads = (
        *("associations", "index, one core", f"index, {given.cores:g} cores"),
        *("new pepper, one core", f"new pepper, {given.cores:g} cores"),
        *("read from the database", "copy from another node at 1 GB/s"),
    )
    return to_table(heads, rows)


def database(given: Assumptions, sizes: Sequence[int]) -> str:
    """What PostgreSQL holds and writes."""
    rows = []
    for size in sizes:
        mean = _changes(given, size)
        peak = mean * given.peak
        logged = given.wal_per_bind + given.whole_pages * _PAGE_BYTES
        rows.append(
            (
                _count(size),
                _gigabytes(size * given.row_bytes),
                _gigabytes(size * given.accounts * given.account_bytes),
                f"{mean:.2f}",
                f"{peak:.1f}",
                f"{peak * given.transactions_per_bind:.0f}",
                f"{peak * logged / 1e6:.2f} MB/s",
                _gigabytes(mean * logged * 86_400),
                _plain(mean * given.feed_hours * 3600),
            )
        )
    heads = (
        *("associations", "their size", "accounts", "changes/s, mean", "changes/s, peak", "transactions/s, peak"),
        *("log, peak", "log, per day", "entries in the feed"),
    )
    return to_table(heads, rows)


def _changes(given: Assumptions, size: int) -> float:
    return size * given.changes_per_year / _SECONDS_PER_YEAR


def nodes(given: Assumptions) -> str:
    """For a million lookups per second, counted in two ways."""
    rows = []
    for asked, per_core in ((1, given.lookups_1), (100, given.lookups_100), (1000, given.lookups_1000)):
        per_node = per_core * given.cores * given.busy
        rows.append(
            (
                str(asked),
                _plain(per_core),
                _plain(per_node),
                str(math.ceil(1e6 / per_node)),
                str(math.ceil(1e6 / (per_node * asked))),
            )
        )
    heads = (
        *("addresses in a lookup", "lookups/s and core", f"per node ({given.cores:g} cores, {given.busy:.0%} busy)"),
        *("nodes for 1 M lookups/s", "nodes for 1 M addresses/s"),
    )
    return to_table(heads, rows)


def feed(given: Assumptions, sizes: Sequence[int]) -> str:
    """How far behind nodes are, at the busiest minute."""
    rows = []
    for size in sizes:
        changes = _changes(given, size) * given.peak
        for count in _NODE_COUNTS:
            for told, pause, notified in _WAYS:
                cluster = Cluster(
                    nodes=count,
                    changes_per_second=changes,
                    pause_seconds=pause,
                    notified=notified,
                    network_seconds=given.network_us / 1e6,
                    cores=round(given.database_cores),
                    query_seconds=given.feed_query_us / 1e6,
                    row_seconds=given.feed_row_us / 1e6,
                )
                lag = simulate(cluster, seconds=_SIMULATED_SECONDS)
                rows.append(
                    (
                        _count(size),
                        f"{changes:.1f}",
                        str(count),
                        told,
                        f"{percentile(lag.lags_ms, 50):.1f} ms",
                        f"{percentile(lag.lags_ms, 99):.1f} ms",
                        f"{max(lag.lags_ms):.1f} ms",
                        _plain(lag.questions / _SIMULATED_SECONDS),
                        f"{100 * lag.busy_seconds / (_SIMULATED_SECONDS * cluster.cores):.1f} %",
                    )
                )
    heads = (
        *("associations", "changes/s", "nodes", "how they follow", "lag, median", "lag, p99", "lag, longest"),
        *("questions/s", f"of {given.database_cores:g} database cores"),
    )
    return to_table(heads, rows)


def assumptions(given: Assumptions) -> str:
    """What all this rests on."""
    rows = (
        (each.metadata["help"], f"{getattr(given, each.name):,.6g}", f"--{_option(each.name)}")
        for each in fields(given)
    )
    return to_table(("assumed", "value", "option"), list(rows))


def _sections(given: Assumptions, sizes: Sequence[int]) -> Iterable[tuple[str, str, str]]:
    """Title, what it says, and the table."""
    yield (
        "The index on a node",
        (
            "Each node holds all of it, so that a lookup never leaves the node; its workers share one copy. While a rotation's"
            " grace time lasts there are two tables. Where a node's memory doesn't suffice, the index can be parted by the first"
            " bits of its keys, and a router in front asks those nodes that hold a part of the question: that isn't built."
        ),
        index_memory(given, sizes),
    )
    yield (
        "Building it, and a new pepper's table",
        (
            "Both read every association once, today on one core. They can be divided among cores by ranges of ids,"
            " and the files are alike on all nodes, so that copying them would do as well: neither is built. Rotation"
            " has no haste: the former pepper serves until the new table stands."
        ),
        build_times(given, sizes),
    )
    yield (
        "The database",
        "It holds the truth and answers no lookups: what it writes follows from bindings alone.",
        database(given, sizes),
    )
    yield (
        "Nodes for a million lookups per second",
        "A lookup asks about one contact or a whole address book, so both ways of counting are here.",
        nodes(given),
    )
    yield (
        "How far nodes lag behind",
        (
            f"Simulated: {_SIMULATED_SECONDS:g} s of the busiest minute, event by event. Who must be less than a second behind"
            " polls twice a second; a poll a second is late by the time that the question takes."
        ),
        feed(given, sizes),
    )
    yield (
        "Assumptions",
        "What all this rests on; each is an option of `python -m bench.simulate`.",
        assumptions(given),
    )


# --- from a run of the benchmark --------------------------------------------------------------


def measured(given: Assumptions, results: Results) -> Assumptions:
    """With what a run has measured in place of what was assumed; what it hasn't stays."""
    found: dict[str, float | None] = {
        "lookups_1": results.get(results.sizes[-1], "lookup of 1", OURS, "per_core_second"),
        "lookups_100": results.get(results.sizes[-1], "lookup of 100", OURS, "per_core_second"),
        "lookups_1000": results.get(results.sizes[-1], "lookup of 1000", OURS, "per_core_second"),
    }
    small, large = results.sizes[0], results.sizes[-1]
    for name, cell in (("build_us", START_FIRST), ("rehash_us", ROTATION)):
        less, more = (results.get(size, cell, OURS, "seconds") for size in (small, large))
        if less is not None and more is not None and small < large:
            # The difference: what doesn't grow with the associations is in both.
            found[name] = 1e6 * (more - less) / (large - small)
    process = results.get(small, MEMORY, OURS, "pss_of_all")
    if process is not None and small <= 100_000:
        found["process_mb"] = process / 1e6
    return replace(given, **{name: value for name, value in found.items() if value is not None})


def _options(command: Any) -> Any:
    for each in reversed(fields(Assumptions)):
        command = click.option(f"--{_option(each.name)}", each.name, type=float, help=each.metadata["help"])(command)
    return command


def _option(name: str) -> str:
    return name.replace("_", "-")


@click.command()
@click.option("--n", "sizes", type=int, multiple=True, help="Associations; may be repeated.  [10^8, 10^9]")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A JSON file of `python -m bench`.",
)
@_options
def main(sizes: tuple[int, ...], source: Path | None, **given: float | None) -> None:
    """Print what so many associations would take."""
    assumed = Assumptions()
    if source is not None:
        assumed = measured(assumed, Results.from_json(json.loads(source.read_text())))
    assumed = replace(assumed, **{name: value for name, value in given.items() if value is not None})
    for title, text, table in _sections(assumed, sizes or (10**8, 10**9)):
        click.echo(f"### {title}\n\n{text}\n\n{table}")


def _count(value: int) -> str:
    for unit, name in ((10**9, "G"), (10**6, "M")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return _plain(value)


def _plain(value: float) -> str:
    return f"{value:,.0f}".replace(",", " ")


def _gigabytes(value: float) -> str:
    gigabytes = value / _GB
    return f"{gigabytes:.0f} GB" if gigabytes >= 100 else f"{gigabytes:.1f} GB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    main()
