from __future__ import annotations

import base64
import dataclasses
from ipaddress import ip_network
from pathlib import Path

import pytest

from identity_server.config import ConfigError, Originator, OriginatorKind, SmsRule, TlsMode, load
from identity_server.domain.signing import SigningKey
from tests.config.conftest import Loader, Refuser, read, warnings_of

SEED = base64.b64encode(bytes(range(32))).decode().rstrip("=")
QUIET = "[general]\nserver.name = id.example\n[http]\nclient_http_base = https://id.example\n"


# --- files as Sydent's operators have them -----------------------------------------------------


def test_an_old_installation_that_keeps_everything_in_default(given: Loader, tmp_path: Path) -> None:
    """As Sydent leaves a file behind when it has written its key into it."""
    (tmp_path / "terms.yaml").touch()
    config = given(
        f"""\
[DEFAULT]
server.name = Matrix.Example.com
log.path =
log.level = INFO
pidfile.path = sydent.pid
terms.path = terms.yaml
address_lookup_limit = 5000
templates.path = res
brand.default = matrix-org
enable_v1_associations = true
enable_v1_access = true
delete_tokens_on_bind = true
ip.blacklist =
ip.whitelist = 192.168.7.0/24
homeserver_allow_list =
db.file = sydent.db
clientapi.http.bind_address = ::
clientapi.http.port = 8091
internalapi.http.bind_address = ::1
internalapi.http.port =
replication.https.certfile =
replication.https.cacert =
replication.https.bind_address = ::
replication.https.port = 4434
obey_x_forwarded_for = False
federation.verifycerts = True
client_http_base = https://id.example.com/
email.from = Sydent Validation <noreply@{{hostname}}>
email.subject = Your Validation Token
email.invite.subject = %(sender_display_name)s says hello
email.invite.subject_space = %%(sender_display_name)s says hello to a space
email.smtphost = relay.example.com
email.smtpport = 25
email.smtpusername =
email.smtppassword =
email.hostname =
email.tlsmode = 0
email.default_web_client_location = https://app.element.io
email.third_party_invite_username_obfuscate_characters = 3
email.third_party_invite_domain_obfuscate_characters = 3
bodytemplate = Your code is {{token}}
username =
password =
ed25519.signingkey = ed25519 0 {SEED}

[general]
[db]
[http]
[email]
[sms]
[crypto]
""",
        strict=True,
    )
    assert config.general.server_name == "Matrix.Example.com"
    assert config.general.address_lookup_limit == 5000
    assert config.general.enable_v1_access
    assert config.general.ip_whitelist == (ip_network("192.168.7.0/24"),)
    assert config.general.terms_path == Path("terms.yaml")
    assert config.general.templates_path is None
    assert config.db.file == Path("sydent.db")
    assert config.crypto.key_dir == tmp_path / "keys"
    assert config.http.clientapi_http_port == 8091
    assert config.http.internalapi_http_port is None
    assert config.public_base_url == "https://id.example.com"
    assert config.email.from_ == "Sydent Validation <noreply@Matrix.Example.com>"
    # Sydent itself writes the percent sign once here, although it doubles it elsewhere.
    assert config.email.invite_subject == "%(sender_display_name)s says hello"
    assert config.email.invite_subject_space == "%(sender_display_name)s says hello to a space"
    assert config.sms.username is None
    assert config.crypto.ed25519_signingkey == f"ed25519 0 {SEED}"
    assert warnings_of(config) == [
        (
            "FILE, line 8, [general] templates.path: Sydent's own templates aren't here, "
            "so the ones of this server are used."
        ),
    ]


