"""Sends traces of requests and jobs to an OpenTelemetry collector. Implements `Traces`.

The rule: a span has the pattern of a route, a kind, a status, an outcome and a request's id, and nothing else: no path,
no query, no header, no address of anybody.
"""

from __future__ import annotations

import re
from threading import Thread
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from identity_server.domain.ports import TracedJob, TracedRequest

_SEND_SECONDS: Final = 5
_LAST_SECONDS: Final = 2.0
_FAULT: Final = 500
_NS_PER_MS: Final = 1_000_000
# https://www.w3.org/TR/trace-context/#traceparent-header; a later version may have more at its end.
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})(?P<trace>[0-9a-f]{32})-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2}).*"
)


class OtlpTraces:
    """Makes a span of everything it is told, and sends them from a thread of its own.

    Args:
        endpoint: base URL of the collector.
        share: how much is traced, from 0 to 1, where nobody has decided it already.
        version: of this server.
        server_name: of this server.
    """

    def __init__(self, endpoint: str, *, share: float, version: str, server_name: str) -> None:
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=_SEND_SECONDS)
        service = {
            "service.name": "matrix-identity-server",
            "service.version": version,
            "service.instance.id": server_name,
        }
        # Not `Resource.create`, which looks around: at the machine, the process and its arguments.
        self._provider = TracerProvider(
            resource=Resource(service), sampler=ParentBased(TraceIdRatioBased(share)), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("identity_server", version)

    def request(self, request: TracedRequest) -> None:
        """A request was answered."""
        span = self._tracer.start_span(
            f"{request.method} {request.route}",
            context=_context_of(request.parent),
            kind=SpanKind.SERVER,
            attributes={
                "http.request.method": request.method,
                "http.route": request.route,
                "http.response.status_code": request.status,
                "identity_server.request_id": request.request_id,
            },
            start_time=_start(request.ended_ms, request.seconds),
        )
        if request.status >= _FAULT:
            span.set_attribute("error.type", str(request.status))
            span.set_status(Status(StatusCode.ERROR))
        span.end(request.ended_ms * _NS_PER_MS)

    def job(self, job: TracedJob) -> None:
        """A job of the outbox was tried."""
        attributes = {"identity_server.job.kind": job.kind, "identity_server.job.outcome": job.outcome}
        if job.request_id is not None:
            attributes["identity_server.request_id"] = job.request_id
        span = self._tracer.start_span(
            f"job {job.kind}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            start_time=_start(job.ended_ms, job.seconds),
        )
        if job.outcome != "done":
            span.set_status(Status(StatusCode.ERROR))
        span.end(job.ended_ms * _NS_PER_MS)

    def close(self) -> None:
        """Send what waits to be sent, if that is quick."""
        # By itself it would try for as long as a worker has to end.
        ending = Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(_LAST_SECONDS)


def _start(ended_ms: int, seconds: float) -> int:
    return ended_ms * _NS_PER_MS - round(seconds * 1e9)


def _context_of(parent: str | None) -> Context:
    """What a `traceparent` header says; nothing if it isn't one."""
    match = _PARENT.fullmatch(parent or "")
    if match is None:
        return Context()
    context = SpanContext(
        trace_id=int(match["trace"], 16),
        span_id=int(match["span"], 16),
        is_remote=True,
        trace_flags=TraceFlags(int(match["flags"], 16)),
    )
    return set_span_in_context(NonRecordingSpan(context), Context())
