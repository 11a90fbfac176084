"""What contrib/ and the Dockerfile say is what the configuration understands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from identity_server.config import load

_REPOSITORY = Path(__file__).parents[2]
_COMPOSE = _REPOSITORY / "contrib/compose/compose.yaml"


def defaults(value: str) -> str:
    """A value of a compose file, where nothing is set in the environment."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_compose_file_sets_keys_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    services = yaml.safe_load(_COMPOSE.read_text())["services"]
    environ = {name: defaults(value) for name, value in services["identity-server"]["environment"].items()}

    config = load(None, environ=environ, strict=True)

    # PostgreSQL is on the same machine, in a network of their own.
    assert [warning.key for warning in config.warnings] == ["db.url"]
    assert (config.db.url or "").endswith("@postgres/identity")
    assert config.db.password == defaults(services["postgres"]["environment"]["POSTGRES_PASSWORD"])
    assert config.email.smtphost in services


def test_image_is_checked_by_its_own_command_and_runs_as_nobody_special() -> None:
    last_stage = (_REPOSITORY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert 'CMD ["identity-server", "health"]' in last_stage
    assert "\nUSER 993:993\n" in last_stage
    assert "RUN pip" not in last_stage
