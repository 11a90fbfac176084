"""Traces: spans of requests and jobs, with nothing in them but what is said here."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from identity_server.domain.ports import DeliveryPostponed, TracedRequest
from identity_server.wiring.world import Ports
from tests.support.harness import Fakes, running
from tests.support.sink import Sink, sink

pytest.importorskip(
    "opentelemetry.exporter.otlp.proto.http", reason="the environment is older than requirements-dev.lock"
)

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

from identity_server.outbound.traces import OtlpTraces

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
REQUEST = TracedRequest("abc-1", "GET", "/a/{b}", 200, 1_700_000_000_000, 0.25, None)


@asynccontextmanager
async def tracing(*, share: float = 1.0) -> AsyncIterator[tuple[Sink, OtlpTraces]]:
    """Traces to a sink; all have arrived when the block ends."""
    async with sink() as found:
        with pytest.MonkeyPatch.context() as patch:
            # It need not be quick.
            patch.setattr("identity_server.outbound.traces._SEND_SECONDS", 60)
            patch.setattr("identity_server.outbound.traces._LAST_SECONDS", 60.0)
            traces = OtlpTraces(found.base, share=share, version="1.2", server_name="id.example.org")
            try:
                yield found, traces
            finally:
                await asyncio.to_thread(traces.close)


class TracedFakes(Fakes):
    def __init__(self, traces: OtlpTraces) -> None:
        super().__init__()
        self._traces = traces

    @property
    def ports(self) -> Ports:
        return replace(super().ports, traces=self._traces)


def spans(found: Sink) -> list[Any]:
    """What has arrived, the oldest first."""
    arrived = []
    for body in found.bodies("/v1/traces"):
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            arrived += [span for scope in resource.scope_spans for span in scope.spans]
    return sorted(arrived, key=lambda span: (span.start_time_unix_nano, span.name))


def attributes_of(span: Any) -> dict[str, Any]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


async def test_requests_and_jobs_become_spans_without_anything_of_anybody(tmp_path: Path) -> None:
    async with tracing() as (found, traces):
        fakes = TracedFakes(traces)
        async with running(tmp_path, fakes=fakes) as server:
            alice = await server.register()
            fakes.mail.answers.append(DeliveryPostponed("connect: refused"))
            headers = {"X-Forwarded-For": "203.0.113.77", "traceparent": f"00-{TRACE}-{SPAN}-01"}
            await server.request_token(alice, "alice@example.com")
            await server.get(f"account?access_token={alice.token}", as_=alice, headers=headers)
            await server.get("/alice@example.com")
            await server.get("/health")
    arrived = {span.name: span for span in spans(found)}
    assert set(arrived) == {
        "POST /_matrix/identity/v2/account/register",
        "POST /_matrix/identity/v2/validate/email/requestToken",
        "job mail",
        "GET /_matrix/identity/v2/account",
        "GET unknown",
    }
    request = attributes_of(arrived["POST /_matrix/identity/v2/validate/email/requestToken"])
    assert request == {
        "http.request.method": "POST",
        "http.route": "/_matrix/identity/v2/validate/email/requestToken",
        "http.response.status_code": 200,
        "identity_server.request_id": request["identity_server.request_id"],
    }
    job = attributes_of(arrived["job mail"])
    assert job == {
        "identity_server.job.kind": "mail",
        "identity_server.job.outcome": "pending",
        "identity_server.request_id": request["identity_server.request_id"],
    }
    assert arrived["GET /_matrix/identity/v2/account"].trace_id.hex() != TRACE, "no proxy is trusted"
    everything = b"\n".join(body for _, body in found.received)
    secrets = ("alice", "example.com", "203.0.113.77", "monkeys", alice.token, "access_token")
    assert [each for each in secrets if each.encode() in everything] == []


async def test_trace_of_a_trusted_proxy_goes_on(tmp_path: Path) -> None:
    async with tracing() as (found, traces):
        settings = {"HTTP__TRUSTED_PROXIES": "127.0.0.1"}
        async with running(tmp_path, fakes=TracedFakes(traces), settings=settings) as server:
            for parent in (
                f"00-{TRACE}-{SPAN}-01",
                f"00-{TRACE}-{SPAN}-00",
                f"00-{TRACE}-{SPAN}",
                "alice@example.com",
            ):
                headers = {"traceparent": parent, "tracestate": "who=alice", "baggage": "who=alice"}
                await server.get("/_matrix/identity/versions", headers=headers)
    followed = [span for span in spans(found) if span.trace_id.hex() == TRACE]
    assert [span.parent_span_id.hex() for span in followed] == [SPAN], "one was to be traced, and one not to be"
    assert len(spans(found)) == 3
    assert not any(b"alice" in body for _, body in found.received)


async def test_times_faults_and_who_says_so() -> None:
    async with tracing() as (found, traces):
        traces.request(replace(REQUEST, status=503))
    (span,) = spans(found)
    assert span.end_time_unix_nano == 1_700_000_000_000 * 1_000_000
    assert span.end_time_unix_nano - span.start_time_unix_nano == 250_000_000
    assert span.status.code == span.status.STATUS_CODE_ERROR
    (body,) = found.bodies("/v1/traces")
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    assert {each.key: each.value.string_value for each in resource.resource.attributes} == {
        "service.name": "matrix-identity-server",
        "service.version": "1.2",
        "service.instance.id": "id.example.org",
    }


@pytest.mark.parametrize("listens", [True, False], ids=["silent", "down"])
async def test_a_collector_that_is_away_keeps_nobody_waiting(*, listens: bool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listens:
            silent.listen()
        port = silent.getsockname()[1]
        traces = OtlpTraces(f"http://127.0.0.1:{port}", share=1, version="1.2", server_name="id.example.org")
        started = monotonic()
        for _ in range(1_000):
            traces.request(REQUEST)
        await asyncio.to_thread(traces.close)
        # Closing is patient for a few seconds; a request that waited for the collector would take a thousand times as long.
        assert monotonic() - started < 60


async def test_share() -> None:
    async with tracing(share=0) as (found, traces):
        for _ in range(100):
            traces.request(REQUEST)
        traces.request(replace(REQUEST, parent=f"00-{TRACE}-{SPAN}-01"))
    assert [span.trace_id.hex() for span in spans(found)] == [TRACE]
