"""What a full run has proven: every test writes a line down, and docs/reliability.md is made from them.

The rule: nobody writes a figure by hand. A test that is run anew replaces its own line, one that fails says so there,
and each line has the date and the commit of its run. `python -m tests.fire.report` writes the page anew.
"""

from __future__ import annotations

import fcntl
import json
import subprocess
import time
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

_REPOSITORY: Final = Path(__file__).parents[2]
_RESULTS: Final = Path(__file__).with_name("results.json")
_PAGE: Final = _REPOSITORY / "docs" / "reliability.md"
_BEGIN: Final = "<!-- From here on written by `make fire`. -->\n"
_END: Final = "<!-- Until here. -->\n"
_PATIENCE: Final = 12

_PARTS: Final = {
    "test_kills": "Killed under load",
    "test_postgresql_outages": "PostgreSQL goes away",
    "test_sqlite_faults": "SQLite can't write",
    "test_relay": "A mail relay in trouble",
    "test_hostile_homeservers": "Hostile homeservers",
    "test_hostile_clients": "Hostile clients",
    "test_session_states": "Every path through a session",
    "test_races": "Races between four processes",
    "test_pages": "Pages in Chromium",
    "test_upgrades": "Upgrades",
}


@dataclass(frozen=True, slots=True)
class Line:
    """What one test has proven.

    Attributes:
        test: its id, without its folder.
        did: what was done to the server.
        times: how often.
        outcome: what came of it.
    """

    test: str
    did: str
    times: int
    outcome: str
    date: str
    commit: str
    seconds: int


class Proof:
    """What one test is to prove, and has proven.

    Args:
        node: pytest's id of the test.
        full: whether as much is done as was promised, and written down; else a few rounds, for every day.
        share: of the rounds that were promised, for whoever has less than an hour; the line says how many there were.
    """

    def __init__(self, node: str, *, full: bool, share: float) -> None:
        self._test = node.rpartition("/")[2]
        self._full = full
        self._share = share
        self._begun = time.monotonic()
        self._is_recorded = False

    @property
    def is_full(self) -> bool:
        """Whether as much is to be done as was promised."""
        return self._full

    def rounds(self, *, quick: int, full: int) -> int:
        """How often it is to be done."""
        return max(quick, round(full * self._share)) if self._full else quick

    def within(self, seconds: float) -> float:
        """How long something may take that is to take so long at most.

        `make fire` has the machine to itself. The few rounds of every day run beside other tests, which makes a time say
        little: they only notice what would take as good as forever.
        """
        return seconds if self._full else _PATIENCE * seconds

    def record(self, did: str, *, times: int, outcome: str) -> None:
        """Write down what has been proven."""
        self._is_recorded = True
        if not self._full:
            return
        line = Line(
            test=self._test,
            did=did,
            times=times,
            outcome=outcome,
            date=time.strftime("%Y-%m-%d"),
            commit=_commit(),
            seconds=round(time.monotonic() - self._begun),
        )
        _put(line)

    def close(self) -> None:
        """Write down that it has failed, unless something was proven."""
        if not self._is_recorded:
            self.record("", times=0, outcome="**failed**")


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=_REPOSITORY, check=False, capture_output=True, text=True
        ).stdout.strip()

    changed = git("status", "--porcelain", "--", "identity_server", "migrations")
    return git("rev-parse", "--short=10", "HEAD") + (" and changes" if changed else "")


def _put(line: Line) -> None:
    with _RESULTS.open("a+") as file:
        # Several processes may run tests.
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        lines: dict[str, Any] = json.loads(file.read() or "{}")
        lines[line.test] = asdict(line)
        file.truncate(0)
        json.dump(lines, file, indent=1, sort_keys=True)
        file.write("\n")


def read() -> list[Line]:
    """All lines, in the order of the page."""
    lines = [Line(**line) for line in json.loads(_RESULTS.read_text()).values()] if _RESULTS.exists() else []
    order = list(_PARTS)
    return sorted(lines, key=lambda line: (order.index(_part(line)), line.test))


def _part(line: Line) -> str:
    return line.test.partition(".py::")[0]


def written(lines: list[Line]) -> str:
    """The part of the page that holds them."""
    parts = []
    for part, of_part in groupby(lines, key=_part):
        rows = "".join(
            f"| {line.did or line.test.partition('::')[2]} | {line.times} | {line.outcome} | {line.date}, `{line.commit}`,"
            f" {line.seconds} s |\n"
            for line in of_part
        )
        parts.append(
            f"### {_PARTS[part]}\n\n`tests/fire/{part}.py`\n\n"
            "| What was done | Times | What came of it | When, on which commit, how long it took |\n|---|---|---|---|\n"
            + rows
        )
    return "\n" + "\n".join(parts) + "\n"


def main() -> None:
    """Write the page anew."""
    page = _PAGE.read_text()
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _PAGE.write_text(before + _BEGIN + written(read()) + _END + after)


if __name__ == "__main__":
    main()
