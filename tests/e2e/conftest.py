"""The surroundings of the stories: started once for all of them, and ended whatever happens.

The one rule: everything listens on loopback and trusts one certificate authority, made for the run.
"""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.e2e import synapse as synapse_program
from tests.e2e.certificates import Authority
from tests.e2e.gate import Gate
from tests.e2e.identity import IdentityServer, Place, plain_conf
from tests.e2e.mailbox import Mailbox
from tests.e2e.people import Person
from tests.e2e.processes import Program, reserve_port
from tests.e2e.sdk import Sdk
from tests.e2e.synapse import Synapse
from tests.e2e.web import Web
from tests.support.leaks import Ledger

_HERE = Path(__file__).parent
_programs = pytest.StashKey[list[Program]]()


class Newcomer(Protocol):
    """Makes a person with a fresh account on the homeserver."""

    def __call__(self, name: str, *, identity_server_url: str = ...) -> Person: ...


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_programs] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show how the programs' logs end, beside a failure."""
    report = yield
    if report.failed:
        # The likeliest culprit last, where the eye falls.
        report.sections += [(f"log of {program.name}", program.tail()) for program in item.config.stash[_programs]]
    return report


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> Iterator[list[Program]]:
    """The programs whose logs a failure shows; none of them outlives the run."""
    needed = [synapse_program.PYTHON, _HERE / "node_modules" / "matrix-js-sdk"]
    if not (all(path.exists() for path in needed) and shutil.which("node")):
        pytest.fail("the end-to-end tests need Node and what tests/install-needs installs (`make test` runs it)")
    started = request.config.stash[_programs]
    # A run that is told to end (a CI's time limit) tears down as after Ctrl-C, instead of leaving its programs behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    yield started
    signal.signal(signal.SIGTERM, before)
    for program in started:
        program.kill()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for everything of the run."""
    return tmp_path_factory.mktemp("e2e")


@pytest.fixture(scope="session")
def authority(home: Path) -> Authority:
    """Who vouches for every certificate of the run."""
    return Authority(home)


@pytest.fixture(scope="session")
def web(authority: Authority) -> Web:
    return Web(ca=authority.context)


@pytest.fixture(scope="session")
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    box.open()
    yield box
    box.close()


@pytest.fixture(scope="session")
def homeserver_gate(authority: Authority) -> Iterator[Gate]:
    """What Synapse's name leads other servers to. Use `gate` to change what it does."""
    made = Gate(certificate=authority.localhost, ca=authority.context)
    made.open()
    yield made
    made.close()


@pytest.fixture
def gate(homeserver_gate: Gate) -> Iterator[Gate]:
    """The gate in front of Synapse, which lets everything through again when the test is over."""
    yield homeserver_gate
    homeserver_gate.release()


@pytest.fixture(scope="session")
def texting_place(home: Path) -> Place:
    """Where an identity server will be that sends text messages; Synapse has to know before it is there."""
    return Place(folder=home / "texting", listener=f"https://localhost:{reserve_port()}")


@pytest.fixture(scope="session")
def booting_synapse(
    home: Path,
    authority: Authority,
    web: Web,
    programs: list[Program],
    homeserver_gate: Gate,
    texting_place: Place,
) -> Synapse:
    """Synapse, started but maybe not ready: it takes the longest, so others start meanwhile."""
    made = Synapse(
        home / "synapse",
        # With a port, so that it is neither looked for by .well-known nor by DNS.
        name=f"localhost:{homeserver_gate.port}",
        authority=authority,
        web=web,
        sms_by=texting_place.listener,
    )
    homeserver_gate.behind = ("localhost", made.port)
    programs.append(made.program)
    made.start()
    return made


@pytest.fixture(scope="session")
def identity_server(
    home: Path,
    authority: Authority,
    web: Web,
    mailbox: Mailbox,
    programs: list[Program],
    servers: list[IdentityServer],
    booting_synapse: Synapse,  # only so that it is under way by now
) -> IdentityServer:
    """The identity server that most stories use: TLS of its own, and the terms that the repository ships."""
    place = Place(folder=home / "identity", listener=f"https://localhost:{reserve_port()}")
    server = IdentityServer(place, plain_conf(place, authority=authority, smtp_port=mailbox.port), web=web)
    programs.append(server.program)
    servers.append(server)
    server.start()
    return server


@pytest.fixture(scope="session")
def synapse(booting_synapse: Synapse) -> Synapse:
    booting_synapse.wait_until_ready()
    return booting_synapse


@pytest.fixture(scope="session")
def sdk(home: Path, authority: Authority, programs: list[Program]) -> Iterator[Sdk]:
    made = Sdk(ca_file=authority.file, log=home / "sdk.log")
    yield made
    made.close()


@pytest.fixture(scope="session")
def ledger() -> Ledger:
    """Every secret that any story has used."""
    return Ledger()


@pytest.fixture(scope="session")
def servers(ledger: Ledger) -> Iterator[list[IdentityServer]]:
    """Identity servers in which, when all stories are over, none of these secrets can be found."""
    used: list[IdentityServer] = []
    yield used
    assert [leaks for server in used if (leaks := server.leaks(ledger))] == []


@pytest.fixture(scope="session")
def newcomer(identity_server: IdentityServer, synapse: Synapse, sdk: Sdk, web: Web, ledger: Ledger) -> Newcomer:
    """People for the stories; each gets a name that nobody has had."""
    numbers = itertools.count(1)

    def make(name: str, *, identity_server_url: str = identity_server.url) -> Person:
        return Person(
            f"{name}{next(numbers)}",
            homeserver=synapse.url,
            identity_server=identity_server_url,
            sdk=sdk,
            web=web,
            ledger=ledger,
        )

    return make
