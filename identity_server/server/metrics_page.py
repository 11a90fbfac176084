"""What all workers have counted together, for Prometheus. On a listener of its own, never on the clients'."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from identity_server import __version__
from identity_server.api.headers import STANDARD_HEADERS
from identity_server.metrics import BUCKETS, Totals

_PREFIX = "identity_server_"

# Name within this server, what it tells, and its labels.
_COUNTERS: Final = (
    ("lookup_addresses", "Addresses that were looked up by hash.", ()),
    ("lookup_hits", "Addresses that were looked up by hash and found.", ()),
    ("jobs", "Tries of jobs of the outbox.", ("kind", "outcome")),
    ("workers_lost", "Workers that ended without having been told to.", ()),
)
_GAUGES: Final = (("workers", "Workers that take requests.", ()),)


def metrics_app(totals: Callable[[], Totals]) -> web.Application:
    """An application that answers every path with the metrics, as Sydent's listener does.

    Args:
        totals: what to show.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Totals(totals))

    async def show(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        headers = {"Content-Type": content_type, "Server": STANDARD_HEADERS["Server"]}
        return web.Response(body=encode(registry), headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", show)
    return app


class _Totals(Collector):
    def __init__(self, totals: Callable[[], Totals]) -> None:
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        totals = self._totals()
        requests = HistogramMetricFamily(
            f"{_PREFIX}http_request_duration_seconds",
            "Requests by pattern of their route, and how long they took.",
            labels=("route", "method", "status"),
        )
        bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
        for (route, method, status), durations in totals.requests.items():
            buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
            requests.add_metric((route, method, str(status)), buckets=buckets, sum_value=durations.seconds)
        yield requests
        for names, family in ((_COUNTERS, CounterMetricFamily), (_GAUGES, GaugeMetricFamily)):
            for name, documentation, labels in names:
                metric = family(_PREFIX + name, documentation, labels=labels)
                for (found, *values), number in totals.numbers.items():
                    if found == name:
                        metric.add_metric(values, number)
                if not labels and not metric.samples:
                    metric.add_metric((), 0)
                yield metric
        build = GaugeMetricFamily(f"{_PREFIX}build_info", "The version that runs.", labels=("version", "python"))
        build.add_metric((__version__, platform.python_version()), 1)
        yield build
