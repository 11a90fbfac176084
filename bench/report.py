"""The tables: medians, ratios, and which promises hold.

The rule: what wasn't measured says n/a, and why; nothing is left out because it looks bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.plan import MEMORY, PING_WHILE, ROTATION, START_AGAIN, START_FIRST, WHILE_BINDING, by_workers
from bench.results import BARE, HELPED, INSTALLED, OURS, TWO_WORKERS, Results, ratio
from bench.targets import TARGETS
from bench.world import owner

_MIB = 1024 * 1024
_NA = "n/a"
# The kernel's own work for the network counts as others', too.
_DISTURBING = 0.3
_SERVERS = (OURS, HELPED, INSTALLED, BARE)
_NOT_SPEEDS = (PING_WHILE, ROTATION, START_FIRST, START_AGAIN, MEMORY)


def to_markdown(results: Results) -> str:
    """Everything, for people."""
    parts = [_about(results)]
    for size in results.sizes:
        parts += [f"## {_number(size)} associations\n", _speeds(results, size), _others(results, size)]
    parts += [_promises(results), _missing(results)]
    return "\n".join(part for part in parts if part)


def _about(results: Results) -> str:
    lines = [f"- {name}: {value}" for name, value in results.about.items()]
    lines += [f"- answers of {name} compared in full: {number}" for name, number in results.checked.items() if number]
    others = results.others_share
    lines.append(f"- used by others on the machine meanwhile: {others:.2f} cores")
    if others > _DISTURBING:
        lines.append("- **The machine wasn't quiet: only what is compared by processor time can be believed.**")
    return "\n".join((*lines, ""))


def _speeds(results: Results, size: int) -> str:
    """Requests or stories per second."""
    rows = []
    for cell in results.cells(size):
        if cell in _NOT_SPEEDS or cell.endswith(by_workers("")):
            continue
        speeds = [results.get(size, cell, server) for server in _SERVERS]
        against = [
            tell(ratio(results.get(size, cell, OURS, figure), results.get(size, cell, server, figure)))
            for server, tell in ((HELPED, _times), (BARE, _share))
            for figure in ("per_second", "per_core_second")
        ]
        busy = [results.get(size, cell, OURS, name) for name in ("server_share", "generator_share")]
        rows.append((cell, *map(_number, speeds), *against, *map(_percent, busy)))
    heads = (
        *("per second", *_SERVERS, "ours / Sydent helped", "by processor time"),
        *("ours / bare", "by processor time", "core used by ours", "by the load generator"),
    )
    return to_table(heads, rows)


def _others(results: Results, size: int) -> str:
    """What isn't a speed."""
    rows: list[tuple[str, ...]] = []

    def row(what: str, cell: str, figure: str, *servers: str, per: float = 1.0, unit: str = "") -> None:
        for server in servers:
            value = results.get(size, cell, server, figure)
            if value is not None:
                rows.append((what, server, f"{_number(value / per)} {unit}".strip()))

    row("ping while one looks up 10 000, p50", PING_WHILE, "p50_ms", OURS, HELPED, unit="ms")
    row("ping while one looks up 10 000, p99", PING_WHILE, "p99_ms", OURS, HELPED, unit="ms")
    row("ping while one looks up 10 000, longest", PING_WHILE, "max_ms", OURS, HELPED, unit="ms")
    row("binds per second beside lookups of 100", WHILE_BINDING, "binds_per_second", OURS, HELPED)
    row("start, index to be built", START_FIRST, "seconds", OURS, HELPED, unit="s")
    row("start, again", START_AGAIN, "seconds", OURS, HELPED, unit="s")
    # Ours is a parent and its workers, of which the parent holds no data: only the sum says something.
    row("memory of all processes, PSS", MEMORY, "pss_of_all", OURS, HELPED, TWO_WORKERS, per=_MIB, unit="MiB")
    row("memory of a further worker, its own", MEMORY, "largest_uss_of_others", TWO_WORKERS, per=_MIB, unit="MiB")
    rows += _per_association(results, size)
    row("pepper rotation, until the new one is given out", ROTATION, "seconds", OURS, unit="s")
    row("pepper rotation, with its port closed", ROTATION, "seconds", HELPED, unit="s")
    row("lookup of 10 before a rotation, p99", ROTATION, "normal_p99_ms", OURS, unit="ms")
    row("lookup of 10 before a rotation, longest", ROTATION, "normal_max_ms", OURS, unit="ms")
    row("lookup of 10 during a rotation, p99", ROTATION, "p99_ms", OURS, unit="ms")
    row("lookup of 10 during a rotation, longest", ROTATION, "max_ms", OURS, unit="ms")
    for cell in results.cells(size):
        if cell.endswith(by_workers("")):
            row(f"{cell}, per second", cell, "per_second", OURS, TWO_WORKERS)
            row(f"{cell}, load generator's core", cell, "generator_share", OURS, TWO_WORKERS)
    return to_table(("", "server", "median"), rows)


def _per_association(results: Results, size: int) -> list[tuple[str, ...]]:
    """Against the smallest size, after the same work: what the work itself leaves behind is in both."""
    smallest = results.sizes[0]
    full, less = results.get(size, MEMORY, OURS, "pss_of_all"), results.get(smallest, MEMORY, OURS, "pss_of_all")
    if full is None or less is None or size == smallest:
        return []
    each = (full - less) / (size - smallest)
    return [
        ("memory per association", OURS, f"{each:.0f} bytes"),
        ("memory per association, beside its Matrix ID", OURS, f"{each - len(owner(0)):.0f} bytes"),
    ]


def _promises(results: Results) -> str:
    size = max(results.sizes, default=0)
    rows = []
    for target in TARGETS:
        value = target.measure(results, size)
        sign = ">=" if target.at_least else "<="
        verdict = _NA if value is None else ("holds" if target.holds(value) else "DOES NOT HOLD")
        told = _NA if value is None else f"{_number(value)} {target.unit}".strip()
        rows.append((target.what, f"{sign} {target.limit:g} {target.unit}".strip(), told, verdict))
    title = f"## Promises, at {_number(size)} associations\n"
    return f"{title}\n{to_table(('promise', 'limit', 'measured', ''), rows)}"


def _missing(results: Results) -> str:
    rows = [
        (_number(place.associations), place.cell, place.server, why.split("\n")[0][:120])
        for place, why in results.missing.items()
    ]
    return f"## Not measured\n\n{to_table(('associations', '', 'server', 'why'), rows)}" if rows else ""


def to_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns line up, for the terminal too."""
    rows = [list(row) for row in rows]
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in (heads, ["-" * width for width in widths], *rows)
    ]
    return "\n".join((*lines, ""))


def _number(value: float | None) -> str:
    if value is None:
        return _NA
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _times(value: float | None) -> str:
    return _NA if value is None else f"{_number(value)} x"


def _share(value: float | None) -> str:
    return _NA if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return _NA if value is None else f"{100 * value:.0f} %"
