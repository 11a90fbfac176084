"""A healthy set-up is told to be healthy; of each fault that is put into it, the cause is named."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP
from click.testing import CliRunner

from identity_server.__main__ import main
from identity_server.config import load
from identity_server.wiring.desks import open_storage
from identity_server.wiring.storage import engine_for
from tests.outbound.support import PUBLIC, USERINFO, Internet, TlsServer, Writer, http, http_json, open_internet
from tests.outbound_mail.test_smtp import Relay, shut
from tests.support.rotation import interrupted, rotation_of

REPOSITORY = Path(__file__).parents[2]
_V2 = "/_matrix/identity/v2"
_CLIENT_FILE = "/.well-known/matrix/client"
_CORS = {"Access_Control_Allow_Origin": "*"}


@dataclass
class Clinic:
    """A set-up with everything around it, all of it well until a test breaks something."""

    internet: Internet
    folder: Path
    identity: TlsServer
    homeserver: TlsServer
    website: TlsServer
    relay: Relay
    relay_port: int
    changed: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"https://id.test:{self.identity.port}"

    @property
    def conf(self) -> Path:
        """The configuration, as it stands now."""
        address, port = self.internet.nameservers[0]
        keys = {
            "general/server.name": "id.test",
            "general/ip.whitelist": "127.77.0.0/16",
            "http/client_http_base": self.base,
            "http/trusted_proxies": "127.0.0.1",
            "http/federation.nameservers": f"{address}:{port}",
            "http/federation.ca_file": str(self.internet.ca_file),
            "db/db.file": f"{self.folder}/db/identity.db",
            "crypto/key_dir": f"{self.folder}/keys",
            "email/email.from": "Identity <noreply@id.test>",
            "email/email.smtphost": "127.0.0.1",
            "email/email.smtpport": str(self.relay_port),
            "email/email.smtpusername": "relay-user",
            "email/email.smtppassword": "relay-pass",
            **self.changed,
        }
        lines = []
        for section in dict.fromkeys(name.partition("/")[0] for name in keys):
            lines.append(f"[{section}]")
            lines += [
                f"{name.partition('/')[2]} = {value}"
                for name, value in keys.items()
                if name.startswith(f"{section}/")
            ]
        conf = self.folder / "sydent.conf"
        conf.write_text("\n".join(lines) + "\n")
        return conf

    async def examine(self, *options: str) -> dict[str, list[dict[str, Any]]]:
        """The findings, by what they are about."""
        named = [
            "--homeserver",
            f"hs.test:{self.homeserver.port}",
            "--client-domain",
            f"people.test:{self.website.port}",
        ]
        result = await asyncio.to_thread(
            CliRunner().invoke, main, ["doctor", "--json", "-c", str(self.conf), *named, *options]
        )
        findings: dict[str, list[dict[str, Any]]] = {}
        for each in json.loads(result.stdout):
            findings.setdefault(each["about"], []).append(each)
        assert result.exit_code == bool(faults_of(findings))
        return findings


def faults_of(findings: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is broken, as `about: what (cause) -> fix`."""
    return [
        f"{each['about']}: {each['what']} ({each['cause']}) -> {each['fix']}"
        for some in findings.values()
        for each in some
        if each["verdict"] == "fault"
    ]


@pytest.fixture
async def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Clinic]:
    ca, ca_file = trustme.CA(), tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(ca_file)
    # The system's authorities, for whoever doesn't know the configuration: apps.
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    async with open_internet(ca, ca_file) as internet:
        for name in ("id.test", "hs.test", "people.test"):
            internet.dns.add(name, "A", PUBLIC)
        identity, homeserver, website = [await internet.tls_server(f"{name}.test") for name in ("id", "hs", "people")]
        relay = Relay()
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: SMTP(relay, authenticator=relay.authenticate, auth_require_tls=False, loop=loop), "127.0.0.1", 0
        )
        clinic = Clinic(
            internet, tmp_path, identity, homeserver, website, relay, listener.sockets[0].getsockname()[1]
        )
        _make_well(clinic)
        async with open_storage(load(clinic.conf, environ={})):
            pass
        yield clinic
        await shut(listener)


def _make_well(clinic: Clinic) -> None:
    clinic.identity.on("/_matrix/identity/versions", http_json({"versions": ["v1.20"]}, 200, **_CORS))
    clinic.identity.on(f"{_V2}/lookup", http_json({"errcode": "M_UNAUTHORIZED"}, 401, **_CORS))
    clinic.identity.on(f"{_V2}/terms", http_json({"policies": {}}, 200, **_CORS))
    clinic.homeserver.on(USERINFO, http_json({"errcode": "M_UNKNOWN_TOKEN"}, 401))
    clinic.homeserver.on("/_matrix/federation/v1/version", _dated(partial(http_json, {})))
    clinic.website.on(_CLIENT_FILE, _dated(partial(_client_file, clinic.base)))


