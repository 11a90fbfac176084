"""What contrib/ and the Dockerfile say is what the configuration understands."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from identity_server.config import load
from tests.packaging.test_distributions import build, files_of

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


def test_image_gets_the_same_wheel_as_everybody(tmp_path: Path) -> None:
    """Built from nothing but what the first stage copies, and what .dockerignore lets through."""
    first_stage = (_REPOSITORY / "Dockerfile").read_text().split("\nFROM ")[1]
    let_through = {line[1:] for line in (_REPOSITORY / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    context = tmp_path / "src"
    context.mkdir()
    for line in re.findall(r"^COPY (.*)$", first_stage, re.MULTILINE):
        *sources, target = shlex.split(line)
        assert set(sources) <= let_through
        for source in sources:
            copy(_REPOSITORY / source, context / (source if target == "./" else target))
    build(context, tmp_path / "image", "wheel")
    build(_REPOSITORY, tmp_path / "ours", "wheel")

    [image], [ours] = (tmp_path / "image").iterdir(), (tmp_path / "ours").iterdir()
    assert files_of(image) == files_of(ours)


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    else:
        shutil.copy(source, target)
