"""The log file: one process begins new ones, and all others follow."""

from __future__ import annotations

import logging
import logging.handlers
import select
import sys
from pathlib import Path

import pytest

from identity_server.observability import BLOCK, rotate_log, set_up_logging


def test_parent_begins_a_new_file_at_midnight_even_if_it_has_nothing_to_say(tmp_path: Path) -> None:
    log = tmp_path / "log"
    set_up_logging(level="INFO", form="json", path=log, rotates=True)
    logging.getLogger("test").warning("yesterday")
    rotate_log()
    assert list(tmp_path.iterdir()) == [log], "it isn't midnight yet"
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler, logging.handlers.TimedRotatingFileHandler)
    handler.rolloverAt = 0
    rotate_log()
    assert log.read_text() == ""
    (former,) = set(tmp_path.iterdir()) - {log}
    assert "yesterday" in former.read_text()


def test_worker_follows_and_begins_none(tmp_path: Path) -> None:
    log = tmp_path / "log"
    set_up_logging(level="INFO", form="json", path=log)
    logging.getLogger("test").warning("before")
    log.rename(tmp_path / "former")
    logging.getLogger("test").warning("after")
    rotate_log()
    assert "after" in log.read_text()
    assert "before" not in log.read_text()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["former", "log"]


class Written:
    """A stream that remembers what it was given at once."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def write(self, text: str) -> None:
        self.parts.append(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("lines", [["x" * 100] * 1000, ["x" * 10_000] * 3, ["short"], ["y" * (select.PIPE_BUF - 1)]])
def test_lines_of_several_processes_stay_whole(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Written()
    monkeypatch.setattr(sys, "stderr", stream)
    set_up_logging(level="INFO", form="json", path=None)
    logging.getLogger("test").info("\n".join(lines), extra=BLOCK)
    assert "".join(stream.parts) == "\n".join(lines) + "\n"
    for part in stream.parts:
        assert part.endswith("\n")
        # One line that is too long by itself can't be helped.
        assert len(part) <= select.PIPE_BUF or part.count("\n") == 1
