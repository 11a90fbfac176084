"""What all workers have counted and measured together, for Prometheus. On a listener of its own, never on the clients'."""

from __future__ import annotations

import platform
from collections.abc import Awaitable, Callable, Iterator
from itertools import accumulate

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from identity_server import __version__
from identity_server.api.headers import STANDARD_HEADERS
from identity_server.metrics import BUCKETS, Key, Totals, table
from identity_server.metrics.table import BUILD_INFO, HTTP_REQUESTS, METRICS, PREFIX, Kind

_FAMILIES = {Kind.COUNTER: CounterMetricFamily, Kind.GAUGE: GaugeMetricFamily}


def metrics_app(totals: Callable[[], Awaitable[Totals]]) -> web.Application:
    """An application that answers every path with the metrics, as Sydent's listener does.

    Args:
        totals: what to show.
    """

    async def show(request: web.Request) -> web.Response:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Shown(await totals()))
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        headers = {"Content-Type": content_type, "Server": STANDARD_HEADERS["Server"]}
        return web.Response(body=encode(registry), headers=headers)

    app = web.Application()
    app.router.add_get("/{path:.*}", show)
    return app


class _Shown(Collector):
    def __init__(self, totals: Totals) -> None:
        self._requests = totals.requests
        read = {} if totals.reading is None else totals.reading.gauges
        build: dict[Key, float] = {(BUILD_INFO.name, __version__, platform.python_version()): 1}
        self._values: dict[Key, float] = {**totals.numbers, **totals.gauges, **read, **build}

    def collect(self) -> Iterator[Metric]:
        by_name: dict[str, dict[Key, float]] = {metric.name: _zeros(metric) for metric in METRICS}
        for (name, *labels), value in self._values.items():
            if name in by_name:
                by_name[name][tuple(labels)] = value
        for metric in METRICS:
            if metric is HTTP_REQUESTS:
                yield self._durations()
                continue
            names = [label.name for label in metric.labels]
            family = _FAMILIES[metric.kind](PREFIX + metric.name, metric.meaning, labels=names)
            for values, value in by_name[metric.name].items():
                family.add_metric(values, value)
            yield family

    def _durations(self) -> Metric:
        names = [label.name for label in HTTP_REQUESTS.labels]
        family = HistogramMetricFamily(HTTP_REQUESTS.full_name, HTTP_REQUESTS.meaning, labels=names)
        bounds = [*map(str, BUCKETS), "+Inf"]
        for (route, method, status), durations in self._requests.items():
            buckets = list(zip(bounds, accumulate(durations.counts), strict=True))
            family.add_metric((route, method, str(status)), buckets=buckets, sum_value=durations.seconds)
        return family


def _zeros(metric: table.Metric) -> dict[Key, float]:
    """What was never counted was counted 0 times: so Prometheus sees the first time, too."""
    return dict.fromkeys(metric.known_series, 0.0) if metric.kind is Kind.COUNTER else {}
