from __future__ import annotations

import ctypes
import sys

import pytest

from tests.support.programs import outcome

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"),
    reason="another C library keeps its memory as it likes",
)


def test_what_a_burst_leaves_behind_is_given_back() -> None:
    program = """
from identity_server.server.memory import give_back

def taken():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Anonymous:"):
            return int(line.split()[1])

burst = [bytes([1]) * 30_000 for _ in range(1_000)]
# What is still in use above keeps the rest from being given back by itself.
kept = bytes([1]) * 30_000
before = taken()
del burst
freed = taken()
give_back()
print(before - freed, before - taken())
"""
    by_itself, in_all = map(int, outcome(program).split())
    assert by_itself < 5_000
    assert in_all > 20_000
