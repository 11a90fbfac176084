"""A Sydent is moved while people are in the middle of things, and none of them notices.

The first half of every story happens at the real Sydent, the second one here: same URL, same conf, same tokens.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from functools import partial
from typing import Any

import pytest

from tests.e2e.certificates import Authority
from tests.e2e.gate import ON_BIND, Gate
from tests.e2e.mailbox import Mailbox, link_in
from tests.e2e.old_installation import (
    INVITE_GREETING,
    MAIL_SUBJECT,
    PAGE_HEADING,
    TERMS_URLS,
    OldInstallation,
)
from tests.e2e.people import InviteLink, Person, Proof
from tests.e2e.processes import Program
from tests.e2e.sdk import Sdk, SdkError
from tests.e2e.signatures import assert_signed_by_an_announced_key, published_key, verifies
from tests.e2e.synapse import Synapse
from tests.e2e.web import Web
from tests.support.leaks import Ledger

pytestmark = pytest.mark.e2e

_NEXT_LINK = "https://app.example.org/settings?tab=discovery"
_ROOM = "The Lock Keeper's House"

Arrive = Callable[[str], Person]


@dataclass(frozen=True, slots=True)
class Proxy:
    """What people and homeservers know: it stays where it is, whoever is behind it.

    Attributes:
        gate: the proxy.
        url: where everybody finds the identity server.
    """

    gate: Gate
    url: str

    @property
    def name(self) -> str:
        return self.url.removeprefix("https://")


@dataclass(frozen=True, slots=True)
class HalfDone:
    """What people hold in their hands when Sydent stops.

    Attributes:
        people: by name.
        carlas_request, carlas_letter: she has asked for a mail, and it is there.
        darios_proof: he has followed the link, and no more.
        otis_request: his mail is lost.
        pias_proof: what she bound her address with.
        emilias_association: what Sydent signed for her.
        room: Alba's, to which she has invited three addresses.
        gretas_letter, hugos_link: two of the invites.
        pepper: what an app has read, and not used yet.
    """

    people: dict[str, Person]
    carlas_request: Proof
    carlas_letter: EmailMessage
    darios_proof: Proof
    otis_request: Proof
    pias_proof: Proof
    emilias_association: dict[str, Any]
    room: str
    gretas_letter: EmailMessage
    hugos_link: InviteLink
    pepper: str

    def __getitem__(self, name: str) -> Person:
        return self.people[name]


@pytest.fixture(scope="module")
def proxy(authority: Authority) -> Iterator[Proxy]:
    # Sydent speaks no TLS, and neither does whoever takes its place with its conf.
    gate = Gate(certificate=authority.localhost, ca=None)
    gate.open()
    yield Proxy(gate, f"https://localhost:{gate.port}")
    gate.close()


@pytest.fixture(scope="module")
def arrive(synapse: Synapse, proxy: Proxy, sdk: Sdk, web: Web, ledger: Ledger) -> Arrive:
    """Makes somebody whose identity server is the one behind the proxy."""
    return partial(Person, homeserver=synapse.url, identity_server=proxy.url, sdk=sdk, web=web, ledger=ledger)


@pytest.fixture(scope="module")
def moved(
    tmp_path_factory: pytest.TempPathFactory,
    programs: list[Program],
    proxy: Proxy,
    arrive: Arrive,
    homeserver_gate: Gate,
    mailbox: Mailbox,
    web: Web,
) -> Iterator[HalfDone]:
    old = OldInstallation(tmp_path_factory.mktemp("old"), name=proxy.name, smtp_port=mailbox.port)
    programs.append(old.sydent.program)
    proxy.gate.behind = ("127.0.0.1", old.port)
    try:
        old.sydent.start()
        before = _live_at_sydent(arrive, mailbox, homeserver_gate)
        server = old.prepare_move(tmp_path_factory.mktemp("new"), web=web)
        programs.append(server.program)
        server.run("check-config")
        assert "Nothing was written." in server.run("import-sydent", str(old.database), "--dry-run")
        old.stop()
    finally:
        old.sydent.program.kill()
        homeserver_gate.release()
    assert "rows moved." in server.run("import-sydent", str(old.database))
    server.start()
    for person in before.people.values():
        # Every answer has the headers now that the standard wants.
        person.open_app()
    yield before
    server.program.kill()


def _live_at_sydent(arrive: Arrive, mailbox: Mailbox, homeserver_gate: Gate) -> HalfDone:
    """Everybody's first half."""
    names = ("alba", "bruno", "carla", "dario", "emilia", "fiona", "hugo", "ivan", "lotte", "milo", "otis", "pia")
    people = {name: arrive(name) for name in names}
    for person in people.values():
        person.open_app(lenient=True)
        person.register()
    alba, bruno, emilia = people["alba"], people["bruno"], people["emilia"]
    assert all(len(person.token) == 64 for person in people.values()), "these are not Sydent's tokens"
    for name in set(names) - {"lotte"}:
        assert sorted(people[name].terms_urls()) == sorted(TERMS_URLS)
        people[name].accept(list(TERMS_URLS))
    # Lotte has read one of the two documents so far.
    people["lotte"].accept([TERMS_URLS[0]])

    for name in ("alba", "bruno", "fiona"):
        people[name].bind(_prove(people[name], f"{name.capitalize()}.Quayside@Example.org", mailbox))
    assert bruno.look_up("alba.quayside@example.org") == {"alba.quayside@example.org": alba.user_id}
    emilias_association = emilia.bind_directly(_prove(emilia, "emilia.quayside@example.org", mailbox))
    darios_proof = _prove(people["dario"], "dario.quayside@example.org", mailbox)
    carlas_request = people["carla"].ask_for_mail("Carla.Quayside@example.org", next_link=_NEXT_LINK)
    otis_request = people["otis"].ask_for_mail("otis.quayside@example.org")
    mailbox.take("otis.quayside@example.org")
    pias_proof = _prove(people["pia"], "pia.quayside@example.org", mailbox)
    people["pia"].bind(pias_proof)
    people["milo"].log_out()

    room = alba.create_room(_ROOM)
    invited = [f"{name}.towpath@example.org" for name in ("greta", "hugo", "ivan")]
    for address in invited:
        alba.invite_by_email(room, address)
    letters = [mailbox.take(address) for address in invited]
    hugos_link = people["hugo"].open_invite(letters[1])
    _bind_unheard(people["ivan"], invited[2], mailbox, homeserver_gate)
    return HalfDone(
        people=people,
        carlas_request=carlas_request,
        carlas_letter=mailbox.take("Carla.Quayside@example.org"),
        darios_proof=darios_proof,
        otis_request=otis_request,
        pias_proof=pias_proof,
        emilias_association=emilias_association,
        room=room,
        gretas_letter=letters[0],
        hugos_link=hugos_link,
        pepper=bruno.pepper(),
    )


