"""Two homeservers whose names say nothing of where they are: one is found by .well-known, one by an SRV record.

The identity server finds both, and they find one another.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import pytest

from tests.e2e.certificates import Authority
from tests.e2e.gate import ON_BIND, Gate
from tests.e2e.identity import IdentityServer, Place, plain_conf
from tests.e2e.mailbox import Mailbox
from tests.e2e.name_server import NameServer
from tests.e2e.people import Person
from tests.e2e.processes import Program, reserve_port
from tests.e2e.sdk import Sdk
from tests.e2e.signatures import assert_signed_by_an_announced_key
from tests.e2e.synapse import Synapse
from tests.e2e.web import Web
from tests.support.leaks import Ledger

pytestmark = pytest.mark.e2e

_DELEGATING = "delegating.test"
_DELEGATE = "matrix.delegating.test"
_SERVED = "served.test"
_SRV_TARGET = "elsewhere.served.test"
_USERINFO = "/_matrix/federation/v1/openid/userinfo"
_KEYS = "/_matrix/key/v2/server"
_WELL_KNOWN = "/.well-known/matrix/server"
_EXCHANGE = "/_matrix/federation/v1/exchange_third_party_invite"
_INVITE = "/_matrix/federation/v2/invite"
# What the identity server calls itself; the homeservers ask one another for the same.
_OURSELVES = "matrix-identity-server"


@dataclass(frozen=True, slots=True)
class Homeserver:
    """A homeserver and what stands before it."""

    synapse: Synapse
    gate: Gate


@dataclass(frozen=True, slots=True)
class Network:
    """Everything that a person of these stories needs.

    Attributes:
        delegating: the homeserver with a .well-known file.
        served: the one with an SRV record.
        website: serves the .well-known file.
    """

    identity_server: IdentityServer
    delegating: Homeserver
    served: Homeserver
    website: Gate


class Newcomer(Protocol):
    """Makes a person with a fresh account on a homeserver, who has joined the identity server."""

    def __call__(self, name: str, homeserver: Homeserver) -> Person: ...


@pytest.fixture(scope="module")
def website(authority: Authority) -> Iterator[tuple[str, Gate]]:
    """A web server on port 443 of a loopback address that nobody else uses, and that address."""
    certificate = authority.issue(_DELEGATING)
    for _ in range(20):
        address = f"127.{random.randint(64, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
        try:
            gate = Gate(certificate=certificate, ca=authority.context, address=(address, 443))
        except PermissionError:
            pytest.fail(
                "A .well-known file is looked for at port 443 and nowhere else, and this user may not listen there. "
                "Run the tests as root, or once `sysctl -w net.ipv4.ip_unprivileged_port_start=443`."
            )
        except OSError as error:
            problem = error
            continue
        gate.open()
        yield address, gate
        gate.close()
        return
    pytest.fail(f"no loopback address has port 443 free: {problem}")


@pytest.fixture(scope="module")
def network(
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
    web: Web,
    mailbox: Mailbox,
    programs: list[Program],
    servers: list[IdentityServer],
    website: tuple[str, Gate],
) -> Iterator[Network]:
    folder = tmp_path_factory.mktemp("network")
    names = NameServer()
    names.open()
    # A certificate is for the name that was delegated to, or for the server's own name where DNS alone led to it.
    delegating = _homeserver(folder, _DELEGATING, certified=_DELEGATE, authority=authority, web=web, names=names)
    served = _homeserver(folder, _SERVED, certified=_SERVED, authority=authority, web=web, names=names)
    address, site = website
    site.files[_WELL_KNOWN] = json.dumps({"m.server": f"{_DELEGATE}:{delegating.gate.port}"}).encode()
    names.add(_DELEGATING, "A", address)
    names.add(_DELEGATE, "A", "127.0.0.1")
    names.add(f"_matrix-fed._tcp.{_SERVED}", "SRV", f"10 5 {served.gate.port} {_SRV_TARGET}.")
    names.add(_SRV_TARGET, "A", "127.0.0.1")
    place = Place(folder=folder / "identity", listener=f"https://localhost:{reserve_port()}")
    conf = plain_conf(place, authority=authority, smtp_port=mailbox.port, nameservers=names.address)
    identity_server = IdentityServer(place, conf, web=web)
    programs += [delegating.synapse.program, served.synapse.program, identity_server.program]
    servers.append(identity_server)
    identity_server.begin()
    for homeserver in (delegating, served):
        homeserver.synapse.start()
    for program in (delegating.synapse, served.synapse, identity_server):
        program.wait_until_ready()
    yield Network(identity_server, delegating, served, site)
    for program in (delegating.synapse, served.synapse, identity_server):
        program.program.kill()
    for homeserver in (delegating, served):
        homeserver.gate.close()
    names.close()


@pytest.fixture(scope="module")
def newcomer(network: Network, sdk: Sdk, web: Web, ledger: Ledger) -> Newcomer:
    """People for the stories, with an account at one of the homeservers and at the identity server."""

    def make(name: str, homeserver: Homeserver) -> Person:
        person = Person(
            name,
            homeserver=homeserver.synapse.url,
            identity_server=network.identity_server.url,
            sdk=sdk,
            web=web,
            ledger=ledger,
        )
        person.join_identity_server()
        return person

    return make


def test_people_of_both_are_found_and_heard(network: Network, newcomer: Newcomer, mailbox: Mailbox) -> None:
    homeservers = (network.delegating, network.served)
    asked = [len(homeserver.gate.visits(_USERINFO)) for homeserver in homeservers]
    amber, bruno = newcomer("amber", network.delegating), newcomer("bruno", network.served)
    assert (amber.user_id, bruno.user_id) == (f"@amber:{_DELEGATING}", f"@bruno:{_SERVED}")

    amber.prove_and_bind("amber.estuary@example.org", mailbox)
    bruno.prove_and_bind("bruno.plateau@example.org", mailbox)

    both = ("amber.estuary@example.org", "bruno.plateau@example.org")
    for person in (amber, bruno):
        assert person.look_up(*both) == dict(zip(both, (amber.user_id, bruno.user_id), strict=True))
    for person, homeserver in zip((amber, bruno), homeservers, strict=True):
        (notice,) = homeserver.gate.wait_for_visits(ON_BIND, of=person.user_id, count=1)
        assert notice.status == 200
    assert [len(homeserver.gate.visits(_USERINFO)) for homeserver in homeservers] == [count + 1 for count in asked]

    # Unbinding is signed by the homeserver, whose keys are asked for where it is.
    for person, address in zip((amber, bruno), both, strict=True):
        assert person.unbind_by_homeserver(address) == "success"
    assert amber.look_up(*both) == {}
    for homeserver in homeservers:
        assert len(homeserver.gate.visits(_KEYS, caller=_OURSELVES)) == 1
    website = network.website.visits(_WELL_KNOWN, caller=_OURSELVES)
    assert len(website) == 1, "the .well-known file was not remembered"


def test_an_invite_reaches_its_owner_on_a_homeserver_that_is_not_in_the_room(
    network: Network, newcomer: Newcomer, mailbox: Mailbox, web: Web
) -> None:
    """The homeserver that is told of the binding passes the invite on to the inviter's, which puts it into the room."""
    celia, dario = newcomer("celia", network.delegating), newcomer("dario", network.served)
    room = celia.create_room("The Ferry", invites=["dario.harbour@example.org"])
    mailbox.take("dario.harbour@example.org")
    assert dario.invites() == {}

    dario.prove_and_bind("dario.harbour@example.org", mailbox)

    (notice,) = network.served.gate.wait_for_visits(ON_BIND, of=dario.user_id, count=1)
    assert notice.status == 200
    assert network.delegating.gate.visits(ON_BIND, of=dario.user_id) == []
    (passed_on,) = network.delegating.gate.visits(f"{_EXCHANGE}/{quote(room, safe='')}", of=dario.user_id)
    assert passed_on.status == 200
    assert_signed_by_an_announced_key(celia, dario, room, identity_server_url=network.identity_server.url, web=web)
    (member,) = [event for event in celia.state_of(room) if event["state_key"] == dario.user_id]
    (invited,) = network.served.gate.visits(f"{_INVITE}/{quote(room, safe='')}/{quote(member['event_id'], safe='')}")
    assert invited.status == 200
    (shown,) = [event for event in dario.invites()[room] if event.get("state_key") == dario.user_id]
    assert shown["content"]["third_party_invite"]["signed"] == member["content"]["third_party_invite"]["signed"]

    dario.join(room)

    for person in (celia, dario):
        assert person.members_of(room) == {celia.user_id, dario.user_id}


def _homeserver(
    folder: Path, name: str, *, certified: str, authority: Authority, web: Web, names: NameServer
) -> Homeserver:
    gate = Gate(certificate=authority.issue(certified), ca=authority.context)
    gate.open()
    synapse = Synapse(folder / name, name=name, authority=authority, web=web, nameserver=names.address)
    gate.behind = ("localhost", synapse.port)
    return Homeserver(synapse, gate)
