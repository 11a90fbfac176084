"""What a worker takes of the machine, as metrics. Where the kernel doesn't tell, they are missing."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path
from time import process_time

from identity_server.metrics import Metrics

_PAGE_BYTES = resource.getpagesize()
_STATM = Path("/proc/self/statm")
_DESCRIPTORS = "/proc/self/fd"


def measure_process(metrics: Metrics) -> None:
    """Measure now; a fraction of a millisecond, or one for every few thousand connections."""
    metrics.set_counted("process_cpu_seconds", to=process_time())
    metrics.measure("process_max_fds", value=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with suppress(OSError):
        metrics.measure("process_resident_memory_bytes", value=int(_STATM.read_text().split()[1]) * _PAGE_BYTES)
        metrics.measure("process_open_fds", value=len(os.listdir(_DESCRIPTORS)))  # noqa: PTH208 - names are enough
