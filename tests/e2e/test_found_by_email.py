"""The main story: someone is found by an address that they proved, and only as long as they want."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Newcomer
from tests.e2e.mailbox import Mailbox
from tests.e2e.sdk import SdkError
from tests.e2e.web import Web

pytestmark = pytest.mark.e2e


def test_someone_is_found_by_a_proven_address(newcomer: Newcomer, mailbox: Mailbox) -> None:
    alice, bob = newcomer("alice"), newcomer("bob")
    for person in (alice, bob):
        person.join_identity_server()
    # Typed with capitals, as people do; everything after uses the folded form.
    alice.prove_and_bind("Alice.Wintergarten@Example.org", mailbox)

    found = bob.look_up("alice.wintergarten@example.org", "nobody.here@example.org")

    assert found == {"alice.wintergarten@example.org": alice.user_id}
    assert bob.look_up("ALICE.Wintergarten@example.org") == {"ALICE.Wintergarten@example.org": alice.user_id}


def test_nothing_works_before_the_terms_are_accepted(newcomer: Newcomer, web: Web) -> None:
    carol = newcomer("carol")
    carol.register()
    with pytest.raises(SdkError) as refusal:
        carol.who_am_i()
    assert (refusal.value.status, refusal.value.errcode) == (403, "M_TERMS_NOT_SIGNED")

    urls = carol.terms_urls()
    assert urls, "the shipped terms have no policy"
    for url in urls:
        page = web.get(url)
        assert (page.status, page.headers.get_content_type()) == (200, "text/html")
    carol.accept(urls)

    assert carol.who_am_i() == carol.user_id


def test_opening_the_link_proves_nothing_until_the_button_is_pressed(newcomer: Newcomer, mailbox: Mailbox) -> None:
    dave = newcomer("dave")
    dave.join_identity_server()
    proof = dave.ask_for_mail("dave.ferryman@example.org")
    letter = mailbox.take("dave.ferryman@example.org")

    page = dave.open_link(letter)
    assert dave.user_id in page.text, "the page doesn't say who asked"
    with pytest.raises(SdkError) as refusal:
        dave.bind(proof)
    assert (refusal.value.status, refusal.value.errcode) == (400, "M_SESSION_NOT_VALIDATED")

    assert dave.press_confirm(page).status == 200
    dave.bind(proof)
    assert dave.look_up("dave.ferryman@example.org") == {"dave.ferryman@example.org": dave.user_id}


def test_a_repeated_request_mails_nothing_and_a_new_attempt_does(newcomer: Newcomer, mailbox: Mailbox) -> None:
    erin = newcomer("erin")
    erin.join_identity_server()
    first = erin.ask_for_mail("erin.lamplight@example.org")
    mailbox.take("erin.lamplight@example.org")

    repeated = erin.ask_for_mail("erin.lamplight@example.org", again=first)
    assert repeated == first
    anew = erin.ask_for_mail("erin.lamplight@example.org", send_attempt=2, again=first)
    assert anew == first

    # Mail goes in order, so a letter for the repetition would be the one before this.
    erin.confirm(mailbox.take("erin.lamplight@example.org"))
    assert mailbox.subjects("erin.lamplight@example.org") == []
    erin.bind(first)
    assert erin.look_up("erin.lamplight@example.org") == {"erin.lamplight@example.org": erin.user_id}


def test_logging_out_ends_the_token_and_not_the_binding(newcomer: Newcomer, mailbox: Mailbox) -> None:
    frank, grace = newcomer("frank"), newcomer("grace")
    for person in (frank, grace):
        person.join_identity_server()
    frank.prove_and_bind("frank.orchard@example.org", mailbox)

    frank.log_out()

    with pytest.raises(SdkError) as refusal:
        frank.who_am_i()
    assert (refusal.value.status, refusal.value.errcode) == (401, "M_UNAUTHORIZED")
    assert grace.look_up("frank.orchard@example.org") == {"frank.orchard@example.org": frank.user_id}
    # Element registers anew at each login; the agreement to the terms must have outlived the token.
    frank.register()
    assert frank.who_am_i() == frank.user_id


def test_whoever_proved_the_address_can_take_the_binding_back(newcomer: Newcomer, mailbox: Mailbox) -> None:
    heidi, ivan = newcomer("heidi"), newcomer("ivan")
    for person in (heidi, ivan):
        person.join_identity_server()
    proof = heidi.prove_and_bind("heidi.harbour@example.org", mailbox)
    assert ivan.look_up("heidi.harbour@example.org") == {"heidi.harbour@example.org": heidi.user_id}

    answer = heidi.unbind_by_session(proof)

    assert (answer.status, answer.json()) == (200, {})
    assert ivan.look_up("heidi.harbour@example.org") == {}
