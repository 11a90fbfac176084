"""The load generator: wrk, in C, one thread; it costs a fraction of what any server here does per request.

The rule: whoever reports a speed reports how busy the generator was. At its limit it would be the thing measured.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.client import BadAnswer

_SCRIPT = Path(__file__).with_name("wrk.lua")
_RESULT = re.compile(r"^RESULT (\{.*\})$", re.MULTILINE)
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Load:
    """What came of sending as fast as the answers came.

    Attributes:
        bytes: of all answers.
        generator_share: how much of one core the generator used.
    """

    requests: int
    seconds: float
    bytes: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    generator_share: float


async def drive(port: int, pool: Path, *, seconds: float, connections: int) -> Load:
    """Send the requests of a pool over some connections, each as soon as it has its answer.

    Raises:
        BadAnswer: an answer had another status than 200, or none came.
    """
    command = (
        *("timeout", str(round(seconds) + 2 * _TIMEOUT_SECONDS), "wrk"),
        *("--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"),
        *("--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(_SCRIPT), f"http://127.0.0.1:{port}"),
        *("--", str(pool)),
    )
    output, cpu_seconds = await asyncio.to_thread(_run, command)
    found = _RESULT.search(output)
    if found is None:
        raise BadAnswer(f"wrk failed: {output[-500:]}")
    result = json.loads(found[1])
    if result["status_errors"] or result["other_errors"]:
        raise BadAnswer(f"wrk counted errors: {result}")
    if not result["requests"]:
        raise BadAnswer(f"no answer within {seconds:g} s")
    return Load(
        requests=result["requests"],
        seconds=result["microseconds"] / 1e6,
        bytes=result["bytes"],
        p50_ms=result["p50_us"] / 1000,
        p99_ms=result["p99_us"] / 1000,
        max_ms=result["max_us"] / 1000,
        generator_share=cpu_seconds / (result["microseconds"] / 1e6),
    )


def _run(command: Sequence[str]) -> tuple[str, float]:
    """Run a program; what it printed, and the seconds of processor time that it took with its children."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return output.read().decode(errors="replace"), usage.ru_utime + usage.ru_stime