def _prove(person: Person, address: str, mailbox: Mailbox) -> Proof:
    """Prove an address by a mail of Sydent's kind."""
    proof = person.ask_for_mail(address)
    person.follow_link(mailbox.take(address))
    return proof


def _bind_unheard(person: Person, address: str, mailbox: Mailbox, homeserver_gate: Gate) -> None:
    """Bind an address while its owner's homeserver hears of nothing, until the gate is released."""
    homeserver_gate.fail(ON_BIND, times=1000)
    person.bind(_prove(person, address, mailbox))
    homeserver_gate.wait_for_visits(ON_BIND, of=person.user_id, status=503, count=1)
    assert person.invites() == {}


def test_everybody_goes_on_with_the_token_that_they_have(moved: HalfDone) -> None:
    for name in ("alba", "bruno", "carla", "dario", "emilia", "fiona", "hugo", "ivan", "otis"):
        assert moved[name].who_am_i() == moved[name].user_id
    with pytest.raises(SdkError) as refusal:
        moved["milo"].who_am_i()
    assert (refusal.value.status, refusal.value.errcode) == (401, "M_UNAUTHORIZED")


def test_whoever_had_read_half_of_the_terms_reads_the_other_half(moved: HalfDone) -> None:
    lotte = moved["lotte"]
    with pytest.raises(SdkError) as refusal:
        lotte.who_am_i()
    assert (refusal.value.status, refusal.value.errcode) == (403, "M_TERMS_NOT_SIGNED")

    assert sorted(lotte.terms_urls()) == sorted(TERMS_URLS)
    lotte.accept([TERMS_URLS[1]])

    assert lotte.who_am_i() == lotte.user_id


def test_whoever_was_bound_is_found(moved: HalfDone) -> None:
    bruno = moved["bruno"]
    everybody = {f"{name}.quayside@example.org": moved[name].user_id for name in ("bruno", "emilia")}

    assert bruno.look_up(*everybody, "dario.towpath@example.org") == everybody
    # An app that had read the pepper before the move, and looks up only now.
    hashed = _hash("bruno.quayside@example.org", moved.pepper)
    answer = bruno.look_up_hashes([hashed], pepper=moved.pepper)
    assert (answer.status, answer.json()) == (200, {"mappings": {hashed: bruno.user_id}})


def test_the_mail_that_sydent_sent_proves_the_address(moved: HalfDone) -> None:
    carla, letter = moved["carla"], moved.carlas_letter
    assert letter["Subject"] == MAIL_SUBJECT
    assert "nextLink=" in link_in(letter)

    page = carla.follow_link(letter)
    carla.bind(moved.carlas_request)

    assert f"<h1>{PAGE_HEADING}</h1>" in page.text
    assert carla.look_up("carla.quayside@example.org") == {"carla.quayside@example.org": carla.user_id}


def test_whoever_asks_once_more_gets_another_mail(moved: HalfDone, mailbox: Mailbox) -> None:
    otis = moved["otis"]

    request = otis.ask_for_mail("otis.quayside@example.org", send_attempt=2, again=moved.otis_request)
    otis.follow_link(mailbox.take("otis.quayside@example.org"))
    otis.bind(request)

    assert otis.look_up("otis.quayside@example.org") == {"otis.quayside@example.org": otis.user_id}


