from __future__ import annotations

import io
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from identity_server.config import __main__ as command
from identity_server.config import all_sections, differences, documents
from identity_server.config.sections import Config
from tests.config.conftest import Loader, read, warnings_of

REPOSITORY = Path(__file__).parents[2]
KEY_LINE = re.compile(r"#(\S[^=]*?) =(.*)")


def uncommented(text: str) -> str:
    return "".join(
        line.removeprefix("#") if KEY_LINE.fullmatch(line.rstrip("\n")) else line
        for line in text.splitlines(keepends=True)
    )


def values_of(config: Config) -> list[object]:
    return [getattr(config, section.name) for section in all_sections()]


def test_the_example_file_is_current() -> None:
    assert (REPOSITORY / "sydent.conf.example").read_text(encoding="utf-8") == documents.example()


def test_the_reference_page_is_current() -> None:
    assert (REPOSITORY / "docs" / "configuration.md").read_text(encoding="utf-8") == documents.reference()


def test_the_example_file_changes_nothing(given: Loader) -> None:
    config = given(documents.example(), strict=True)
    assert config.given == frozenset()
    assert values_of(config) == values_of(given("", strict=True))


def test_the_example_file_uncommented_says_what_the_defaults_are(given: Loader, tmp_path: Path) -> None:
    # The example of a provider for one country needs an account.
    account = {"IDENTITY_SERVER__SMS__USERNAME": "u", "IDENTITY_SERVER__SMS__PASSWORD": "p"}
    config = given(uncommented(documents.example()), environ=account, strict=True)
    examples = "smsrule.1 = allow\nprovider.44 = openmarket\noption.example_api_key =\n"
    plain = given(f"[crypto]\nkey_dir = keys\n[sms]\n{examples}", environ=account, strict=True)
    assert values_of(config) == values_of(plain)
    assert len(config.given) == sum(len(section.keys) for section in all_sections())
    own_warnings = [warning for warning in warnings_of(config) if "doesn't act on it yet" not in warning]
    assert [warning.split(": ")[0].split(", ")[-1] for warning in own_warnings] == [
        "[general] server.name",
        "[http] client_http_base",
    ]


def test_the_example_file_names_every_key_in_its_section_and_no_other() -> None:
    named: dict[str, list[str]] = {}
    section = ""
    for line in documents.example().splitlines():
        if header := re.fullmatch(r"\[(.+)\]", line):
            section = header[1]
        elif match := KEY_LINE.fullmatch(line):
            named.setdefault(section, []).append(match[1])
    assert named == {section.name: [key.written_name for key in section.keys.values()] for section in all_sections()}


def test_no_line_of_the_example_is_too_long() -> None:
    assert all(len(line) <= 118 for line in documents.example().splitlines())


def test_the_reference_page_names_every_key() -> None:
    page = documents.reference()
    for section in all_sections():
        part = page.partition(f"\n## [{section.name}]\n")[2].partition("\n## ")[0]
        for key in section.keys.values():
            assert f"| `{key.name.removesuffix('*')}" in part


def test_every_sydent_key_is_there() -> None:
    """The names that operators' files hold."""
    sydents = {
        "general": """server.name log.path log.level pidfile.path terms.path address_lookup_limit templates.path
            brand.default prometheus_port prometheus_addr sentry_dsn enable_v1_associations enable_v1_access
            delete_tokens_on_bind ip.blacklist ip.whitelist homeserver_allow_list""",
        "db": "db.file",
        "http": """clientapi.http.bind_address clientapi.http.port internalapi.http.bind_address internalapi.http.port
            replication.https.certfile replication.https.cacert replication.https.bind_address replication.https.port
            obey_x_forwarded_for federation.verifycerts verify_response_template client_http_base""",
        "email": """email.template email.invite_template email.from email.subject email.invite.subject
            email.invite.subject_space email.smtphost email.smtpport email.smtpusername email.smtppassword email.tlsmode
            email.hostname email.default_web_client_location email.third_party_invite_username_obfuscate_characters
            email.third_party_invite_domain_obfuscate_characters email.third_party_invite_homeserver_blocklist
            email.third_party_invite_room_blocklist email.third_party_invite_keyword_blocklist
            email.ratelimit_sender.burst email.ratelimit_sender.rate_hz""",
        "sms": """bodyTemplate username password originators.* smsrule.* msisdn.ratelimit.burst msisdn.ratelimit.rate_hz
            country.ratelimit.burst country.ratelimit.rate_hz""",
        "crypto": "ed25519.signingkey",
        "lookup": "",
        "audit": "",
    }
    assert {
        section.name: {key.name for key in section.keys.values() if not key.new} for section in all_sections()
    } == {name: set(keys.split()) for name, keys in sydents.items()}