def test_a_file_in_sections_with_an_old_hex_key(given: Loader) -> None:
    config = given(
        f"""\
# our identity server
[general]
server.name: id.example.com
log.level = debug
homeserver_allow_list = Example.com, matrix.example.com:8448

[http]
clientapi.http.bind_address = 127.0.0.1
client_http_base = https://id.example.com
obey_x_forwarded_for = yes

[email]
email.from = "Example, Identity" <id@example.com>
email.smtphost = 192.0.2.1
email.smtpport = 587
email.smtpusername = id
email.smtppassword = 100%%secure
email.tlsmode = STARTTLS
email.third_party_invite_keyword_blocklist =
    casino
    free money

[sms]
bodyTemplate = {{token}} is your code
username = om
password = x
originators.44 = long:447700900001, long:447700900002
smsrule.7 = reject

[crypto]
ed25519.signingkey = {"0f" * 32}
"""
    )
    assert config.general.log_level == "DEBUG"
    assert config.general.homeserver_allow_list == ("example.com", "matrix.example.com:8448")
    assert config.http.is_on_loopback
    assert ip_network("10.0.0.0/8") in config.http.proxy_networks
    assert config.email.tlsmode is TlsMode.STARTTLS
    assert config.email.smtppassword == "100%secure"
    assert config.email.third_party_invite_keyword_blocklist == ("casino", "free money")
    assert config.sms.body_template == "{token} is your code"
    assert config.sms.originators == {
        "default": (Originator(OriginatorKind.ALPHA, "Matrix"),),
        "44": (Originator(OriginatorKind.LONG, "447700900001"), Originator(OriginatorKind.LONG, "447700900002")),
    }
    assert config.sms.smsrule == {"7": SmsRule.REJECT}
    assert config.crypto.ed25519_signingkey is not None
    assert SigningKey.parse(config.crypto.ed25519_signingkey, server_name="id.example.com").key_id == "ed25519:0"


def test_a_container_whose_file_does_not_exist_yet(tmp_path: Path) -> None:
    data = tmp_path / "volume"
    data.mkdir()
    environ = {
        "SYDENT_CONF": str(data / "sydent.conf"),
        "SYDENT_SERVER_NAME": "id.example.com",
        "SYDENT_PID_FILE": str(data / "sydent.pid"),
        "SYDENT_DB_PATH": str(data / "sydent.db"),
        "PATH": "/usr/bin",
    }
    config = read(None, environ)
    assert config.path is None
    assert config.general.server_name == "id.example.com"
    assert config.general.pidfile_path == data / "sydent.pid"
    assert config.db.file == data / "sydent.db"
    assert config.crypto.key_dir == data / "keys"
    assert warnings_of(config)[0].startswith("$SYDENT_CONF: ")
    assert not list(data.iterdir())
    with pytest.raises(ConfigError, match="doesn't exist"):
        read(None, environ, strict=True)


# --- which file ------------------------------------------------------------------------------


def test_without_any_file_all_data_lies_in_data() -> None:
    config = read(None, {})
    assert config.path is None
    assert config.db.file == Path("data/db/identity_server.db")
    assert config.crypto.key_dir == Path("data/keys")
    assert config.general.pidfile_path is None
    assert config.general.server_name == "machine.example"
    assert config.public_base_url == "https://machine.example"
    assert config.given == frozenset()
    assert warnings_of(config) == [
        (
            "[general] server.name: not set, so the name of this machine is used: `machine.example`. "
            "Everything signed bears it."
        ),
        (
            "[http] client_http_base: not set, so links in mails begin with https://machine.example: "
            "set it if that isn't right."
        ),
    ]


def test_the_file_is_the_named_one_else_sydent_conf_else_the_one_here(tmp_path: Path) -> None:
    names = {}
    for name in ("named.conf", "variable.conf", "sydent.conf"):
        names[name] = tmp_path / name
        names[name].write_text(f"[general]\nserver.name = {name}\n")
    environ = {"SYDENT_CONF": str(names["variable.conf"])}
    assert read(names["named.conf"], environ).general.server_name == "named.conf"
    assert read(None, environ).general.server_name == "variable.conf"
    assert read(None, {"SYDENT_CONF": ""}).general.server_name == "sydent.conf"
    assert read(None, {"SYDENT_CONF": ""}).crypto.key_dir == Path("keys")


