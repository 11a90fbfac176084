"""Someone is invited by an address that nobody has proved yet, and the room waits for them."""

from __future__ import annotations

import re

import pytest

from tests.e2e.conftest import Newcomer
from tests.e2e.gate import ON_BIND, Gate
from tests.e2e.identity import IdentityServer
from tests.e2e.mailbox import Mailbox
from tests.e2e.people import Person
from tests.e2e.signatures import assert_signed_by_an_announced_key
from tests.e2e.web import Web

pytestmark = pytest.mark.e2e

_VALIDITY_CHECK = "/v2/pubkey/isvalid "


def test_an_invite_waits_for_the_address_and_then_finds_its_owner(
    newcomer: Newcomer, mailbox: Mailbox, gate: Gate, identity_server: IdentityServer, web: Web
) -> None:
    alice, bob = _people(newcomer, "alice", "bob")
    room = alice.create_room("The Lighthouse")
    # Typed with capitals, as people do; Synapse hands the address on as it is.
    alice.invite_by_email(room, "Bob.Sextant@Example.org")
    letter = mailbox.take("bob.sextant@example.org")
    assert "The Lighthouse" in letter.as_string()
    assert alice.user_id in letter.as_string()
    assert bob.invites() == {}
    log_before = len(identity_server.program.log.read_text())

    bob.prove_and_bind("bob.sextant@example.org", mailbox)

    (notice,) = gate.wait_for_visits(ON_BIND, of=bob.user_id, count=1)
    assert notice.status == 200
    assert list(bob.invites()) == [room]
    _assert_checked_back_meanwhile(identity_server, since=log_before)
    assert_signed_by_an_announced_key(alice, bob, room, identity_server_url=identity_server.url, web=web)
    bob.join(room)
    assert alice.members_of(room) == {alice.user_id, bob.user_id}


def test_all_rooms_that_wait_are_told_of_at_once(newcomer: Newcomer, mailbox: Mailbox, gate: Gate) -> None:
    carol, dave, erin = _people(newcomer, "carol", "dave", "erin")
    rooms = {
        host.create_room(f"Room of {host.user_id}", invites=["erin.gallery@example.org"]) for host in (carol, dave)
    }
    for _ in rooms:
        mailbox.take("erin.gallery@example.org")

    erin.prove_and_bind("erin.gallery@example.org", mailbox)

    (notice,) = gate.wait_for_visits(ON_BIND, of=erin.user_id, count=1)
    assert {invite["room_id"] for invite in notice.json()["invites"]} == rooms
    assert set(erin.invites()) == rooms
    # Whoever is bound is invited directly, and needs no mail.
    third = dave.create_room("Another one", invites=["erin.gallery@example.org"])
    assert set(erin.invites()) == {*rooms, third}
    assert not any("invited" in subject for subject in mailbox.subjects("erin.gallery@example.org"))


def test_who_hides_is_invited_all_the_same(
    newcomer: Newcomer, mailbox: Mailbox, gate: Gate, identity_server: IdentityServer
) -> None:
    nina, otto = _people(newcomer, "nina", "otto")
    otto.prove_and_bind("otto.buoy@example.org", mailbox)
    gate.wait_for_visits(ON_BIND, of=otto.user_id, count=1)
    otto.hide("otto.buoy@example.org", visibility="nobody")
    assert nina.look_up("otto.buoy@example.org") == {}
    assert otto.look_up("otto.buoy@example.org") == {"otto.buoy@example.org": otto.user_id}

    room = nina.create_room("The Bay")
    nina.invite_by_email(room, "otto.buoy@example.org")
    assert "The Bay" in mailbox.take("otto.buoy@example.org").as_string()
    _retry(identity_server)

    *_, notice = gate.wait_for_visits(ON_BIND, of=otto.user_id, count=2)
    assert notice.status == 200
    assert list(otto.invites()) == [room]
    otto.join(room)
    assert nina.members_of(room) == {nina.user_id, otto.user_id}


def test_a_homeserver_that_is_down_is_told_later_and_only_once(
    newcomer: Newcomer, mailbox: Mailbox, gate: Gate, identity_server: IdentityServer
) -> None:
    frank, grace = _people(newcomer, "frank", "grace")
    room = frank.create_room("The Harbour", invites=["grace.tiller@example.org"])
    mailbox.take("grace.tiller@example.org")
    gate.fail(ON_BIND, times=2)

    grace.prove_and_bind("grace.tiller@example.org", mailbox)
    for tries in (1, 2):
        gate.wait_for_visits(ON_BIND, of=grace.user_id, count=tries)
        assert grace.invites() == {}
        _retry(identity_server)
    gate.wait_for_visits(ON_BIND, of=grace.user_id, count=3)

    assert list(grace.invites()) == [room]
    _wait_until_nothing_waits(identity_server)
    assert [visit.status for visit in gate.visits(ON_BIND, of=grace.user_id)] == [503, 503, 200]


