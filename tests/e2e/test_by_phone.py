"""Phone numbers: proved to the homeserver, which has the identity server send the code, and to be found by."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.certificates import Authority
from tests.e2e.conftest import Newcomer
from tests.e2e.identity import IdentityServer, Place, plain_conf
from tests.e2e.mailbox import Mailbox
from tests.e2e.people import Person
from tests.e2e.phones import Phones, code_in
from tests.e2e.processes import Program
from tests.e2e.sdk import SdkError
from tests.e2e.web import Web
from tests.support.leaks import Ledger

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def phones() -> Iterator[Phones]:
    made = Phones()
    made.open()
    yield made
    made.close()


@pytest.fixture(scope="module")
def texting_server(
    texting_place: Place,
    authority: Authority,
    mailbox: Mailbox,
    phones: Phones,
    web: Web,
    programs: list[Program],
    servers: list[IdentityServer],
) -> Iterator[IdentityServer]:
    """An identity server that can send text messages, and answers homeservers on v1, where they ask for that."""
    conf = plain_conf(
        texting_place,
        authority=authority,
        smtp_port=mailbox.port,
        general="enable_v1_access = true",
        sms=f"username = account\npassword = secret\nopenmarket.url = {phones.url}",
    )
    server = IdentityServer(texting_place, conf, web=web)
    programs.append(server.program)
    servers.append(server)
    server.start()
    yield server
    server.program.kill()


@pytest.fixture
def person(newcomer: Newcomer, texting_server: IdentityServer) -> Person:
    made = newcomer("caller", identity_server_url=texting_server.url)
    made.join_identity_server()
    return made


def test_a_homeserver_has_numbers_checked_for_it(person: Person, phones: Phones) -> None:
    """Synapse's `account_threepid_delegates.msisdn`."""
    proof = person.ask_homeserver_for_text("GB", "07700 900123")
    text = phones.take("447700900123")
    # Phones offer the code to whom it is for.
    assert text.endswith(f"\n\n@localhost #{code_in(text)}")
    wrong = "000000" if code_in(text) != "000000" else "111111"
    with pytest.raises(SdkError) as refusal:
        person.submit_to_homeserver(proof, wrong)
    assert refusal.value.status == 400
    assert person.addresses() == []

    person.submit_to_homeserver(proof, code_in(text))
    person.add_to_account(proof)

    assert person.addresses() == [("msisdn", "447700900123")]
    assert person.look_up("447700900123", medium="msisdn") == {}, "it was not meant to be found by it"


def test_someone_is_found_by_a_number(
    person: Person, phones: Phones, texting_server: IdentityServer, ledger: Ledger
) -> None:
    proof = person.ask_for_text("GB", "07700 900456")

    person.submit_code(proof, code_in(phones.take("447700900456")))
    person.bind(proof)

    assert person.look_up("447700900456", medium="msisdn") == {"447700900456": person.user_id}
    kept = texting_server.kept()
    assert all(person.user_id.encode() in kept[place] for place in ("dump", "files"))
    assert texting_server.leaks(ledger) == {}

    assert person.unbind_by_homeserver("447700900456", medium="msisdn") == "success"
    assert person.look_up("447700900456", medium="msisdn") == {}