def test_a_named_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read(tmp_path / "absent.conf", {})
    with pytest.raises(ConfigError, match="a directory, not a file"):
        read(None, {"SYDENT_CONF": str(tmp_path)})
    # Most often a folder is closed to this user, as root's is to whom `runuser` runs a command as.
    with pytest.raises(ConfigError, match="can't be read: File name too long"):
        read(None, {"SYDENT_CONF": "x" * 300})
    (tmp_path / "latin.conf").write_bytes(b"[general]\n# caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8 text"):
        read(tmp_path / "latin.conf", {})


# --- precedence --------------------------------------------------------------------------------


def test_variable_over_section_over_default_section_over_sydents_variable_over_default(given: Loader) -> None:
    environ = {"SYDENT_SERVER_NAME": "sydent.example"}
    assert given("").general.server_name == "machine.example"
    assert given("", environ=environ).general.server_name == "sydent.example"
    text = "[DEFAULT]\nserver.name = default.example\n"
    assert given(text, environ=environ).general.server_name == "default.example"
    text += "[general]\nserver.name = section.example\n"
    assert given(text, environ=environ).general.server_name == "section.example"
    environ["IDENTITY_SERVER__GENERAL__SERVER_NAME"] = "variable.example"
    config = given(text, environ=environ)
    assert config.general.server_name == "variable.example"
    assert ("general", "server.name") in config.given


def test_an_empty_name_in_the_file_still_wins_over_sydents_variable(given: Loader) -> None:
    """Sydent writes `server.name =` into its file when it has guessed, and from then on the file counts."""
    config = given("[general]\nserver.name =\n", environ={"SYDENT_SERVER_NAME": "sydent.example"})
    assert config.general.server_name == "machine.example"


def test_empty_variables_of_sydent(given: Loader) -> None:
    config = given(QUIET, environ={"SYDENT_SERVER_NAME": "", "SYDENT_DB_PATH": "", "SYDENT_PID_FILE": ""})
    assert config.db.file == Path("sydent.db")
    assert config.general.pidfile_path is None


def test_a_broken_value_that_a_section_replaces_does_no_harm(given: Loader) -> None:
    assert given("[DEFAULT]\nlog.level = 5%\n[general]\nlog.level = ERROR\n").general.log_level == "ERROR"


def test_percent_signs(given: Loader) -> None:
    text = (
        "[DEFAULT]\nplace = example\n[general]\nserver.name = %(place)s.org\n[email]\nemail.smtppassword = a%%b%%%%\n"
    )
    config = given(text)
    assert config.general.server_name == "example.org"
    assert config.email.smtppassword == "a%b%%"


def test_keys_may_be_written_in_any_case_and_with_the_sections_name(given: Loader) -> None:
    config = given(
        "[crypto]\nCrypto.Key_Dir = elsewhere\n[lookup]\nlookup.algorithms = none\n[db]\nDB.FILE = x/y.db\n",
        strict=True,
    )
    assert config.crypto.key_dir == Path("elsewhere")
    assert config.lookup.algorithms == ("none",)
    assert config.db.file == Path("x/y.db")