def test_a_killed_server_tells_the_homeserver_when_it_is_back(
    newcomer: Newcomer, mailbox: Mailbox, gate: Gate, identity_server: IdentityServer
) -> None:
    heidi, ivan = _people(newcomer, "heidi", "ivan")
    room = heidi.create_room("The Quay", invites=["ivan.anchor@example.org"])
    mailbox.take("ivan.anchor@example.org")
    gate.hold(ON_BIND)

    ivan.prove_and_bind("ivan.anchor@example.org", mailbox)
    gate.wait_for_held(ON_BIND)
    identity_server.program.kill()
    gate.release()
    try:
        assert identity_server.run("jobs", "retry", "--claimed") == "Due now: 1 job.\n"
    finally:
        identity_server.start()

    gate.wait_for_visits(ON_BIND, of=ivan.user_id, count=2)
    assert list(ivan.invites()) == [room]
    assert heidi.look_up("ivan.anchor@example.org") == {"ivan.anchor@example.org": ivan.user_id}
    _wait_until_nothing_waits(identity_server)
    assert [visit.status for visit in gate.visits(ON_BIND, of=ivan.user_id)] == [0, 200]


def test_the_mailed_link_lets_in_whoever_has_another_address(newcomer: Newcomer, mailbox: Mailbox) -> None:
    """Element joins by the link alone: its key signs, and nothing is bound."""
    judy, ken = _people(newcomer, "judy", "ken")
    room = judy.create_room("The Workshop", invites=["ken.at.work@example.org"])
    link = ken.open_invite(mailbox.take("ken.at.work@example.org"))
    assert (link.web_client, link.room_id, link.email) == ("https://app.element.io", room, "ken.at.work@example.org")
    assert link.shown == {"room_name": "The Workshop", "inviter_name": judy.user_id.split(":")[0][1:]}

    ken.join(room, sign_url=link.sign_url)

    assert judy.members_of(room) == {judy.user_id, ken.user_id}
    assert judy.look_up("ken.at.work@example.org") == {}


def test_an_invite_to_a_space_says_so(newcomer: Newcomer, mailbox: Mailbox, gate: Gate) -> None:
    leo, mia = _people(newcomer, "leo", "mia")
    space = leo.create_room("The Archipelago", is_space=True, invites=["mia.chart@example.org"])
    letter = mailbox.take("mia.chart@example.org")
    assert letter["Subject"].endswith("has invited you to a space on Matrix")
    for kind in ("plain", "html"):
        part = letter.get_body(preferencelist=(kind,))
        assert part is not None
        assert "has invited you to a space on Matrix" in " ".join(part.get_content().split())
    assert mia.open_invite(letter).shown["room_type"] == "m.space"

    mia.prove_and_bind("mia.chart@example.org", mailbox)
    gate.wait_for_visits(ON_BIND, of=mia.user_id, count=1)
    mia.join(space)

    assert leo.members_of(space) == {leo.user_id, mia.user_id}


def _people(newcomer: Newcomer, *names: str) -> list[Person]:
    people = [newcomer(name) for name in names]
    for person in people:
        person.join_identity_server()
    return people


def _assert_checked_back_meanwhile(identity_server: IdentityServer, *, since: int) -> None:
    """The homeserver asks whether the key is still valid before it answers, so the server mustn't wait for it then."""
    program = identity_server.program

    def lines() -> list[str]:
        return program.log.read_text()[since:].splitlines()

    def told() -> list[int]:
        return [
            number for number, line in enumerate(lines()) if re.search(r"job\.done.* kind=['\"]?bind-notice", line)
        ]

    program.wait_until(lambda: bool(told()))
    asked = [number for number, line in enumerate(lines()) if _VALIDITY_CHECK in f"{line} "]
    assert asked, "nobody asked whether the key is valid"
    assert asked[0] < told()[0]


def _retry(identity_server: IdentityServer) -> None:
    """What an operator does when the homeserver is back; it may take a moment until the last try is given up."""
    identity_server.program.wait_until(lambda: "Due now: 1 job." in identity_server.run("jobs", "retry"))


def _wait_until_nothing_waits(identity_server: IdentityServer) -> None:
    identity_server.program.wait_until(lambda: "Nothing waits." in identity_server.run("jobs", "list"))
