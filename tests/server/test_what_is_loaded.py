"""What each process has in memory before anybody asks it for anything: megabytes that are there in every one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.programs import outcome

_PRINT = "print(json.dumps(list(sys.modules)))"
_PARENT = f"""
import json, os, sys
from pathlib import Path
import identity_server.commands.serve
from identity_server.config import load
load(None, environ={{}})
{_PRINT}
"""
_HEALTH = f"import json, sys, identity_server.commands.health; {_PRINT}"
_WORKER = f"""
import asyncio, json, sys
import identity_server.commands.serve
from identity_server.config import load
from identity_server.server.loading import load_work

load_work()
from identity_server.app import background_work, open_system
from identity_server.wiring.settings import load_templates
from identity_server.wiring.world import real_ports

async def main():
    config = load(None, environ={{"IDENTITY_SERVER__DB__DB_FILE": FOLDER + "/identity.db",
                                 "IDENTITY_SERVER__CRYPTO__KEY_DIR": FOLDER + "/keys"}})
    templates = load_templates(config)
    async with real_ports(config, templates) as ports, open_system(config, ports, templates) as system:
        async with background_work(system):
            await asyncio.sleep(0)
            {_PRINT}

asyncio.run(main())
"""


def loaded_by(program: str) -> set[str]:
    # What is logged comes before it.
    return set(json.loads(outcome(program).splitlines()[-1]))


def those_of(package: str, loaded: set[str]) -> set[str]:
    return {each for each in loaded if each == package or each.startswith(f"{package}.")}


@pytest.fixture(scope="module")
def parent() -> set[str]:
    return loaded_by(_PARENT)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder: Path = tmp_path_factory.mktemp("worker")
    program = f"FOLDER = {str(folder)!r}\n{_WORKER}"
    # The first one makes the database, and has needed for that what no later one does.
    assert "alembic" in loaded_by(program)
    return loaded_by(program)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sqlalchemy.orm", id="SQLAlchemy's ORM, which nothing uses"),
        pytest.param("alembic", id="migrations, at a start with nothing to migrate"),
        pytest.param("asyncpg", id="PostgreSQL's driver, on SQLite"),
        pytest.param("identity_server.api.openapi", id="what writes the API's document"),
        pytest.param("identity_server.demo", id="the demo"),
        pytest.param("identity_server.doctor", id="the doctor"),
        pytest.param("sentry_sdk", id="reports to Sentry, without a DSN"),
        pytest.param("opentelemetry", id="traces, without a collector"),
        pytest.param("identity_server.sydent", id="the import from Sydent"),
        pytest.param("rich", id="colours for terminals"),
        pytest.param("pygments", id="what rich would bring along"),
        pytest.param("markdown_it", id="Markdown, without policies written in it"),
        pytest.param("phonenumbers.geodata", id="where in the world phone numbers are"),
        pytest.param("cryptography.x509", id="certificates, which Python's own TLS reads"),
        pytest.param("numpy.ma", id="numpy's masked arrays"),
        pytest.param("numpy.random", id="numpy's random numbers"),
        pytest.param("numpy.fft", id="numpy's transforms"),
        pytest.param("numpy.polynomial", id="numpy's polynomials"),
        pytest.param("numpy.testing", id="numpy's own tests"),
        pytest.param("unittest", id="tests"),
    ],
)
def test_a_worker_does_without(name: str, worker: set[str]) -> None:
    assert "identity_server.server.worker" in worker
    assert not those_of(name, worker)


_NOT_TO_SUPERVISE = (
    *("aiohttp", "aiosmtplib", "aiosqlite", "argon2", "babel", "cryptography", "dns", "jinja2", "numpy"),
    *("phonenumbers", "prometheus_client", "pydantic", "rich", "sqlalchemy", "uvloop", "yaml"),
    *(f"identity_server.{part}" for part in ("api", "app", "index", "outbound", "rendering", "services", "storage")),
)


@pytest.mark.parametrize("name", _NOT_TO_SUPERVISE)
def test_the_parent_does_without(name: str, parent: set[str]) -> None:
    assert "identity_server.server.parent" in parent
    assert not those_of(name, parent)


def test_asking_whether_it_is_well_does_without() -> None:
    loaded = loaded_by(_HEALTH)
    assert not [name for name in _NOT_TO_SUPERVISE if those_of(name, loaded)]
