"""An operator of Sydent points this server at the conf that they have, and it serves as that says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import signedjson.key
import signedjson.sign

from tests.e2e.conftest import Newcomer
from tests.e2e.identity import IdentityServer, Place
from tests.e2e.mailbox import Mailbox, link_in
from tests.e2e.people import Person
from tests.e2e.processes import Program, reserve_port
from tests.e2e.sdk import SdkError
from tests.e2e.web import Web

pytestmark = pytest.mark.e2e

_SERVER_NAME = "identity.example.org"
# From the seed of the specification's own examples (appendices, "Cryptographic Test Vectors").
_SIGNING_KEY = "ed25519 0 YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"

_TERMS = """
master_version: "master_1_0"
docs:
  terms_of_service:
    version: "2.0"
    langs:
      en: {name: "Terms of Service", url: "https://example.org/terms-2.0-en.html"}
      fr: {name: "Conditions d'utilisation", url: "https://example.org/terms-2.0-fr.html"}
  privacy_policy:
    version: "1.2"
    langs:
      en: {name: "Privacy Policy", url: "https://example.org/privacy-1.2-en.html"}
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """The lines of the conf that the tests change."""

    verify_certificates: bool = False
    whitelist: str = "127.0.0.0/8,::1/128"


Install = Callable[[Settings], IdentityServer]


@pytest.fixture(scope="module")
def install(tmp_path_factory: pytest.TempPathFactory, mailbox: Mailbox, web: Web, programs: list[Program]) -> Install:
    """Starts the server in a fresh folder that holds an old installation's conf and terms."""

    def start(settings: Settings) -> IdentityServer:
        port = reserve_port()
        place = Place(folder=tmp_path_factory.mktemp("sydent"), listener=f"http://127.0.0.1:{port}")
        (place.folder / "terms.yaml").write_text(_TERMS)
        server = IdentityServer(place, _old_conf(place, port, settings, smtp_port=mailbox.port), web=web)
        programs.append(server.program)
        server.start()
        return server

    return start


@pytest.fixture(scope="module")
def old_install(install: Install) -> IdentityServer:
    return install(Settings())


@pytest.fixture
def user(newcomer: Newcomer, old_install: IdentityServer) -> Person:
    """Somebody who uses the old installation, and has agreed to its terms."""
    person = newcomer("olduser", identity_server_url=old_install.url)
    person.join_identity_server()
    return person


def test_its_terms_ask_for_every_document_in_any_language(newcomer: Newcomer, old_install: IdentityServer) -> None:
    person = newcomer("reader", identity_server_url=old_install.url)
    person.register()

    person.accept(["https://example.org/terms-2.0-fr.html"])
    with pytest.raises(SdkError) as refusal:
        person.who_am_i()
    assert (refusal.value.status, refusal.value.errcode) == (403, "M_TERMS_NOT_SIGNED")

    person.accept(["https://example.org/privacy-1.2-en.html"])
    assert person.who_am_i() == person.user_id


def test_its_mail_goes_through_its_relay_with_its_sender_and_links(
    user: Person, old_install: IdentityServer, mailbox: Mailbox
) -> None:
    proof = user.ask_for_mail("karl.windmill@example.org")
    letter = mailbox.take("karl.windmill@example.org")

    assert letter["From"] == "Old Identity Server <validation@example.org>"
    assert link_in(letter).startswith(f"{_public_url(old_install.place)}/")
    user.confirm(letter)
    user.bind_directly(proof)
    assert user.look_up("karl.windmill@example.org") == {"karl.windmill@example.org": user.user_id}


def test_its_key_signs_bindings(user: Person, old_install: IdentityServer, mailbox: Mailbox, web: Web) -> None:
    key = signedjson.key.get_verify_key(signedjson.key.read_signing_keys([_SIGNING_KEY])[0])
    proof = user.ask_for_mail("lena.barometer@example.org")
    user.confirm(mailbox.take("lena.barometer@example.org"))

    association = user.bind_directly(proof)

    signedjson.sign.verify_signed_json(association, _SERVER_NAME, key)
    assert (association["medium"], association["address"]) == ("email", "lena.barometer@example.org")
    assert association["mxid"] == user.user_id
    published = web.get(f"{old_install.url}/_matrix/identity/v2/pubkey/ed25519:0").json()["public_key"]
    assert published == signedjson.key.encode_verify_key_base64(key)


def test_its_conf_is_left_as_it_is(old_install: IdentityServer, mailbox: Mailbox) -> None:
    """Sydent rewrites the file at its first start; this server promises never to."""
    place, port = old_install.place, int(old_install.url.rpartition(":")[2])
    assert place.conf.read_text() == _old_conf(place, port, Settings(), smtp_port=mailbox.port)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        # Synapse's certificate is vouched for by an authority that nobody told the server of.
        pytest.param(
            replace(Settings(), verify_certificates=True),
            "the certificate was not accepted",
            id="federation.verifycerts",
        ),
        # Synapse is on loopback, which is refused unless listed.
        pytest.param(
            replace(Settings(), whitelist=""), "it has no address that this server connects to", id="ip.whitelist"
        ),
    ],
)
def test_its_settings_decide_which_homeservers_are_trusted(
    newcomer: Newcomer, install: Install, settings: Settings, reason: str
) -> None:
    """The other tests show that registration works with the settings as they are there."""
    person = newcomer("stranger", identity_server_url=install(settings).url)

    with pytest.raises(SdkError) as refusal:
        person.register()

    assert (refusal.value.status, refusal.value.errcode) == (503, "M_UNKNOWN")
    assert reason in str(refusal.value)


def _public_url(place: Place) -> str:
    """Where people reach the server: neither its name nor the address that it is bound to."""
    return place.listener.replace("127.0.0.1", "localhost")


def _old_conf(place: Place, port: int, settings: Settings, *, smtp_port: int) -> str:
    """A conf as Sydent's operators have it: its own section and key names, keys of features that are off, `%%`."""
    return f"""
[DEFAULT]
# What Sydent writes here by itself at its first start, in part.
replication.https.certfile =
replication.https.cacert =
replication.https.bind_address = ::
replication.https.port = 4434
obey_x_forwarded_for = False
address_lookup_limit = 10000
email.subject = Your Validation Token

[general]
server.name = {_SERVER_NAME}
log.path =
log.level = INFO
pidfile.path = {place.folder}/sydent.pid
terms.path = {place.folder}/terms.yaml
ip.whitelist = {settings.whitelist}
delete_tokens_on_bind = true

[db]
db.file = {place.database}

[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {port}
internalapi.http.bind_address = ::1
internalapi.http.port =
client_http_base = {_public_url(place)}
federation.verifycerts = {settings.verify_certificates}

[email]
email.from = Old Identity Server <validation@example.org>
email.invite.subject = %(sender_display_name)s has invited you to chat
email.smtphost = 127.0.0.1
email.smtpport = {smtp_port}
email.smtpusername =
email.smtppassword =
email.tlsmode = 0
email.default_web_client_location = https://app.element.io

[sms]
bodytemplate = Your code is {{token}}
username =
password =

[crypto]
ed25519.signingkey = {_SIGNING_KEY}
"""
