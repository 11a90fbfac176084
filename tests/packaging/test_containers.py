"""What contrib/ and the Dockerfile say is what the configuration understands."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from identity_server.config import all_sections, load
from tests.packaging.test_distributions import build, files_of

_REPOSITORY = Path(__file__).parents[2]
_COMPOSE = _REPOSITORY / "contrib/compose/compose.yaml"
_CHART = _REPOSITORY / "contrib/helm/matrix-identity-server"
_ROLE = _REPOSITORY / "contrib/ansible/roles/matrix_identity_server"


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


def test_chart_sets_keys_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    conf = tmp_path / "sydent.conf"
    conf.write_text(yaml.safe_load((_CHART / "values.yaml").read_text())["config"])
    template = (_CHART / "templates/deployment.yaml").read_text()
    # Numbers and switches can all be 1.
    environ = dict.fromkeys(re.findall(r"- name: (IDENTITY_SERVER__\w+)", template), "1")
    environ |= {
        "IDENTITY_SERVER__GENERAL__PROMETHEUS_ADDR": "0.0.0.0",
        "IDENTITY_SERVER__GENERAL__TERMS_PATH": str(_REPOSITORY / "terms"),
    }

    config = load(conf, environ=environ, strict=True)

    assert config.warnings == ()
    assert config.db.auto_upgrade


def test_role_sets_keys_that_exist() -> None:
    defaults = yaml.safe_load((_ROLE / "defaults/main.yml").read_text())
    known = {(section.name, key.name) for section in all_sections() for key in section.keys.values()}
    written = defaults["matrix_identity_server_configuration_default"]
    assert {(section, key) for section, keys in written.items() for key in keys} <= known
    template = (_ROLE / "templates/matrix-identity-server.service.j2").read_text()
    tasks = (_ROLE / "tasks/main.yml").read_text()
    used = set(re.findall(r"matrix_identity_server_\w+", template + tasks)) - {"matrix_identity_server_unit"}
    assert used <= set(defaults)


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