def test_a_proof_of_before_is_bound(moved: HalfDone) -> None:
    dario = moved["dario"]

    dario.bind(moved.darios_proof)

    assert moved["bruno"].look_up("dario.quayside@example.org") == {"dario.quayside@example.org": dario.user_id}


def test_an_invite_of_before_finds_the_owner_of_its_address(
    moved: HalfDone, arrive: Arrive, proxy: Proxy, gate: Gate, mailbox: Mailbox, web: Web
) -> None:
    alba, greta = moved["alba"], arrive("greta")
    greta.join_identity_server()
    assert INVITE_GREETING in moved.gretas_letter.as_string()

    proof = greta.ask_for_mail("greta.towpath@example.org")
    letter = mailbox.take("greta.towpath@example.org")
    page = greta.follow_link(letter)
    greta.bind(proof)

    # Mail and page are the operator's, as they were.
    assert (letter["Subject"], letter["From"]) == (MAIL_SUBJECT, "Harbour office <office@example.org>")
    assert f"<h1>{PAGE_HEADING}</h1>" in page.text
    (notice,) = gate.wait_for_visits(ON_BIND, of=greta.user_id, count=1)
    assert notice.status == 200
    assert list(greta.invites()) == [moved.room]
    asked = assert_signed_by_an_announced_key(alba, greta, moved.room, identity_server_url=proxy.url, web=web)
    assert all(url.startswith(f"{proxy.url}/_matrix/identity/api/v1/pubkey/") for url in asked), "Sydent's URLs"
    greta.join(moved.room)
    assert greta.user_id in alba.members_of(moved.room)


def test_the_link_of_an_invite_of_before_lets_in(moved: HalfDone) -> None:
    alba, hugo, link = moved["alba"], moved["hugo"], moved.hugos_link
    assert (link.room_id, link.email) == (moved.room, "hugo.towpath@example.org")

    hugo.join(moved.room, sign_url=link.sign_url)

    assert hugo.user_id in alba.members_of(moved.room)
    assert alba.look_up("hugo.towpath@example.org") == {}


def test_a_new_invite_looks_as_invites_did(moved: HalfDone, mailbox: Mailbox, proxy: Proxy) -> None:
    alba = moved["alba"]

    alba.invite_by_email(moved.room, "nora.towpath@example.org")

    letter, old_letter = mailbox.take("nora.towpath@example.org"), moved.gretas_letter
    assert letter["Subject"] == old_letter["Subject"] == "alba waits for you in the harbour"
    assert letter["From"] == old_letter["From"]
    new, old = (InviteLink.parse(link_in(each)) for each in (letter, old_letter))
    assert (new.web_client, new.room_id, new.shown) == (old.web_client, old.room_id, old.shown)
    assert new.sign_url.partition("?")[0] == old.sign_url.partition("?")[0]
    assert new.sign_url.startswith(f"{proxy.url}/")


def test_an_invite_that_sydent_could_not_deliver_arrives(moved: HalfDone, gate: Gate) -> None:
    """Sydent had noted it as sent, and forgot when it stopped that nobody had heard of it."""
    ivan = moved["ivan"]

    gate.wait_for_visits(ON_BIND, of=ivan.user_id, status=200, count=1)

    assert list(ivan.invites()) == [moved.room]
    ivan.join(moved.room)
    assert ivan.user_id in moved["alba"].members_of(moved.room)


def test_homeservers_take_bindings_of_before_back(moved: HalfDone) -> None:
    alba, bruno, fiona = moved["alba"], moved["bruno"], moved["fiona"]
    gone = ("alba.quayside@example.org", "fiona.quayside@example.org")
    assert bruno.look_up(*gone) == dict(zip(gone, (alba.user_id, fiona.user_id), strict=True))

    assert alba.unbind_by_homeserver("alba.quayside@example.org") == "success"
    assert fiona.deactivate() == "success"

    assert bruno.look_up(*gone) == {}


def test_a_proof_of_before_takes_a_binding_of_before_back(moved: HalfDone) -> None:
    pia, bruno = moved["pia"], moved["bruno"]
    assert bruno.look_up("pia.quayside@example.org") == {"pia.quayside@example.org": pia.user_id}

    answer = pia.unbind_by_session(moved.pias_proof)

    assert (answer.status, answer.json()) == (200, {})
    assert bruno.look_up("pia.quayside@example.org") == {}


def test_what_sydent_signed_is_signed_by_the_key_that_is_published(moved: HalfDone, proxy: Proxy, web: Web) -> None:
    association = moved.emilias_association

    assert verifies(association, proxy.name, published_key(proxy.url, web))
    assert association["mxid"] == moved["emilia"].user_id


def _hash(address: str, pepper: str) -> str:
    digest = hashlib.sha256(f"{address} email {pepper}".encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
