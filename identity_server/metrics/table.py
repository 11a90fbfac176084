"""Every metric that this server shows, declared once.

The rule: what isn't declared here isn't shown. The page (server/metrics_page.py), docs/metrics.md, and the tests of the
dashboard and the alerts in contrib/ are all made from this table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from itertools import product
from typing import Final

PREFIX: Final = "identity_server_"

LIMITS: Final = (
    "account budget",
    "bind",
    "domain budget",
    "erasures",
    "homeserver budget",
    "key fetches",
    "mailbox",
    "mailbox by sender",
    "mails to address",
    "network budget",
    "open sessions",
    "registrations",
    "text message",
    "text messages",
    "validation mail",
    "visibility",
    "visit mail",
    "visit text",
    "visit texts",
    "visits",
    "wrong code",
    "wrong visit code",
)
"""What `RateLimited.limit` says. A test looks for others in the code."""

JOB_KINDS: Final = ("mail", "sms", "bind-notice", "unknown")
JOB_OUTCOMES: Final = ("done", "refused", "pending")
DELIVERY_OUTCOMES: Final = ("taken", "refused", "postponed", "unknown", "account_problem")
MEDIA: Final = ("email", "msisdn")
SESSION_STATES: Final = ("pending", "validated", "over")


class Kind(StrEnum):
    """What sort of number it is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Across(Enum):
    """How the numbers of several processes become one."""

    SUM = "the sum of all workers"
    MOST = "the largest of all workers"
    LEAST = "the smallest of all workers"
    ONCE = "read from the database"


@dataclass(frozen=True, slots=True)
class Label:
    """A label.

    Attributes:
        values: all that there are; empty where they aren't known here.
        meaning: what they are, where there is more to say than they do.
    """

    name: str
    values: tuple[str, ...] = ()
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: within this server, without prefix and `_total`.
        labels: in the order in which their values are given when it is counted.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[Label, ...] = ()
    across: Across = Across.SUM

    @property
    def full_name(self) -> str:
        """What Prometheus knows it by."""
        return PREFIX + self.name + ("_total" if self.kind is Kind.COUNTER else "")

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its samples."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{PREFIX}{self.name}_{part}" for part in ("bucket", "count", "sum"))
        return (self.full_name,)

    @property
    def known_series(self) -> tuple[tuple[str, ...], ...]:
        """All combinations of the values of its labels; none where some aren't known here."""
        return tuple(product(*(label.values for label in self.labels)))


_KIND = Label("kind", JOB_KINDS)
_CHORE = Label("chore", meaning="as `upkeep.failed` in the log names it")


def _counter(name: str, meaning: str, *labels: Label) -> Metric:
    return Metric(name, Kind.COUNTER, meaning, labels)


def _gauge(name: str, meaning: str, *labels: Label, across: Across = Across.SUM) -> Metric:
    return Metric(name, Kind.GAUGE, meaning, labels, across)


HTTP_REQUESTS: Final = Metric(
    "http_request_duration_seconds",
    Kind.HISTOGRAM,
    "Requests, and how long they took, from their head to their answer.",
    (
        Label("route", meaning="the pattern of the path; `unknown` for paths that there aren't"),
        Label("method"),
        Label("status"),
    ),
)
BUILD_INFO: Final = _gauge("build_info", "Always 1; the labels tell what runs.", Label("version"), Label("python"))

