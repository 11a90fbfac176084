"""The process and its surroundings: signals that come too early, links that others have left."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from identity_server import server
from tests.support.harness import make_config


def test_pid_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("keep")
    pid_file = tmp_path / "identity.pid"
    pid_file.symlink_to(precious)
    with server._pid_file(pid_file):
        assert pid_file.read_text() == f"{os.getpid()}\n"
        assert not pid_file.is_symlink()
    assert precious.read_text() == "keep"
    assert not pid_file.exists()


def test_left_over_pid_file_is_replaced(tmp_path: Path) -> None:
    pid_file = tmp_path / "identity.pid"
    pid_file.write_text("1\n")
    with server._pid_file(pid_file):
        assert pid_file.read_text() == f"{os.getpid()}\n"


async def test_hangup_while_starting_does_not_end_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGHUP)
    outlived = False

    def hang_up(*_: object) -> None:
        nonlocal outlived
        assert signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL, "this would end the tests, too"
        os.kill(os.getpid(), signal.SIGHUP)
        outlived = True
        raise server.CannotListen("enough")

    monkeypatch.setattr(server, "_listening_socket", hang_up)
    try:
        with pytest.raises(server.CannotListen):
            await asyncio.wait_for(server.serve(make_config(tmp_path)), 5)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert outlived
