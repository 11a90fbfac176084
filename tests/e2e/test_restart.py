"""A restart in the middle of everything changes nothing for anyone."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Newcomer
from tests.e2e.identity import IdentityServer
from tests.e2e.mailbox import Mailbox
from tests.e2e.web import Web

pytestmark = pytest.mark.e2e


def test_people_go_on_after_a_restart_as_if_nothing_had_happened(
    newcomer: Newcomer, mailbox: Mailbox, identity_server: IdentityServer
) -> None:
    bound, proven, asked = (newcomer(name) for name in ("bound", "proven", "asked"))
    for person in (bound, proven, asked):
        person.join_identity_server()
    bound.prove_and_bind("bound.before@example.org", mailbox)
    proof = proven.ask_for_mail("proven.before@example.org")
    proven.confirm(mailbox.take("proven.before@example.org"))
    request = asked.ask_for_mail("asked.before@example.org")
    letter = mailbox.take("asked.before@example.org")
    pepper = bound.pepper()

    identity_server.restart()

    # whoami needs the token and the acceptance of the terms; both are from before.
    assert [person.who_am_i() for person in (bound, proven, asked)] == [bound.user_id, proven.user_id, asked.user_id]
    assert bound.pepper() == pepper
    # A session that was validated binds; one that wasn't is still waiting for its link.
    proven.bind(proof)
    asked.confirm(letter)
    asked.bind(request)
    assert asked.look_up("bound.before@example.org", "proven.before@example.org", "asked.before@example.org") == {
        "bound.before@example.org": bound.user_id,
        "proven.before@example.org": proven.user_id,
        "asked.before@example.org": asked.user_id,
    }
    for address in ("bound.before@example.org", "proven.before@example.org", "asked.before@example.org"):
        assert mailbox.subjects(address) == [], "the restart mailed something again"


def test_the_keys_outlive_a_restart(identity_server: IdentityServer, web: Web) -> None:
    def keys() -> tuple[object, dict[str, bytes]]:
        published = web.get(f"{identity_server.url}/_matrix/identity/v2/pubkey/ed25519:0").json()["public_key"]
        return published, {path.name: path.read_bytes() for path in identity_server.place.keys.iterdir()}

    before = keys()
    assert before[1], "there is no key file where crypto.key_dir says"

    identity_server.restart()

    assert keys() == before