def _dated(answer: Callable[..., bytes], *, late: timedelta = timedelta()) -> Writer:
    """An answer with the time at which it is given, by a clock that is late."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(Date=format_datetime(datetime.now(UTC) - late, usegmt=True)))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    return write


def _client_file(base: object, **headers: str) -> bytes:
    return http_json({"m.identity_server": {"base_url": base}}, 200, **{**_CORS, **headers})


async def test_nothing_is_wrong_with_a_healthy_set_up(clinic: Clinic) -> None:
    findings = await clinic.examine("--mail-to", "operator@example.org")

    assert faults_of(findings) == []
    assert [each["about"] for some in findings.values() for each in some if each["verdict"] == "skipped"] == []
    [mail] = clinic.relay.taken
    assert mail.rcpt_tos == ["operator@example.org"]
    steps = next(each["steps"] for each in findings["homeserver"])
    assert f"connect to hs.test port {clinic.homeserver.port}" in steps
    assert findings["clock"][0]["verdict"] == "fine"


@pytest.mark.parametrize(
    ("opened", "warned_of"),
    [
        ((), []),
        (("lookup/enable_v1", "general/enable_v1_associations"), []),
        (("general/enable_v1_access",), []),
        (("general/enable_v1_access", "general/enable_v1_associations"), ["without that Matrix ID's consent"]),
        (("general/enable_v1_access", "lookup/enable_v1"), ["7000 addresses a day"]),
    ],
)
async def test_doors_of_v1_that_are_open(clinic: Clinic, opened: tuple[str, ...], warned_of: list[str]) -> None:
    clinic.changed |= dict.fromkeys(opened, "true") | {"lookup/budget.network_per_day": "7000"}
    found = (await clinic.examine())["v1"]
    warnings = [each["cause"] for each in found if each["verdict"] == "warning"]
    assert len(warnings) == len(warned_of)
    assert all(sentence in warning for sentence, warning in zip(warned_of, warnings, strict=True))
    assert found[0]["what"].startswith("validation and invites are open") == ("general/enable_v1_access" in opened)


async def test_people_are_told_in_words(clinic: Clinic) -> None:
    clinic.identity.on("/_matrix/identity/versions", http(502))
    result = await asyncio.to_thread(CliRunner().invoke, main, ["doctor", "-c", str(clinic.conf)])
    assert result.exit_code == 1
    assert f"fault    public URL: {clinic.base} answers 502 for /_matrix/identity/versions\n" in result.stdout
    assert "           why: the proxy is there, and doesn't reach this server\n" in result.stdout
    assert result.stdout.endswith("\n1 fault\n")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (http(404), "answers 404"),
        (http(301, b"", Location="https://elsewhere.test/"), "it redirects"),
        (http(200, b"<h1>It works</h1>"), "something else than an identity server"),
        (http_json({"versions": []}), "no Access-Control-Allow-Origin"),
        (http_json({"versions": []}, 200, **_CORS, access_control_allow_origin="*"), "2 times"),
    ],
)
async def test_wrong_public_answer(clinic: Clinic, answer: bytes, told: str) -> None:
    clinic.identity.on("/_matrix/identity/versions", answer)
    [fault] = faults_of(await clinic.examine())
    assert told in fault


async def test_proxy_that_refuses_large_bodies(clinic: Clinic) -> None:
    clinic.identity.on(f"{_V2}/lookup", http(413))
    [fault] = faults_of(await clinic.examine())
    assert "client_max_body_size" in fault


async def test_name_without_an_address(clinic: Clinic) -> None:
    del clinic.internet.dns.records["id.test", "A"]
    [fault] = faults_of(await clinic.examine())
    assert "add an A or AAAA record" in fault


@pytest.mark.parametrize(
    ("certificate", "advice"),
    [("of another name", "for this very name"), ("expired", "renew the certificate"), ("of nobody", "whole chain")],
)
async def test_certificate_that_apps_refuse(clinic: Clinic, certificate: str, advice: str) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    past = datetime.now(UTC) - timedelta(days=2)
    issued = {
        "of another name": lambda: clinic.internet.ca.issue_cert("other.test"),
        "expired": lambda: clinic.internet.ca.issue_cert(
            "id.test", not_before=past, not_after=past + timedelta(days=1)
        ),
        "of nobody": lambda: trustme.CA().issue_cert("id.test"),
    }[certificate]()
    issued.configure_cert(context)
    listener = await asyncio.start_server(clinic.identity.serve, PUBLIC, 0, ssl=context)
    clinic.changed["http/client_http_base"] = f"https://id.test:{listener.sockets[0].getsockname()[1]}"
    clinic.website.on(_CLIENT_FILE, _client_file(clinic.changed["http/client_http_base"]))
    try:
        [fault] = faults_of(await clinic.examine())
    finally:
        await shut(listener)
    assert fault.startswith("public URL")
    assert advice in fault


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (http(404), "publish a file there"),
        (_client_file("https://vector.im"), "leads to 'https://vector.im'"),
        (_client_file(7), "leads to '7'"),
    ],
)
async def test_apps_are_led_elsewhere(clinic: Clinic, file: bytes, told: str) -> None:
    clinic.website.on(_CLIENT_FILE, file)
    [fault] = faults_of(await clinic.examine())
    assert fault.startswith("apps: ")
    assert told in fault


async def test_homeserver_without_federation(clinic: Clinic) -> None:
    clinic.homeserver.on(USERINFO, http(404))
    [fault] = faults_of(await clinic.examine())
    assert "/_matrix/federation/" in fault


async def test_homeserver_that_is_down(clinic: Clinic) -> None:
    port = clinic.homeserver.port
    clinic.homeserver.port = 9
    [fault] = faults_of(await clinic.examine())
    assert port != 9
    assert "connection refused" in fault


async def test_homeserver_in_a_private_network(clinic: Clinic) -> None:
    clinic.changed["general/ip.whitelist"] = "127.0.0.9"
    [fault] = faults_of(await clinic.examine())
    assert "`ip.whitelist`" in fault


async def test_homeserver_that_is_not_let_in(clinic: Clinic) -> None:
    clinic.changed["general/homeserver_allow_list"] = "people.test"
    findings = await clinic.examine()
    assert faults_of(findings) == []
    assert findings["homeserver"][0]["verdict"] == "warning"


async def test_relay_that_refuses_the_login(clinic: Clinic) -> None:
    clinic.changed["email/email.smtppassword"] = "an-old-one"
    [fault] = faults_of(await clinic.examine())
    assert "`email.smtppassword`" in fault
    assert "an-old-one" not in fault


async def test_relay_that_does_not_listen(clinic: Clinic) -> None:
    clinic.changed["email/email.smtpport"] = "9"
    [fault] = faults_of(await clinic.examine())
    assert "whether the relay is up" in fault


async def test_relay_that_does_not_speak_tls_at_once(clinic: Clinic) -> None:
    clinic.changed["email/email.tlsmode"] = "TLS"
    [fault] = faults_of(await clinic.examine())
    assert "no TLS that both sides speak" in fault
    assert "on 587: `STARTTLS`" in fault


@pytest.mark.parametrize(
    ("step", "answer", "advice"),
    [
        ("MAIL", "530 5.7.0 Authentication required", "wants a login or TLS first"),
        ("MAIL", "550 5.7.1 not yours", "doesn't let you send as `email.from`"),
        ("MAIL", "421 4.7.0 too many", "try again"),
        ("RCPT", "451 4.7.1 greylisted", "try again"),
        ("RCPT", "550 go away", "doesn't take mail for that address"),
    ],
)
async def test_relay_that_does_not_take_the_mail(clinic: Clinic, step: str, answer: str, advice: str) -> None:
    clinic.relay.answers[step] = answer
    [fault] = faults_of(await clinic.examine("--mail-to", "operator@example.org"))
    assert f"{step}: {answer[:3]}" in fault
    assert advice in fault


async def test_missing_root_key(clinic: Clinic) -> None:
    (clinic.folder / "keys/root.key").unlink()
    [fault] = faults_of(await clinic.examine())
    assert "the root key of this database is missing" in fault
    assert not (clinic.folder / "keys/root.key").exists()


async def test_root_key_that_is_being_replaced_and_what_stays_of_it(clinic: Clinic) -> None:
    def said(seen: dict[str, list[dict[str, Any]]]) -> str:
        return " ".join(str(finding) for findings in seen.values() for finding in findings)

    for step, sentence in (
        ("The next root key is", "waits for every server to know it"),
        ("New data is sealed", "the root key is being replaced"),
    ):
        await interrupted(load(clinic.conf, environ={}), after=step)
        seen = said(await clinic.examine())
        assert sentence in seen
        assert "it goes on where it was left" in seen
    async with rotation_of(load(clinic.conf, environ={})) as rotation:
        await rotation.run(lambda _: None)
    seen = said(await clinic.examine())
    assert "goes on where it was left" not in seen
    assert f"{clinic.folder}/keys/root.key is a root key that has been replaced" in seen


async def test_key_that_others_may_read(clinic: Clinic) -> None:
    (clinic.folder / "keys/root.key").chmod(0o644)
    [fault] = faults_of(await clinic.examine())
    assert "chmod 600" in fault


async def test_newer_schema(clinic: Clinic) -> None:
    engine = engine_for(load(clinic.conf, environ={}))
    async with engine.begin() as connection:
        await connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    await engine.dispose()
    [fault] = faults_of(await clinic.examine())
    assert "a newer version of the server" in fault


async def test_damaged_database(clinic: Clinic) -> None:
    (clinic.folder / "db/identity.db").write_bytes(b"not a database" * 1000)
    [fault] = faults_of(await clinic.examine())
    assert "no database of SQLite's, or a damaged one (file is not a database)" in fault
    assert "Restore a copy" in fault


async def test_broken_terms(clinic: Clinic) -> None:
    terms = clinic.folder / "terms.yaml"
    terms.write_text("master_version: 1\ndocs: [\n")
    clinic.changed["general/terms.path"] = str(terms)
    [fault] = faults_of(await clinic.examine())
    assert str(terms) in fault


async def test_example_terms_that_nobody_has_filled_in(clinic: Clinic) -> None:
    terms = clinic.folder / "terms"
    shutil.copytree(REPOSITORY / "terms", terms)
    clinic.changed["general/terms.path"] = str(terms)
    examples = [each["what"] for each in (await clinic.examine())["terms"] if each["verdict"] == "warning"]
    assert len(examples) == 1
    for policy in ("privacy_policy", "terms_of_service"):
        for language in ("de", "en", "es", "fr"):
            assert f"{policy} ({language})" in examples[0]
    for file in terms.iterdir():
        file.write_text(re.sub(r"\[[A-ZÉ]+\W", "(", file.read_text()))
    assert not [each for each in (await clinic.examine())["terms"] if each["verdict"] == "warning"]


async def test_terms_that_cannot_be_opened(clinic: Clinic) -> None:
    policy = {"version": "1", "en": {"name": "Privacy", "url": f"{clinic.base}/nowhere"}}
    clinic.identity.on(f"{_V2}/terms", http_json({"policies": {"privacy": policy}}))
    [fault] = faults_of(await clinic.examine())
    assert f"{clinic.base}/nowhere can't be opened: 404" in fault


async def test_clock_that_is_wrong(clinic: Clinic) -> None:
    late = timedelta(minutes=7)
    clinic.homeserver.on("/_matrix/federation/v1/version", _dated(partial(http_json, {}), late=late))
    clinic.website.on(_CLIENT_FILE, _dated(partial(_client_file, clinic.base), late=late))
    [fault] = faults_of(await clinic.examine())
    ahead = re.search(r"(\d+) s ahead of", fault)
    assert ahead is not None
    # What the answer takes on its way is in it.
    assert 420 <= int(ahead[1]) < 450


async def test_no_database_yet_and_none_is_made(clinic: Clinic) -> None:
    clinic.changed |= {"db/db.file": f"{clinic.folder}/new/x.db", "crypto/key_dir": f"{clinic.folder}/new-keys"}
    findings = await clinic.examine()
    assert faults_of(findings) == []
    assert "isn't there yet" in findings["database"][0]["what"]
    assert not (clinic.folder / "new").exists()
    assert not (clinic.folder / "new-keys").exists()


async def test_provider_that_cannot_be_found_is_told_from_one_that_refuses(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks at the credentials would look at the wrong thing."""
    asked = socket.getaddrinfo

    def find(host: Any, *others: Any, **named: Any) -> Any:
        # Without the internet, a name server may be waited for that is never there.
        if host == "nowhere.invalid":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return asked(host, *others, **named)

    monkeypatch.setattr(socket, "getaddrinfo", find)
    clinic.changed |= {
        "sms/providers": "webhook",
        "sms/webhook.url": "https://nowhere.invalid/send",
        "sms/webhook.secret": "s" * 32,
    }
    findings = await clinic.examine("--sms-to", "+44 7700 900123")
    (fault,) = faults_of({"texts": findings["texts"]})
    assert "no provider takes a text (webhook: no such host) -> have this machine reach the provider" in fault


async def test_text_is_sent_when_asked_for(clinic: Clinic) -> None:
    clinic.changed |= {"http/clientapi.http.bind_address": "127.0.0.1", "sms/providers": "log"}
    options = ["doctor", "-c", str(clinic.conf), "--sms-to", "+44 7700 900123"]
    result = await asyncio.to_thread(CliRunner().invoke, main, options)
    assert "A test by the identity server id.test." in result.stdout
    assert "fine     texts: a provider has taken a text" in result.stdout


@pytest.mark.parametrize("option", ["--homeserver=..", "--mail-to=nobody", "--sms-to=07700900123"])
def test_option_that_means_nothing(tmp_path: Path, option: str) -> None:
    conf = tmp_path / "x.conf"
    conf.write_text("[general]\nserver.name = id.test\n")
    result = CliRunner().invoke(main, ["doctor", "-c", str(conf), option])
    assert result.exit_code == 2