def test_names_and_variables_are_unique_and_found_again() -> None:
    names = [key.name.lower() for section in all_sections() for key in section.keys.values()]
    assert len(set(names)) == len(names)
    seen = set()
    for section in all_sections():
        for key in section.keys.values():
            rest = section.variable(key).split("__", 2)[2]
            assert section.find_variable(rest) == (key, key.member)
            assert section.find(key.written_name) == (key, key.member)
            assert not key.secret or section.find_variable(f"{rest}_FILE") is None
            seen.add(section.variable(key))
    assert len(seen) == len(names)


def test_secrets_are_marked() -> None:
    secret = {key.name for section in all_sections() for key in section.keys.values() if key.secret}
    assert secret == {
        "sentry_dsn",
        "db.url",
        "db.password",
        "internalapi.secret",
        "email.smtppassword",
        "password",
        "twilio.auth_token",
        "vonage.api_secret",
        "webhook.secret",
        "option.*",
        "ed25519.signingkey",
        "at_rest_key",
        "at_rest_passphrase",
        "at_rest_next_key",
        "at_rest_next_passphrase",
    }


def test_differences_say_whom_they_concern(given: Loader) -> None:
    rows = {(row.kind, row.key): row for row in differences()}
    assert all(row.applies and row.breaks for row in rows.values())
    assert rows["default", "enable_v1_access"].ours == "false"
    assert rows["default", "enable_v1_access"].sydent == "`true`"
    assert {"algorithms", "pepper_rotation_days", "access_token_lifetime_days"} <= {row.key for row in rows.values()}
    config = given("[general]\nenable_v1_access = true\n[email]\nemail.tlsmode = TLS\n")
    applies = {(row.kind, row.key): row.applies for row in differences(config)}
    assert not applies["default", "enable_v1_access"]
    assert applies["default", "enable_v1_associations"]
    assert applies["meaning", "email.tlsmode"]
    assert not applies["meaning", "obey_x_forwarded_for"]


def test_what_sydent_wrote_into_the_file_by_itself_concerns_nobody(given: Loader) -> None:
    config = given(
        "[general]\nip.blacklist =\nhomeserver_allow_list =\n"
        "[http]\nreplication.https.certfile =\nobey_x_forwarded_for = false\nfederation.verifycerts = true\n"
    )
    told = {row.key for row in differences(config) if row.kind == "meaning" and row.applies}
    assert told == {"federation.verifycerts"}


@pytest.mark.parametrize("name", ["example", "reference"])
def test_the_command_writes_the_documents(name: str) -> None:
    output = io.StringIO()
    with redirect_stdout(output):
        assert command.main([name]) == 0
    assert output.getvalue() == getattr(documents, name)()


def test_the_command_explains_itself() -> None:
    output = io.StringIO()
    with redirect_stderr(output):
        assert command.main([]) == 2
    assert "example|reference" in output.getvalue()


def test_defaults_without_a_file_are_those_of_the_classes() -> None:
    config = read(None, {})
    for section in all_sections():
        values = getattr(config, section.name)
        for attribute, key in section.keys.items():
            if key.name not in {"db.file", "key_dir", "pidfile.path", "server.name", "email.from"}:
                assert getattr(values, attribute) == key.default_value()
