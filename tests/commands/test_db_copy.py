"""`identity-server db copy`: the same data under another configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from identity_server.__main__ import main

pytestmark = pytest.mark.sqlite(
    reason="tests/storage/moving/test_copying.py crosses engines; this is about two configurations"
)


def conf_for(folder: Path, *, name: str, keys: str = "keys") -> Path:
    path = folder / f"{name}.conf"
    path.write_text(
        f"[general]\nserver.name = id.example.org\n[http]\nclient_http_base = https://id.example.org\n"
        f"[db]\ndb.file = {folder}/{name}/identity.db\n[crypto]\nkey_dir = {folder}/{keys}\n"
    )
    return path


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """A configuration whose database has been used."""
    conf = conf_for(tmp_path, name="used")
    for command in ("db", "upgrade"), ("pepper", "rotate"), ("pepper", "rotate"):
        assert run(*command, "-c", conf).exit_code == 0
    return conf


def test_a_copy_serves_as_the_original_did(tmp_path: Path, used: Path) -> None:
    new = conf_for(tmp_path, name="new")
    result = run("db", "copy", "-c", used, "--to", new)
    assert result.exit_code == 0, result.output
    assert "         2  peppers\n" in result.stdout
    assert result.stdout.endswith(f"everything is copied: start the servers with -c {new}\n")
    assert "warning" not in result.stderr
    assert run("pepper", "list", "-c", new).stdout == run("pepper", "list", "-c", used).stdout
    assert run("audit", "verify", "-c", new).exit_code == 0
    assert (tmp_path / "new" / "identity.db").stat().st_mode & 0o077 == 0
    # Once more would be over what is there.
    assert "error: the target isn't empty" in run("db", "copy", "-c", used, "--to", new).stderr


def test_keys_that_the_copy_needs_are_missed_at_once(tmp_path: Path, used: Path) -> None:
    new = conf_for(tmp_path, name="new", keys="other-keys")
    result = run("db", "copy", "-c", used, "--to", new)
    assert result.exit_code == 0
    assert "warning: with" in result.stderr
    assert f"it is expected in {tmp_path}/other-keys/root.key" in result.stderr
    assert not (tmp_path / "other-keys").exists()


def test_a_database_is_not_copied_onto_itself(tmp_path: Path, used: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = conf_for(tmp_path, name="new")
    monkeypatch.setenv("IDENTITY_SERVER__DB__DB_FILE", str(tmp_path / "used" / "identity.db"))
    result = run("db", "copy", "-c", used, "--to", new)
    assert result.exit_code == 1
    assert "both configurations name the same database" in result.stderr
