"""Where faults and traces go, if the operator has said so. What isn't configured isn't loaded."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from identity_server import __version__
from identity_server.config import Config
from identity_server.domain.ports import Traces


@contextmanager
def fault_reports(config: Config) -> Iterator[None]:
    """Have faults that are logged in this process reported, for as long as the block runs."""
    general = config.general
    if general.sentry_dsn is None:
        yield
        return
    from identity_server.outbound.sentry import SentryReports  # noqa: PLC0415 - a package that few have

    reports = SentryReports(
        general.sentry_dsn, release=f"matrix-identity-server@{__version__}", server_name=general.server_name
    )
    root = logging.getLogger()
    root.addHandler(reports)
    try:
        yield
    finally:
        root.removeHandler(reports)
        reports.close()


@contextmanager
def traces(config: Config) -> Iterator[Traces | None]:
    """Where traces go, for as long as the block runs; None for nowhere."""
    general = config.general
    if general.otlp_endpoint is None:
        yield None
        return
    from identity_server.outbound.traces import OtlpTraces  # noqa: PLC0415 - a package that few have

    found = OtlpTraces(
        general.otlp_endpoint, share=general.otlp_share, version=__version__, server_name=general.server_name
    )
    try:
        yield found
    finally:
        found.close()
