from __future__ import annotations

from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given as hypothesis_given
from hypothesis import settings
from hypothesis import strategies as st

from identity_server.config import ConfigError, checks, load
from identity_server.config.checks import _SENDER, _is_one_sender
from tests.config.conftest import Loader, Refuser, warnings_of
from tests.support.properties import examples

QUIET = "[general]\nserver.name = id.example\n[http]\nclient_http_base = https://id.example\n"


def section(name: str, *lines: str) -> str:
    return "\n".join((f"[{name}]", *lines, ""))


def test_a_machine_whose_name_cannot_be_used(conf: Path) -> None:
    conf.write_text("")
    with pytest.raises(ConfigError) as caught:
        load(conf, environ={}, hostname=lambda: "not a name")
    (problem,) = caught.value.problems
    assert str(problem) == "[general] server.name: set it: the name of this machine can't be used instead."


@pytest.mark.parametrize(
    ("lines", "sender"),
    [
        ([], "Sydent Validation <noreply@id.example>"),
        (["email.hostname = mail.example"], "Sydent Validation <noreply@mail.example>"),
        (["email.from = bot@{host}"], "bot@id.example"),
        (["email.from = Zo\u00eb <zoe@example.org>"], "Zo\u00eb <zoe@example.org>"),
        (['email.from = "Bots, Inc." <bot@example.org>'], '"Bots, Inc." <bot@example.org>'),
    ],
)
def test_the_sender(given: Loader, lines: list[str], sender: str) -> None:
    assert given(QUIET + section("email", *lines)).email.from_ == sender


@pytest.mark.parametrize("name", ["id.example:8448", "192.0.2.1", "[2001:db8::1]:8448"])
def test_the_default_sender_is_fine_with_every_server_name(given: Loader, name: str) -> None:
    host = name.removesuffix(":8448")
    assert given("", environ={"SYDENT_SERVER_NAME": name}).email.from_ == f"Sydent Validation <noreply@{host}>"


@settings(max_examples=examples(100), derandomize=True, database=None)
@hypothesis_given(st.from_regex(_SENDER, fullmatch=True, alphabet=st.characters(codec="latin-1")))
def test_a_sender_that_passes_makes_a_header_of_one_address(text: str) -> None:
    if _is_one_sender(text):
        message = EmailMessage()
        message["From"] = text
        (address,) = message["From"].addresses
        assert address.addr_spec in text


@pytest.mark.parametrize(
    "sender", ["nobody", "a@b, c@d", "a@b@c", "Name <>", "a@", "@b", "a@{domain}", "group: a@b;", "Name a@b.example"]
)
def test_refuses_a_sender_that_is_not_one_address(refused: Refuser, sender: str) -> None:
    (problem,) = refused(section("email", f"email.from = {sender}"))
    assert problem.startswith("FILE, line 2, [email] email.from: this must be one address")
    assert sender not in problem


def test_console_mail_only_on_loopback(given: Loader, refused: Refuser) -> None:
    console = section("email", "email.transport = console")
    (problem,) = refused(console)
    assert problem.startswith("FILE, line 2, [email] email.transport: `console` shows everyone's mail")
    for address in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        config = given(console + section("http", f"clientapi.http.bind_address = {address}"))
        assert config.email.transport == "console"
    for address in ("", "0.0.0.0", "192.168.0.1", "host.example"):
        assert refused(console + section("http", f"clientapi.http.bind_address = {address}"))


def test_the_key_directory_is_never_the_databases(given: Loader, refused: Refuser, tmp_path: Path) -> None:
    fix = "set `key_dir` in [crypto] to a directory of its own."
    (problem,) = refused(section("crypto", f"key_dir = {tmp_path}/x/..") + section("db", "db.file = ./sydent.db"))
    assert problem.startswith("FILE, line 2, [crypto] key_dir: the keys would lie in the directory of the database")
    assert problem.endswith(fix)
    (problem,) = refused(section("db", "db.file = keys/sydent.db"))
    assert problem.startswith("FILE, line 2, [db] db.file: ")
    assert problem.endswith(fix)
    assert given(section("db", "db.file = sydent.db")).crypto.key_dir == tmp_path / "keys"
    elsewhere = section("db", "db.url = postgresql+asyncpg://h/d") + section("crypto", "key_dir = .")
    assert given(elsewhere).crypto.key_dir == Path()


