"""What all tests share."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, settings

from identity_server.storage.database import Database
from tests.support import canaries, postgresql
from tests.support.databases import (
    POSTGRESQL_FOLDER,
    compile_statements_once,
    make_template,
    on_postgresql,
    open_database,
)
from tests.support.harness import Harness, User, running
from tests.support.logs import logging_as_before

_OBJECTS_BETWEEN_COLLECTIONS = 10_000
_QUICK_EXAMPLES = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="the engine that every test's database is on",
    )
    parser.addoption(
        "--fire",
        choices=("quick", "full"),
        default="quick",
        help="how often tests/fire breaks things: a few times, or as often as docs/reliability.md promises",
    )
    parser.addoption(
        "--fire-share", type=float, default=1, help="with --fire full: what part of those rounds, 0.2 for a fifth"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hear what is logged, compile statements once, have properties wait, and start the PostgreSQL server of this run; its workers know it by a variable that they inherit."""
    canaries.listen()
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    compile_statements_once(patch)
    # That a busy machine is slow is no failure of a property.
    settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    # What `make fast` asks for; `make thorough` tries the same properties with all examples.
    settings.register_profile("quick", settings.get_profile("patient"), max_examples=_QUICK_EXAMPLES)
    settings.load_profile("patient")
    if config.getoption("--engine") == "postgresql" and not hasattr(config, "workerinput"):
        server = postgresql.PostgresqlServer()
        config.add_cleanup(server.remove)
        os.environ[POSTGRESQL_FOLDER] = str(server.folder)
        config.add_cleanup(_forget_server)
        asyncio.run(make_template())


def _forget_server() -> None:
    del os.environ[POSTGRESQL_FOLDER]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Look for garbage seldom, and never in what is loaded with the tests: it would take a quarter of their time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
        gc.enable()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what is about the other engine; forget what earlier tests have logged."""
    canaries.EAR.heard.clear()
    other = item.get_closest_marker("sqlite" if on_postgresql() else "postgresql")
    if other is not None:
        pytest.skip(f"about the other engine: {other.kwargs['reason']}")


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Every command sets its process up: after it, nobody would hear what is logged, or read what other tests write."""
    umask = os.umask(0o077)
    os.umask(umask)
    with logging_as_before():
        yield
    os.umask(umask)


@pytest.fixture(autouse=True)
def light_argon2() -> Iterator[pytest.MonkeyPatch]:
    """What must be slow for whoever guesses would take most of every test with a code or a passphrase.

    A test that is about that says `light_argon2.undo()` first. Not by the tests' own `monkeypatch`, which would then be
    undone after all their fixtures.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("identity_server.storage.sealing.key_ring._PASSPHRASE_MEMORY_KIB", 64)
        patch.setattr("identity_server.domain.credentials._MEMORY_KIB", 64)
        yield patch


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A database without a server."""
    async with open_database(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """An authority that vouches for whoever is on loopback."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its certificate."""
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="session")
def _authority_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("system") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(path)
    return path


@pytest.fixture
def short_list_of_authorities(_authority_of_nobody: Path) -> Iterator[None]:
    """To read the system's authorities takes longer than the rest of most tests, and none of them is met in any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(_authority_of_nobody))
        yield


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Harness]:
    """A running server without terms."""
    async with running(tmp_path) as harness:
        yield harness


@pytest.fixture
async def alice(server: Harness) -> User:
    """A user with an account."""
    return await server.register("@alice:example.org")


@pytest.fixture
async def bob(server: Harness) -> User:
    """Another one, on another homeserver."""
    return await server.register("@bob:elsewhere.example")
