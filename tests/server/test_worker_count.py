from __future__ import annotations

import os
from pathlib import Path

import pytest

from identity_server.config import ConfigError
from identity_server.server.parent import worker_count
from tests.support.harness import make_config

POSTGRESQL = {"DB__DB_URL": "postgresql+asyncpg://identity@localhost/identity"}


def test_sqlite_has_one_worker_unless_told_otherwise(tmp_path: Path) -> None:
    assert worker_count(make_config(tmp_path)) == 1
    assert worker_count(make_config(tmp_path, settings={"HTTP__WORKERS": "4"})) == 4


def test_postgresql_has_one_for_each_core_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 2, 5}, raising=False)
    assert worker_count(make_config(tmp_path, settings=POSTGRESQL)) == 3
    assert worker_count(make_config(tmp_path, settings={**POSTGRESQL, "HTTP__WORKERS": "1"})) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(500)), raising=False)
    assert worker_count(make_config(tmp_path, settings=POSTGRESQL)) == 64


@pytest.mark.parametrize("text", ["0", "-1", "65", "many", "1.5"])
def test_other_numbers_are_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"workers.*whole number from 1 to 64"):
        make_config(tmp_path, settings={"HTTP__WORKERS": text})