def test_the_database_is_no_directory(refused: Refuser, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (problem,) = refused(section("db", "db.file = data"))
    assert problem == "FILE, line 2, [db] db.file: this is a directory: name a file."


def test_one_root_key_only(refused: Refuser) -> None:
    (problem,) = refused(section("crypto", f"at_rest_key = {'A' * 43}", "at_rest_passphrase = correct horse battery"))
    assert problem.startswith("FILE, line 3, [crypto] at_rest_passphrase: there is `at_rest_key`, too")


def test_replication_is_refused_with_the_alternative(refused: Refuser, given: Loader) -> None:
    text = section("http", "replication.https.certfile = repl.pem") + section(
        "peer.other.example", "base_replication_url = https://other.example:4434"
    )
    problems = refused(text, strict=True)
    assert [problem.partition(": ")[0] for problem in problems] == [
        "FILE, line 2, replication.https.certfile",
        "FILE, line 3, [peer.NAME]",
    ]
    assert all(
        "one PostgreSQL database" in problem and "replication.ignore = true" in problem for problem in problems
    )
    config = given(QUIET + "replication.ignore = true\n" + text.removeprefix("[http]\n"), strict=True)
    assert warnings_of(config) == [
        "FILE, line 6, replication.https.certfile: ignored: nothing is replicated.",
        "FILE, line 7, [peer.NAME]: ignored: nothing is replicated.",
    ]


@pytest.mark.parametrize(
    ("line", "extra"),
    [
        ("sentry_dsn = https://key@sentry.example/1", "sentry"),
        ("otlp_endpoint = http://127.0.0.1:4318", "opentelemetry"),
    ],
)
def test_what_is_configured_must_be_installed(
    line: str, extra: str, refused: Refuser, given: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = section("general", line)
    monkeypatch.setattr(checks, "find_spec", lambda _name: None)
    (problem,) = refused(text)
    assert f"pip install 'matrix-identity-server[{extra}]'" in problem
    assert "sentry.example" not in problem

    def parent_is_missing(_name: str) -> None:
        raise ModuleNotFoundError

    monkeypatch.setattr(checks, "find_spec", parent_is_missing)
    assert len(refused(text)) == 1
    monkeypatch.setattr(checks, "find_spec", lambda _name: object())
    assert extra not in "".join(warnings_of(given(text)))


def test_a_certificate_needs_its_key(refused: Refuser, given: Loader, tmp_path: Path) -> None:
    (tmp_path / "a.pem").touch()
    (problem,) = refused(section("http", "clientapi.https.certfile = a.pem"))
    assert problem.endswith("clientapi.https.certfile: it needs `clientapi.https.keyfile`, too.")
    (problem,) = refused(section("http", "clientapi.https.keyfile = a.pem"))
    assert problem.endswith("clientapi.https.keyfile: it needs `clientapi.https.certfile`, too.")
    both = section("http", "clientapi.https.keyfile = a.pem", "clientapi.https.certfile = a.pem")
    assert given(both).http.clientapi_https_keyfile == Path("a.pem")


def test_named_files_and_directories_exist(refused: Refuser, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    problems = refused(
        section("general", "terms.path = absent", "log.path = absent/log", "templates.path = file")
        + section("http", "federation.ca_file = absent", "verify_response_template = absent.html")
        + section("email", "email.smtp_ca_file = absent", "email.template = absent")
    )
    assert [problem.split(": ")[0].rsplit(" ", 1)[1] for problem in problems] == [
        "terms.path",
        "log.path",
        "templates.path",
        "federation.ca_file",
        "verify_response_template",
        "email.smtp_ca_file",
        "email.template",
    ]


def test_paths_that_cannot_even_be_looked_for_are_told(refused: Refuser) -> None:
    """Most often a folder is closed to the server's user; a name that is too long meets root as well."""
    unthinkable = "x" * 300
    problems = refused(
        section("general", f"templates.path = {unthinkable}/res")
        + section("email", f"email.template = {unthinkable}")
    )
    assert [problem.partition("] ")[2] for problem in problems] == [
        f"templates.path: this user can't look for {unthinkable}/res in {Path.cwd()}: File name too long.",
        f"email.template: this user can't look for {unthinkable} in {Path.cwd()}: File name too long.",
    ]
    (problem,) = refused(section("email", f"email.template = /{unthinkable}"))
    assert problem.partition("] ")[2] == "email.template: this user can't look there: File name too long."


def test_templates_that_sydent_wrote_into_the_file_itself_are_not_missed(given: Loader, tmp_path: Path) -> None:
    text = (
        QUIET
        + "verify_response_template = res/verify\n"
        + section("email", "email.template = /opt/res/email.template")
    )
    config = given(text)
    assert config.http.verify_response_template is None
    assert config.email.template is None
    assert [warning.partition(": ")[2] for warning in warnings_of(config)] == [
        "Sydent's own templates aren't here, so the ones of this server are used."
    ] * 2
    (tmp_path / "res").mkdir()
    assert given(section("general", "templates.path = res")).general.templates_path == Path("res")


def test_two_listeners_on_one_port(refused: Refuser, given: Loader) -> None:
    clash = section(
        "http", "clientapi.http.bind_address = ::1", "clientapi.http.port = 8090", "internalapi.http.port = 8090"
    )
    (problem,) = refused(clash)
    assert problem.endswith("internalapi.http.port: `clientapi.http.port` listens on this port of ::1 already.")
    assert given(clash.replace("8090", "0")).http.internalapi_http_port == 0


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (section("http", "client_http_base = http://id.example"), "clients refuse identity servers"),
        (section("http", "federation.verifycerts = False"), "aren't verified"),
        (
            section("email", "email.smtphost = relay.example", "email.smtpusername = u", "email.smtppassword = p"),
            "[email] email.tlsmode: the password for the relay is sent unencrypted",
        ),
        (section("email", "email.smtpusername = u"), "there is no `email.smtppassword`"),
        (section("email", "email.ratelimit_address.per_day = 5"), "lock an address out"),
        (section("lookup", "enable_v1 = true"), "without effect unless `enable_v1_access`"),
        (section("general", "enable_v1_associations = true"), "without effect unless `enable_v1_access`"),
        (section("general", "prometheus_port = 9000"), "need each other"),
        (section("sms", "password = p"), "[sms] password: without effect"),
        (section("sms", "username = u"), "[sms] username: without effect"),
    ],
)
def test_warns(given: Loader, text: str, warning: str) -> None:
    assert any(warning in each for each in warnings_of(given(text)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        section("email", "email.smtpusername = u", "email.smtppassword = p"),
        section(
            "email",
            "email.smtphost = r.example",
            "email.smtpusername = u",
            "email.smtppassword = p",
            "email.tlsmode=TLS",
        ),
    ],
)
def test_does_not_warn_without_a_reason(given: Loader, text: str) -> None:
    assert not warnings_of(given(QUIET + text))


def test_a_public_url_on_loopback_needs_no_https(given: Loader) -> None:
    for url in ("http://localhost:8090", "http://127.0.0.1:8090", "http://[::1]:8090"):
        assert not warnings_of(given(QUIET.replace("https://id.example", url)))


def test_the_public_host(given: Loader) -> None:
    assert given(QUIET).public_host == "id.example"
    assert (
        given(QUIET.replace("https://id.example", "https://ID.example:8443/base/")).public_host == "id.example:8443"
    )
    assert given("", environ={"SYDENT_SERVER_NAME": "other.example"}).public_host == "other.example"


def homeserver_warnings(given: Loader, *lines: str) -> list[str]:
    text = QUIET.replace("server.name = id.example\n", "server.name = id.example.org\n" + "\n".join((*lines, "")))
    return [each.partition(": ")[2] for each in warnings_of(given(text)) if "homeserver" in each.partition(": ")[0]]


@pytest.mark.parametrize("kind", ["homeserver", "homeserver_bind", "homeserver_lookup"])
def test_a_homeserver_that_is_allowed_and_denied(given: Loader, kind: str) -> None:
    lines = (
        f"{kind}_allow_list = a.example.org, B.example.org:8448, c.example.org, *.d.example.org",
        f"{kind}_deny_list",
    )
    for denied, contradicted in (
        ("a.example.org", "a.example.org"),
        ("A.*", "a.example.org"),
        ("b.example.org", "b.example.org:8448"),
        ("*.d.example.org", "*.d.example.org"),
    ):
        assert homeserver_warnings(given, lines[0], f"{lines[1]} = {denied}") == [
            f"`{contradicted}` is without effect: `{kind}_deny_list` has it, too, and wins."
        ]
    assert homeserver_warnings(given, lines[0], f"{lines[1]} = x.example.org, a.example.org:1") == []


@pytest.mark.parametrize("kind", ["homeserver_bind", "homeserver_lookup"])
def test_a_homeserver_that_may_do_something_but_not_use_the_server(given: Loader, kind: str) -> None:
    lines = ("homeserver_allow_list = example.org, *.example.org", "homeserver_deny_list = evil.example.org")
    for name in ("elsewhere.example", "evil.example.org"):
        assert homeserver_warnings(given, *lines, f"{kind}_allow_list = {name}, a.example.org, *.example") == [
            f"`{name}` is without effect: users of it may not use this server at all."
        ]


@pytest.mark.parametrize("allowed", ["example.com", "*.example.com, 192.0.2.1", "example.org.evil.example"])
def test_an_allow_list_without_ones_own_homeserver(given: Loader, allowed: str) -> None:
    (warning,) = homeserver_warnings(given, f"homeserver_allow_list = {allowed}")
    assert warning.startswith("no homeserver of `example.org` or `id.example` is in it")


@pytest.mark.parametrize(
    "allowed", ["", "example.org", "matrix.example.org:8448, other.example", "*.example.org", "*", "matrix.*"]
)
def test_an_allow_list_with_ones_own_homeserver(given: Loader, allowed: str) -> None:
    assert homeserver_warnings(given, f"homeserver_allow_list = {allowed}") == []


@pytest.mark.parametrize("name", ["localhost", "192.0.2.1", "[2001:db8::1]:8448"])
def test_whose_an_allow_list_is_cannot_be_told_from_every_name(given: Loader, name: str) -> None:
    text = f"[general]\nserver.name = {name}\nhomeserver_allow_list = example.com\n"
    assert not any("homeserver_allow_list" in each for each in warnings_of(given(text)))


def test_lists_of_who_may_look_up_hold_for_v2_alone(given: Loader) -> None:
    v1 = ("enable_v1_access = true", "homeserver_lookup_deny_list = evil.example")
    assert homeserver_warnings(given, *v1) == []
    text = QUIET + section("lookup", "enable_v1 = true")
    (warning,) = [
        each
        for each in warnings_of(given(text.replace("[http]", "\n".join((*v1, "[http]")))))
        if "homeserver" in each
    ]
    assert warning.endswith("lookups on v1 (`enable_v1` in [lookup]) are anybody's, so this doesn't hold for them.")


@pytest.mark.parametrize(
    "name", ["two words", "exa_mple.org/x", "*.example.org/", "a" * 231, "*" * 231, "caf\u00e9.example"]
)
def test_no_homeserver(refused: Refuser, name: str) -> None:
    (problem,) = refused(section("general", f"homeserver_deny_list = {name}"))
    assert "a server name, in which `*` stands for any characters" in problem
