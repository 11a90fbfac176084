"""Writes docs/metrics.md from the table; a test compares the two."""

from __future__ import annotations

from identity_server.metrics.table import METRICS, PREFIX, Label, Metric

_INTRO = f"""\
# Metrics

<!-- Written by `python -m identity_server.metrics > docs/metrics.md`; a test compares the two. -->

How to switch them on, and what to watch: [operating.md](operating.md#metrics). Every name begins with `{PREFIX}`.
Nothing here names a person: routes are patterns, and no label holds anything that a caller wrote.

One page shows all workers of a machine together: what was counted is summed, those that have ended included. For the
rest, the last column tells how the numbers of several workers become one. What is *read from the database* is read by one
worker when Prometheus asks, ten seconds apart at least, and rarer if it takes long (2 % of the time at most); where several
machines share a database, each shows it: take the `max`, not the `sum`. While the database doesn't answer, `database_up`
is 0 and these are missing.

| Metric (`{PREFIX}…`) | Kind | Labels | What it tells | Several workers |
|---|---|---|---|---|
"""


def reference() -> str:
    """The text of `docs/metrics.md`."""
    return _INTRO + "".join(map(_row, METRICS))


def _row(metric: Metric) -> str:
    labels = "; ".join(map(_label, metric.labels))
    across = metric.across.value if metric.kind == "gauge" else "summed"
    name = metric.full_name.removeprefix(PREFIX)
    return f"| `{name}` | {metric.kind.value} | {labels} | {metric.meaning} | {across} |\n"


def _label(label: Label) -> str:
    values = ", ".join(f"`{value}`" for value in label.values)
    more = ": ".join(part for part in (values, label.meaning) if part)
    return f"`{label.name}`" + (f" ({more})" if more else "")