def test_variables(given: Loader, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("50%off\n")
    config = given(
        QUIET,
        strict=True,
        environ={
            "IDENTITY_SERVER__HTTP__CLIENTAPI_HTTP_PORT": "0",
            "IDENTITY_SERVER__EMAIL__EMAIL_SMTPPASSWORD_FILE": str(tmp_path / "password"),
            "IDENTITY_SERVER__EMAIL__EMAIL_SMTPUSERNAME": "100%",
            "IDENTITY_SERVER__SMS__ORIGINATORS_44": "short:12345",
            "IDENTITY_SERVER__SMS__BODYTEMPLATE": "{token}",
            "IDENTITY_SERVER__CRYPTO__KEY_DIR": "k",
            "IDENTITY_SERVER__LOOKUP__LOOKUP_ENABLE_V1": "no",
            "IDENTITY_SERVER__GENERAL__PIDFILE_PATH": "",
        },
    )
    assert config.http.clientapi_http_port == 0
    assert config.email.smtppassword == "50%off"
    assert config.email.smtpusername == "100%"
    assert config.sms.originators["44"] == (Originator(OriginatorKind.SHORT, "12345"),)
    assert config.sms.body_template == "{token}"
    assert config.crypto.key_dir == Path("k")
    assert config.general.pidfile_path is None


# --- what is wrong ---------------------------------------------------------------------------


def test_everything_wrong_is_reported_at_once(refused: Refuser) -> None:
    problems = refused(
        """\
[general]
server.name = https://id.example
log.level = loud
enable_v1_access = yes
log.level = INFO
what is this

[http]
clientapi.http.port = 80x
federation.verifycerts = perhaps

[email]
email.smtppassword = 100% hunter2
email.from = %(nobody)s

[crypto]
ed25519.signingkey = hunter2
""",
        environ={
            "IDENTITY_SERVER__LOOKUP__ALGORITHMS": "md5",
            "IDENTITY_SERVER__CRYPTO__AT_REST_KEY_FILE": "/nowhere/key",
        },
    )
    percent = "write `%%` wherever you mean a percent sign"
    assert len(problems) == 12
    assert problems[0] == (
        "FILE, line 2, [general] server.name: this must be a server name: a host with an optional port, "
        "not `https://id.example`."
    )
    assert problems[1].startswith("FILE, line 3, [general] log.level: this must be `DEBUG` or ")
    assert problems[1].endswith(", not `loud`.")
    assert problems[2].startswith("FILE, line 4, [general] enable_v1_access: Sydent reads this as false")
    assert problems[3] == "FILE, line 5, [general] log.level: this key stands in line 3 already: keep one of the two."
    assert problems[4].startswith("FILE, line 6, [general]: this line is neither")
    assert problems[5].endswith("clientapi.http.port: this must be a whole number from 0 to 65535, not `80x`.")
    assert problems[6].startswith("FILE, line 10, [http] federation.verifycerts: this must be a boolean")
    assert problems[7].startswith("FILE, line 13, [email] email.smtppassword: ")
    assert percent in problems[7]
    assert problems[8].startswith("FILE, line 14, [email] email.from: it refers to a key that stands neither here")
    assert percent in problems[8]
    assert problems[9].startswith("FILE, line 17, [crypto] ed25519.signingkey: this must be `ed25519 VERSION SEED`")
    assert "hunter2" not in "".join(problems)
    assert {problem.partition(": ")[0] for problem in problems[10:]} == {
        "$IDENTITY_SERVER__LOOKUP__ALGORITHMS, [lookup] algorithms",
        "$IDENTITY_SERVER__CRYPTO__AT_REST_KEY_FILE, [crypto] at_rest_key",
    }


def test_a_line_before_the_first_section_is_reported_once(refused: Refuser) -> None:
    (problem,) = refused("server.name = a\nlog.level = INFO\n[general]\n")
    assert problem.startswith("FILE, line 1: a line stands before the first `[section]`")


def test_a_section_that_stands_twice_is_refused(refused: Refuser) -> None:
    (problem,) = refused(QUIET + "[general]\nlog.level = INFO\n")
    assert problem == "FILE, line 5, [general]: this section stands in line 1 already: join the two."


def test_a_key_that_stands_twice_under_two_names_is_refused(refused: Refuser) -> None:
    (problem,) = refused("[crypto]\nkey_dir = a\ncrypto.key_dir = b\n")
    assert problem == "FILE, line 3, [crypto] key_dir: `key_dir` above is the same key: keep one of the two."
    (problem,) = refused(
        "",
        environ={
            "IDENTITY_SERVER__CRYPTO__AT_REST_PASSPHRASE": "a" * 12,
            "IDENTITY_SERVER__CRYPTO__AT_REST_PASSPHRASE_FILE": "f",
        },
    )[:1]
    assert "[crypto] at_rest_passphrase: " in problem


def test_references_in_a_circle(refused: Refuser) -> None:
    (problem,) = refused("[general]\nserver.name = %(other)s\nother = %(server.name)s\n")
    assert "FILE, line 2, [general] server.name: the references in this value go round in circles" in problem


def test_unknown_names_are_warnings_with_the_nearest_known_one(given: Loader, refused: Refuser) -> None:
    text = (
        QUIET.replace("[http]", "sever.alias = x\nclientapi.http.port = 1\n[http]")
        + "[emial]\nx = y\n[email]\nemail.smtppasword = hunter2\nzzz = 1\n[DEFAULT]\nlog.pth = x\n"
    )
    environ = {"IDENTITY_SERVER__HTTP__CLIENTAPI_PORT": "1", "IDENTITY_SERVER__EMAIL__EMAIL_SMTPHOST_FILE": "x"}
    expected = [
        "FILE, line 3, [general] sever.alias: there is no such key. Did you mean `server.aliases`?",
        "FILE, line 4, [general] clientapi.http.port: this key belongs into [http]; here it doesn't count.",
        "FILE, line 7, [emial]: there is no such section, so nothing in it counts. Did you mean `email`?",
        "FILE, line 10, [email] email.smtppasword: there is no such key. Did you mean `email.smtppassword`?",
        "FILE, line 11, [email] zzz: there is no such key.",
        "FILE, line 13, [DEFAULT] log.pth: there is no such key. Did you mean `log.path`?",
        (
            "$IDENTITY_SERVER__EMAIL__EMAIL_SMTPHOST_FILE: no key has this variable. "
            "Did you mean `IDENTITY_SERVER__EMAIL__EMAIL_SMTPHOST`?"
        ),
        (
            "$IDENTITY_SERVER__HTTP__CLIENTAPI_PORT: no key has this variable. "
            "Did you mean `IDENTITY_SERVER__HTTP__CLIENTAPI_HTTP_PORT`?"
        ),
    ]
    assert warnings_of(given(text, environ=environ)) == expected
    assert refused(text, strict=True, environ=environ) == expected


def test_a_family_takes_only_country_codes(refused: Refuser) -> None:
    problems = refused("[sms]\noriginators.uk = alpha:X\nsmsrule.0 = allow\nsmsrule.44 = maybe\n")
    assert [problem.partition(": ")[2] for problem in problems] == [
        "after the last dot there must be a country calling code such as `44`.",
        "after the last dot there must be a country calling code such as `44`.",
        "this must be `allow` or `reject`, not `maybe`.",
    ]


def test_an_address_is_not_repeated(refused: Refuser) -> None:
    (problem,) = refused("[email]\nemail.smtphost = someone@example.org\n")
    assert "someone" not in problem


def test_no_secret_is_ever_shown(given: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("identity_server.config.checks.find_spec", lambda _name: object())
    secret = "hunter2hunter2"
    config = given(
        QUIET
        + f"""\
[db]
db.url = postgresql+asyncpg://u:{secret}@h/d
[email]
email.smtpusername = u
email.smtppassword = {secret}
[sms]
username = u
password = {secret}
[crypto]
ed25519.signingkey = ed25519 0 {SEED}
at_rest_key = {SEED}
[DEFAULT]
sentry_dsn = https://{secret}@example.org/1
"""
    )
    assert config.email.smtppassword == secret
    shown = repr(config) + str(config) + "".join(warnings_of(config)) + repr(config.warnings)
    assert secret not in shown
    assert SEED not in shown


def test_the_sections_are_frozen(given: Loader) -> None:
    config = given(QUIET)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.general.server_name = "other"  # type: ignore[misc] # that is what is tested


def test_the_name_of_the_machine_is_asked_for_only_when_needed(conf: Path) -> None:
    conf.write_text(QUIET)

    def unexpected() -> str:
        raise AssertionError

    assert load(conf, environ={}, hostname=unexpected).general.server_name == "id.example"