METRICS: Final = (
    # --- requests -------------------------------------------------------------------------
    HTTP_REQUESTS,
    _counter("refusals", "Requests that were answered 429.", Label("limit", LIMITS, "whose limit was used up")),
    _gauge("connections", "Open connections, those of Prometheus included."),
    # --- lookups --------------------------------------------------------------------------
    _counter("lookup_addresses", "Addresses that were looked up by hash."),
    _counter("lookup_hits", "Those of them that were found."),
    _counter(
        "token_checks",
        "Access tokens that were shown.",
        Label("result", ("remembered", "asked"), "whether the database had to be asked"),
    ),
    _gauge("index_associations", "Bindings that the lookup index holds.", across=Across.MOST),
    _gauge(
        "index_changes",
        "Bindings that came or went since the index's file was made; each worker keeps them in its memory.",
        across=Across.MOST,
    ),
    _gauge("index_file_bytes", "The size of the index's file.", across=Across.MOST),
    _gauge(
        "index_followed",
        "The last change of a binding that the index knows, by its number in the change feed.",
        across=Across.LEAST,
    ),
    _gauge(
        "index_lag_seconds",
        "How long ago the first change was made that the index of some worker of this machine doesn't know; else 0.",
        across=Across.ONCE,
    ),
    _gauge("pepper_age_seconds", "The age of the newest pepper.", across=Across.ONCE),
    _gauge("pepper_rotation_seconds", "At which age it is replaced.", across=Across.MOST),
    # --- mails, texts, notices ----------------------------------------------------------------
    _counter(
        "jobs", "Tries of jobs of the outbox.", _KIND, Label("outcome", JOB_OUTCOMES, "the last is tried again")
    ),
    _gauge("jobs_waiting", "Jobs in the outbox, those that are being tried included.", _KIND, across=Across.ONCE),
    _gauge("jobs_oldest_age_seconds", "The age of the oldest of them; 0 without any.", _KIND, across=Across.ONCE),
    _gauge(
        "jobs_overdue_seconds",
        "For how long the one that should be tried next has been due; 0 if none is.",
        _KIND,
        across=Across.ONCE,
    ),
    _counter(
        "deliveries",
        "What relay and providers said to a mail or a text.",
        Label("medium", MEDIA, "mails and texts"),
        Label("provider", meaning="`smtp`, `console`, or a name of `[sms]`"),
        Label("outcome", DELIVERY_OUTCOMES, "see [what the log says](operating.md#what-the-log-says)"),
    ),
    _gauge(
        "validation_sessions",
        "Validations of addresses; those that are over are kept for a day.",
        Label("medium", MEDIA),
        Label("state", SESSION_STATES),
        across=Across.ONCE,
    ),
    # --- the database ----------------------------------------------------------------------
    _gauge(
        "database_up", "Whether the database answered when it was last asked for these numbers.", across=Across.ONCE
    ),
    _gauge("database_reading_seconds", "How long that took.", across=Across.ONCE),
    _gauge("database_pool_connections", "Connections to the database.", Label("state", ("in use", "free"))),
    _gauge("database_pool_limit", "The most that there may be."),
    _counter("database_pool_waits", "Transactions that found all of them in use."),
    _counter("database_transactions", "Transactions that were begun.", Label("kind", ("read", "write", "claim"))),
    _counter("database_reruns", "Transactions that met another, and were done again."),
    _counter("database_outages", "Transactions that failed because the database couldn't be used."),
    # --- upkeep ------------------------------------------------------------------------------
    _gauge(
        "audit_lag_seconds",
        "The age of the oldest entry of the audit journal that isn't linked yet; 0 without any.",
        across=Across.ONCE,
    ),
    _gauge("chore_overdue_seconds", "For how long a chore has been due; 0 if it isn't.", _CHORE, across=Across.ONCE),
    _counter("chore_runs", "Runs of chores.", _CHORE, Label("outcome", ("done", "failed"))),
    # --- processes ----------------------------------------------------------------------------
    _gauge("workers", "Workers that take requests."),
    _counter("workers_lost", "Workers that ended without having been told to."),
    _gauge(
        "worker_start_time_seconds",
        "When the youngest worker started (Unix time): a start, a reload, or a loss.",
        across=Across.MOST,
    ),
    _counter("process_cpu_seconds", "Processor time that the workers used."),
    _gauge("process_resident_memory_bytes", "Memory of the workers. What they share is counted for each of them."),
    _gauge("process_open_fds", "Open files and connections of the worker that has most.", across=Across.MOST),
    _gauge("process_max_fds", "How many it may have.", across=Across.MOST),
    BUILD_INFO,
)
"""In the order in which they are shown and described."""

BY_NAME: Final = {metric.name: metric for metric in METRICS}
