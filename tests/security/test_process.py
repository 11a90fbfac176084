"""The process and its surroundings: links that others have left."""

from __future__ import annotations

import os
from pathlib import Path

from identity_server.server.pid_file import pid_file


def test_pid_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    file = tmp_path / "identity.pid"
    file.symlink_to(precious)
    with pid_file(file):
        assert file.read_text() == f"{os.getpid()}\n"
        assert not file.is_symlink()
    assert precious.read_text() == "keep"
    assert not file.exists()


def test_left_over_pid_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "identity.pid"
    file.write_text("1\n")
    with pid_file(file):
        assert file.read_text() == f"{os.getpid()}\n"
