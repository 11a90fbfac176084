"""`identity-server db status`: only looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from identity_server.__main__ import main


@pytest.mark.sqlite(reason="a database on PostgreSQL isn't made by whoever looks")
def test_database_that_is_not_there_has_no_schema_and_is_not_made(tmp_path: Path) -> None:
    conf = tmp_path / "identity.conf"
    conf.write_text(f"[general]\nserver.name = id.example.org\n[db]\ndb.file = {tmp_path}/identity.db\n")
    before = sorted(tmp_path.rglob("*"))
    shown = CliRunner().invoke(main, ["db", "status", "-c", str(conf)])
    assert shown.exit_code == 1
    assert shown.stdout.startswith("schema none yet, expected ")
    assert sorted(tmp_path.rglob("*")) == before
