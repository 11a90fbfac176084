"""The launcher for matrix-is-tester gives that suite what it looks for. The suite itself isn't a package that could
be installed here; docs/contributing.md says how to run it."""

from __future__ import annotations

import hashlib
import json
import os
import queue
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.certificates import Authority
from tests.e2e.gate import Gate
from tests.e2e.identity import REPOSITORY
from tests.e2e.mailbox import Listener
from tests.e2e.processes import PATIENCE_SECONDS, reserve_port
from tests.e2e.web import Answer, Web
from tests.is_tester.matrix_is_test.launcher import MatrixIsTestLauncher

V1 = "/_matrix/identity/api/v1"
V2 = "/_matrix/identity/v2"
_USERINFO = "/_matrix/federation/v1/openid/userinfo"


class MailSink:
    """Keeps what is sent byte for byte, as the suite's own does."""

    def __init__(self) -> None:
        self._kept: queue.Queue[bytes] = queue.Queue()
        self._listener = Listener(self, hostname="127.0.0.1", ready_timeout=PATIENCE_SECONDS)
        self._listener.start()
        self.port: int = self._listener.port

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self._kept.put(envelope.content)
        return "250 kept"

    def get(self) -> bytes:
        return self._kept.get(timeout=PATIENCE_SECONDS)

    def is_empty(self) -> bool:
        return self._kept.empty()

    def close(self) -> None:
        self._listener.stop()


class Client:
    """One user of one server, by one version of the API."""

    def __init__(self, web: Web, root: str, *, bearer: str | None = None) -> None:
        self._web = web
        self._root = root
        self._bearer = bearer

    def get(self, path: str) -> Any:
        return self.get_page(path).json()

    def get_page(self, path: str) -> Answer:
        return self._web.get(self._root + path, bearer=self._bearer)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._web.post_json(self._root + path, body, bearer=self._bearer).json()

    def request(self, address: str, secret: str) -> str:
        body = {"client_secret": secret, "email": address, "send_attempt": 1}
        sid: str = self.post("/validate/email/requestToken", body)["sid"]
        return sid

    def bind(self, address: str, secret: str, user_id: str, sink: MailSink) -> Any:
        sid = self.request(address, secret)
        proof = {"sid": sid, "client_secret": secret, "token": token_in(sink)}
        assert self.post("/validate/email/submitToken", proof) == {"success": True}
        return self.post("/3pid/bind", {"sid": sid, "client_secret": secret, "mxid": user_id})


@pytest.fixture(scope="module")
def sink() -> Iterator[MailSink]:
    made = MailSink()
    yield made
    made.close()


@pytest.fixture(scope="module")
def homeserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """Like the suite's: it vouches for one user, with a certificate that nobody trusts."""
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    gate = Gate(certificate=authority.localhost, ca=authority.context)
    gate.files[_USERINFO] = json.dumps({"sub": f"@commonapitests:127.0.0.1:{gate.port}"}).encode()
    gate.open()
    yield gate
    gate.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Web:
    return Web(ca=Authority(tmp_path_factory.mktemp("web")).context)


@pytest.fixture(scope="module")
def server(sink: MailSink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MatrixIsTestLauncher]:
    launcher = MatrixIsTestLauncher(False, port=reserve_port(), mail_port=sink.port)
    with pytest.MonkeyPatch.context() as trial:
        # It works in a folder of its own, and the interpreter is named as seen from the repository.
        trial.chdir(tmp_path_factory.mktemp("trial"))
        trial.setenv("IDENTITY_SERVER_PYTHON", os.path.relpath(sys.executable, REPOSITORY))
        launcher.launch()
    yield launcher
    launcher.tearDown()


@pytest.fixture
def v1(web: Web, server: MatrixIsTestLauncher) -> Client:
    return Client(web, server.get_base_url() + V1)


@pytest.fixture
def v2(web: Web, server: MatrixIsTestLauncher, homeserver: Gate) -> Client:
    return Client(web, server.get_base_url() + V2, bearer=register(web, server.get_base_url(), homeserver))


@pytest.fixture(params=["v1", "v2"])
def either(request: pytest.FixtureRequest) -> Client:
    client: Client = request.getfixturevalue(request.param)
    return client


def test_the_suite_finds_it_where_it_looks() -> None:
    assert MatrixIsTestLauncher(False).get_base_url() == "http://localhost:8098"
    assert MatrixIsTestLauncher(True).get_base_url() == "http://localhost:8099"
    assert MatrixIsTestLauncher.__module__.endswith("matrix_is_test.launcher")


def test_ping_and_errors(either: Client) -> None:
    assert either.get("") == {}
    body = {"client_secret": "sekrit", "email": "fakeemail1@nowhere.test@elsewhere.test", "send_attempt": 1}
    assert either.post("/validate/email/requestToken", body)["errcode"] == "M_INVALID_EMAIL"


def test_mails_are_bare_and_the_page_is_the_brands(either: Client, sink: MailSink, request: Any) -> None:
    sid = either.request("steve@nowhere.test", "verysekrit")
    token = token_in(sink)

    refused = either.get(f"/3pid/getValidated3pid?sid={sid}&client_secret=verysekrit")
    assert refused["errcode"] == "M_SESSION_NOT_VALIDATED"
    page = either.get_page(f"/validate/email/submitToken?sid={sid}&client_secret=verysekrit&token={token}")
    assert page.body == b"matrix_is_tester:email_submit_get_response\n"
    validated = either.get(f"/3pid/getValidated3pid?sid={sid}&client_secret=verysekrit")
    assert (validated["medium"], validated["address"]) == ("email", "steve@nowhere.test")


