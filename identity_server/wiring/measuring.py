"""What the parts of the system know of themselves, as metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from time import monotonic

import structlog

from identity_server.config import Config
from identity_server.domain.errors import Unavailable
from identity_server.domain.identifiers import Medium
from identity_server.index.read_index import ReadIndex
from identity_server.metrics import Key, Metrics, Reading
from identity_server.metrics.table import DELIVERY_OUTCOMES, JOB_KINDS, MEDIA, SESSION_STATES
from identity_server.services.authentication.accounts import Accounts
from identity_server.services.vital_signs import Signs, VitalSigns
from identity_server.storage.database import Database
from identity_server.wiring.settings import sms_settings

_log = structlog.get_logger(__name__)

_READING_SECONDS = 5.0
_UNKNOWN = "unknown"


def measure(
    metrics: Metrics, *, database: Database, index: ReadIndex, accounts: Accounts, rotation_seconds: float
) -> None:
    """Have everything measured whenever somebody wants to know the metrics of this process."""

    def gather() -> None:
        metrics.set_counted("token_checks", "remembered", to=accounts.recognised)
        metrics.set_counted("token_checks", "asked", to=accounts.asked)
        metrics.measure("pepper_rotation_seconds", value=rotation_seconds)
        _measure_database(metrics, database)
        _measure_index(metrics, index)

    metrics.gather_from(gather)


def _measure_database(metrics: Metrics, database: Database) -> None:
    activity, pool = database.activity, database.pool
    for kind, count in activity.transactions.items():
        metrics.set_counted("database_transactions", kind, to=count)
    metrics.set_counted("database_reruns", to=activity.reruns)
    metrics.set_counted("database_outages", to=activity.outages)
    metrics.set_counted("database_pool_waits", to=activity.waits)
    if pool is not None:
        metrics.measure("database_pool_connections", "in use", value=pool.in_use)
        metrics.measure("database_pool_connections", "free", value=pool.free)
        metrics.measure("database_pool_limit", value=pool.limit)


def _measure_index(metrics: Metrics, index: ReadIndex) -> None:
    size = index.size
    if size is None:
        return
    metrics.measure("index_associations", value=size.associations)
    metrics.measure("index_changes", value=size.changes)
    metrics.measure("index_file_bytes", value=size.file_bytes)
    metrics.measure("index_followed", value=size.followed)


def expect_deliveries(metrics: Metrics, config: Config) -> None:
    """Show every provider that is configured from the start."""
    sms = sms_settings(config)
    texts = {*sms.providers, *(name for order in sms.by_country.values() for name in order)}
    for medium, providers in ((Medium.EMAIL, {str(config.email.transport)}), (Medium.MSISDN, texts)):
        for provider in sorted(providers):
            for outcome in DELIVERY_OUTCOMES:
                metrics.expect("deliveries", medium, provider, outcome)


def expect_chores(metrics: Metrics, names: Collection[str]) -> None:
    """Show every chore from the start."""
    for chore in names:
        for outcome in ("done", "failed"):
            metrics.expect("chore_runs", chore, outcome)


async def read_signs(vital_signs: VitalSigns, *, chores: Collection[str], followed: float | None) -> Reading:
    """What only the database knows; that it doesn't answer is an answer, too.

    Args:
        vital_signs: asks it.
        chores: the names of those that are done once for all processes.
        followed: the last change of a binding that the indexes of all processes know; None if that isn't known.
    """
    started = monotonic()
    gauges: dict[Key, float] = {("database_up",): 0.0}
    try:
        async with asyncio.timeout(_READING_SECONDS):
            signs = await vital_signs.take(followed=None if followed is None else int(followed))
    except (Unavailable, TimeoutError) as error:
        _log.warning("metrics.not_read", reason=type(error).__name__)
    except Exception:  # noqa: BLE001 - whatever else can be shown is to be shown
        _log.exception("metrics.not_read")
    else:
        gauges = {("database_up",): 1.0, **_gauges(signs, chores)}
    gauges["database_reading_seconds",] = monotonic() - started
    return Reading(taken_at=monotonic(), gauges=gauges)


def _gauges(signs: Signs, chores: Collection[str]) -> dict[Key, float]:
    def age(since_ms: int | None) -> float:
        return 0.0 if since_ms is None else max(0, signs.taken_at_ms - since_ms) / 1000

    gauges: dict[Key, float] = {
        ("validation_sessions", medium, state): 0.0 for medium in MEDIA for state in SESSION_STATES
    }
    gauges |= {("validation_sessions", each.medium, each.state): each.count for each in signs.sessions}
    for name in ("jobs_waiting", "jobs_oldest_age_seconds", "jobs_overdue_seconds"):
        gauges |= {(name, kind): 0.0 for kind in JOB_KINDS}
    for jobs in signs.jobs:
        # What stands in the database may be anything.
        kind = jobs.kind if jobs.kind in JOB_KINDS else _UNKNOWN
        gauges["jobs_waiting", kind] += jobs.total
        for name, since_ms in (("oldest_age", jobs.oldest_at_ms), ("overdue", jobs.next_run_at_ms)):
            key = (f"jobs_{name}_seconds", kind)
            gauges[key] = max(gauges[key], age(since_ms))
    if signs.pepper_made_at_ms is not None:
        gauges["pepper_age_seconds",] = age(signs.pepper_made_at_ms)
    gauges["index_lag_seconds",] = age(signs.missed_at_ms)
    gauges["audit_lag_seconds",] = age(signs.unlinked_at_ms)
    gauges |= {("chore_overdue_seconds", chore): age(signs.chores_due_at_ms.get(chore)) for chore in chores}
    return gauges
