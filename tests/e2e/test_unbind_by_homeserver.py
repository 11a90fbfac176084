"""A homeserver takes bindings back for its users, and they can rely on what it tells them."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Newcomer
from tests.e2e.identity import IdentityServer
from tests.e2e.mailbox import Mailbox
from tests.e2e.sdk import SdkError

pytestmark = pytest.mark.e2e


def test_someone_takes_one_address_back(newcomer: Newcomer, mailbox: Mailbox) -> None:
    judy, ken = newcomer("judy"), newcomer("ken")
    for person in (judy, ken):
        person.join_identity_server()
    judy.prove_and_bind("Judy.Boathouse@Example.org", mailbox)
    judy.prove_and_bind("judy.windmill@example.org", mailbox)
    judy.prove_and_bind("judy.granary@example.org", mailbox)

    assert judy.unbind_by_homeserver("judy.boathouse@example.org") == "success"
    assert judy.delete_address("judy.granary@example.org") == "success"

    addresses = ("judy.boathouse@example.org", "judy.windmill@example.org", "judy.granary@example.org")
    assert ken.look_up(*addresses) == {"judy.windmill@example.org": judy.user_id}
    # Once more is no error: an app may not know that it was done.
    assert judy.unbind_by_homeserver("judy.boathouse@example.org") == "success"


def test_whoever_gives_the_account_up_is_not_found_any_more(newcomer: Newcomer, mailbox: Mailbox) -> None:
    leo, mia = newcomer("leo"), newcomer("mia")
    for person in (leo, mia):
        person.join_identity_server()
    for address in ("leo.beacon@example.org", "leo.quarry@example.org", "shared.jetty@example.org"):
        leo.prove_and_bind(address, mailbox)
    # The address has gone to someone else, of which the homeserver wasn't told.
    mia.prove_and_bind("shared.jetty@example.org", mailbox)

    assert leo.deactivate() == "success"

    found = mia.look_up("leo.beacon@example.org", "leo.quarry@example.org", "shared.jetty@example.org")
    assert found == {"shared.jetty@example.org": mia.user_id}


def test_a_request_for_another_server_fails_aloud(
    newcomer: Newcomer, mailbox: Mailbox, identity_server: IdentityServer
) -> None:
    """Deactivation mustn't go through while the address stays: the person would never learn of it."""
    unnamed = identity_server.url.replace("localhost", "127.0.0.1")
    nina, oscar = newcomer("nina", identity_server_url=unnamed), newcomer("oscar")
    for person in (nina, oscar):
        person.join_identity_server()
    nina.prove_and_bind("nina.foundry@example.org", mailbox)

    with pytest.raises(SdkError) as refusal:
        nina.unbind_by_homeserver("nina.foundry@example.org")
    assert refusal.value.status == 500
    with pytest.raises(SdkError) as refusal:
        nina.deactivate()
    assert refusal.value.status == 400

    assert oscar.look_up("nina.foundry@example.org") == {"nina.foundry@example.org": nina.user_id}