def test_a_repeated_request_is_mailed_again(either: Client, sink: MailSink, homeserver: Gate) -> None:
    """Two of the suite's tests ask for the same in the same words, and each waits for a mail."""
    first = either.request("fakeemail5@nowhere.test", "sekrit")
    earlier = token_in(sink)

    assert either.request("fakeemail5@nowhere.test", "sekrit") == first
    assert token_in(sink) != earlier
    body = {"sid": first, "client_secret": "sekrit", "mxid": f"@commonapitests:127.0.0.1:{homeserver.port}"}
    assert either.post("/3pid/bind", body)["errcode"] == "M_SESSION_NOT_VALIDATED"


def test_invites_are_mailed_as_json(either: Client, sink: MailSink, homeserver: Gate, web: Web) -> None:
    shown = {
        "room_alias": "#alias:fake.test",
        "room_avatar_url": "mxc://fake.test/roomavatar",
        "room_name": "my excellent room",
        "sender_display_name": "Ian Sender",
        "sender_avatar_url": "mxc://fake.test/iansavatar",
    }
    sender = f"@commonapitests:127.0.0.1:{homeserver.port}"
    request = {"medium": "email", "address": "ian@fake.test", "room_id": "$aroom:fake.test", "sender": sender}

    stored = either.post("/store-invite", request | shown)

    assert json.loads(sink.get()) == {"token": stored["token"], **shown}
    assert stored["display_name"] != "ian@fake.test"
    for key in stored["public_keys"]:
        assert web.get(f"{key['key_validity_url']}?public_key={key['public_key']}").json() == {"valid": True}


def test_v1_binds_and_finds(v1: Client, sink: MailSink) -> None:
    bound = v1.bind("thing1@nowhere.test", "1234567890", "@thing1:fake.test", sink)
    v1.bind("thing2@nowhere.test", "1234567890", "@thing2:fake.test", sink)

    assert v1.get("/lookup?medium=email&address=thing1%40nowhere.test") == bound
    asked = [["email", f"thing{number}@nowhere.test"] for number in (1, 2, 3)]
    found = v1.post("/bulk_lookup", {"threepids": asked})["threepids"]
    assert sorted(found) == [
        ["email", "thing1@nowhere.test", "@thing1:fake.test"],
        ["email", "thing2@nowhere.test", "@thing2:fake.test"],
    ]
    invite = {
        "medium": "email",
        "address": "thing1@nowhere.test",
        "room_id": "!r:fake.test",
        "sender": "@s:fake.test",
    }
    assert v1.post("/store-invite", invite)["errcode"] == "M_THREEPID_IN_USE"
    assert sink.is_empty(), "a mail of which the suite knows nothing"


def test_v2_binds_and_finds_in_plain(v2: Client, sink: MailSink, homeserver: Gate) -> None:
    user_id = f"@commonapitests:127.0.0.1:{homeserver.port}"
    assert v2.get("/account") == {"user_id": user_id}
    denied = v2.bind("perfectly_valid_email@nowhere.test", "0987654321", "@alice:fake.test", sink)
    assert denied["errcode"] == "M_UNAUTHORIZED"

    bound = v2.bind("fakeemail3@nowhere.test", "1234567890", user_id, sink)

    assert (bound["medium"], bound["address"], bound["mxid"]) == ("email", "fakeemail3@nowhere.test", user_id)
    pepper = v2.get("/hash_details")["lookup_pepper"]
    asked = "fakeemail3@nowhere.test email"
    plain = v2.post("/lookup", {"addresses": [asked], "algorithm": "none", "pepper": pepper})
    assert plain == {"mappings": {asked: user_id}}
    assert v2.get("/terms") == {"policies": {}}
    assert sink.is_empty(), "a mail of which the suite knows nothing"


def test_logging_out_is_understood(v2: Client) -> None:
    v2.post("/account/logout", {})
    assert v2.get("/account")["errcode"] == "M_UNAUTHORIZED"


def test_the_other_server_has_terms(web: Web, homeserver: Gate, sink: MailSink) -> None:
    launcher = MatrixIsTestLauncher(True, port=reserve_port(), mail_port=sink.port)
    launcher.launch()
    try:
        base = launcher.get_base_url()
        assert Client(web, base + V2).get("/hash_details")["errcode"] == "M_UNAUTHORIZED"
        client = Client(web, base + V2, bearer=register(web, base, homeserver))
        policies = client.get("/terms")["policies"]
        assert {name: policy["version"] for name, policy in policies.items()} == {
            "privacy_policy": "1.2",
            "terms_of_service": "5.0",
        }
        for name, language in (("privacy_policy", "en"), ("terms_of_service", "fr")):
            assert client.get("/hash_details")["errcode"] == "M_TERMS_NOT_SIGNED"
            assert client.post("/terms", {"user_accepts": [policies[name][language]["url"]]}) == {}
        assert "algorithms" in client.get("/hash_details")
    finally:
        launcher.tearDown()


def register(web: Web, base: str, homeserver: Gate) -> str:
    """An access token, by an OpenID token as the suite sends it: with nothing but what is needed."""
    body = {"matrix_server_name": f"127.0.0.1:{homeserver.port}", "access_token": hashlib.sha256().hexdigest()}
    token: str = web.post_json(f"{base}{V2}/account/register", body).json()["token"]
    return token


def token_in(sink: MailSink) -> str:
    """The token in the next mail, which stands between angle brackets and begins the message."""
    mail = sink.get().decode()
    assert mail.startswith("<<<"), mail
    return mail[3 : mail.index(">>>")]
