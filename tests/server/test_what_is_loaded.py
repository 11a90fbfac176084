"""What the server has in memory before it does anything: each megabyte of it is there once in every process."""

from __future__ import annotations

import json

import pytest

from tests.support.programs import outcome


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    program = "import json, sys, identity_server.commands.serve; print(json.dumps(list(sys.modules)))"
    return set(json.loads(outcome(program)))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("sqlalchemy.orm", id="SQLAlchemy's ORM, which nothing uses"),
        pytest.param("alembic", id="migrations, at a start with nothing to migrate"),
        pytest.param("asyncpg", id="PostgreSQL's driver, on SQLite"),
        pytest.param("identity_server.api.openapi", id="what writes the API's document"),
        pytest.param("identity_server.demo", id="the demo"),
        pytest.param("sentry_sdk", id="reports to Sentry, without a DSN"),
        pytest.param("opentelemetry", id="traces, without a collector"),
        pytest.param("identity_server.sydent", id="the import from Sydent"),
    ],
)
def test_serving_does_without(name: str, loaded: set[str]) -> None:
    assert "identity_server.server.worker" in loaded
    assert not {each for each in loaded if each == name or each.startswith(f"{name}.")}
