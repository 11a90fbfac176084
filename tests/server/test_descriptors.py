"""How many connections a limit of open files leaves room for."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from identity_server.server.descriptors import MOST_CONNECTIONS, RESERVED, most_connections

_ALL = MOST_CONNECTIONS + RESERVED


@pytest.mark.parametrize(
    ("limit", "room"),
    [
        (1, 1),
        (64, 32),
        (256, 128),
        (1024, 1024 - RESERVED),
        (_ALL, MOST_CONNECTIONS),
        (1_000_000, MOST_CONNECTIONS),
        (resource.RLIM_INFINITY, MOST_CONNECTIONS),
    ],
)
def test_connections_leave_files_for_the_rest(limit: int, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert most_connections() == room


@pytest.mark.parametrize(("soft", "hard", "then"), [(256, 4096, _ALL), (256, 512, 512), (4096, 4096, 4096)])
def test_server_takes_what_it_may(soft: int, hard: int, then: int) -> None:
    program = f"""
import resource
from identity_server.server.descriptors import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
raise_limit()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(then), str(hard)]
