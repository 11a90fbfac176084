"""`identity-server pepper`, and what all commands but those that make a database say where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from identity_server.__main__ import main
from tests.support.databases import variables_for

_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "identity.conf"
    path.write_text(
        f"[general]\nserver.name = id.example.org\n[http]\nclient_http_base = https://id.example.org\n"
        f"[db]\ndb.file = {tmp_path}/db/identity.db\n"
    )
    return path


@pytest.mark.sqlite(reason="its first command makes the database")
def test_peppers_are_listed_by_their_times(conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables_for(tmp_path / "db" / "identity.db").items():
        monkeypatch.setenv(name, value)
    run = CliRunner().invoke
    made = run(main, ["db", "upgrade", "-c", str(conf)])
    assert made.exit_code == 0, made.output

    for _ in range(2):
        assert run(main, ["pepper", "rotate", "-c", str(conf)]).exit_code == 0

    first, second = run(main, ["pepper", "list", "-c", str(conf)]).stdout.splitlines()
    assert re.fullmatch(rf"pepper 1: made {_TIME}, .+", first)
    assert re.fullmatch(rf"pepper 2: made {_TIME}, in use, or about to be", second)


@pytest.mark.parametrize(
    "command",
    [
        ["pepper", "rotate"],
        ["jobs", "list"],
        ["invites", "list"],
        ["audit", "verify"],
        ["account", "export", "--to", ".", "@alice:example.org"],
        ["account", "erase", "--yes", "@alice:example.org"],
        ["association", "erase", "--yes", "alice@example.org"],
        ["homeserver", "erase", "--yes", "example.org"],
    ],
    ids=" ".join,
)
def test_a_missing_database_is_said_and_not_made(conf: Path, tmp_path: Path, command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "-c", str(conf)])

    assert result.exit_code == 1
    assert (
        f"there is no database {tmp_path}/db/identity.db: name the server's configuration by -c FILE" in result.output
    )
    assert not (tmp_path / "db").exists()
    assert not (tmp_path / "keys").exists()
