"""A stamp that has been seen before stands for nothing new, whoever renewed it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from identity_server.storage.stamps import Stamps, Subject

_RENEW = """
import sys
from pathlib import Path
from identity_server.storage.stamps import Stamps, Subject
Stamps(Path(sys.argv[1])).renew(Subject.LOOKUPS)
"""


def test_another_process_is_heard(tmp_path: Path) -> None:
    file = tmp_path / "index" / "stamps"
    stamps = Stamps(file)
    before = [stamps.read(subject) for subject in Subject]

    subprocess.run([sys.executable, "-c", _RENEW, str(file)], check=True)

    assert stamps.read(Subject.LOOKUPS) != before[Subject.LOOKUPS]
    assert stamps.read(Subject.ACCOUNTS) == before[Subject.ACCOUNTS]
    assert file.stat().st_mode & 0o077 == 0


def test_no_stamp_comes_twice(tmp_path: Path) -> None:
    one, other = Stamps(tmp_path / "stamps"), Stamps(tmp_path / "stamps")
    seen = set()
    for number in range(1_000):
        (one, other)[number % 2].renew(Subject.LOOKUPS)
        seen.add(one.read(Subject.LOOKUPS))
    assert len(seen) == 1_000


def test_without_a_file_they_are_for_one_process_alone() -> None:
    one, other = Stamps(), Stamps()
    one.renew(Subject.LOOKUPS)
    assert other.read(Subject.LOOKUPS) != one.read(Subject.LOOKUPS)
