"""Who sends text messages, and what is said of a configuration that can't send any."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from identity_server.config import checks
from identity_server.config.checks import _SMS_KEYS
from identity_server.domain.ports import SMS_PROVIDER_GROUP
from identity_server.outbound.sms import BUILT_IN_PROVIDERS
from tests.config.conftest import Loader, Refuser, warnings_of

QUIET = "[general]\nserver.name = id.example\n[http]\nclient_http_base = https://id.example\n"
HEX = "0123456789abcdef" * 2
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TWILIO = (f"twilio.account_sid = AC{HEX}", "twilio.auth_token = t")
VONAGE = ("vonage.api_key = k", "vonage.api_secret = s", "vonage.from = Matrix")


def sms(*lines: str) -> str:
    return "\n".join((QUIET, "[sms]", *lines, ""))


def test_nobody_sends_by_default(given: Loader) -> None:
    config = given(sms())
    assert config.sms.default_providers == ()
    assert config.sms.used_providers == frozenset()


def test_sydents_keys_alone_mean_openmarket(given: Loader) -> None:
    config = given(sms("username = u", "password = p"), strict=True)
    assert config.sms.default_providers == ("openmarket",)
    assert config.sms.openmarket_url == "https://smsc.openmarket.com/sms/v4/mt"
    assert given(sms("username = u")).sms.default_providers == ()


def test_everything_at_once(given: Loader, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "key").write_text("s3cret\n")
    text = sms(
        "sms.providers = twilio, vonage",
        "provider.33 = webhook,twilio",
        "ca_file = ca.pem",
        *TWILIO,
        f"twilio.api_key = SK{HEX}",
        f"twilio.messaging_service_sid = MG{HEX}",
        *VONAGE,
        "webhook.url = http://127.0.0.1:9000/sms",
        f"webhook.secret = {SECRET}",
        "option.acme_region = eu",
    )
    config = given(text, environ={"IDENTITY_SERVER__SMS__OPTION_ACME_KEY_FILE": str(tmp_path / "key")}, strict=True)
    assert config.sms.default_providers == ("twilio", "vonage")
    assert config.sms.provider == {"33": ("webhook", "twilio")}
    assert config.sms.used_providers == {"twilio", "vonage", "webhook"}
    assert config.sms.option == {"acme_region": "eu", "acme_key": "s3cret"}
    assert config.sms.webhook_secret is not None
    assert len(config.sms.webhook_secret) == 24
    assert "s3cret" not in repr(config)
    assert str(config.sms.webhook_secret) not in repr(config)
    assert not [warning for warning in warnings_of(config) if "doesn't act on it yet" not in warning]


def test_the_checks_know_every_provider_that_there_is() -> None:
    assert set(_SMS_KEYS) == set(BUILT_IN_PROVIDERS)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            ("providers = openmarket", "password = p"),
            "username: `openmarket` is to send text messages, and needs it.",
        ),
        (("provider.44 = openmarket", "username = u"), "password: `openmarket` is to send text messages"),
        (("providers = twilio", "twilio.from = Matrix", TWILIO[0]), "twilio.auth_token: `twilio` is to send"),
        (("providers = twilio", *TWILIO), "twilio.from: `twilio` needs it, or `twilio.messaging_service_sid`."),
        (("providers = vonage", *VONAGE[:2]), "vonage.from: `vonage` is to send"),
        (("providers = webhook", "webhook.url = https://sms.example"), "webhook.secret: `webhook` is to send"),
        (("providers = log",), "providers: `log` shows everyone's codes on standard output."),
        (("provider.44 = log",), "provider.*: `log` shows everyone's codes on standard output."),
        (("providers = twillio",), "providers: there is no provider `twillio`"),
        (("providers = ,",), "providers: this must be a list of names of providers"),
        (("provider.44 =",), "provider.44: this must be a list of names of providers"),
        (("provider.default = log",), "after the last dot there must be a country calling code"),
        (("option.Ä = x",), "after the last dot there must be a name in small letters"),
        (("twilio.account_sid = SK1",), "twilio.account_sid: this must be `AC` and 32 hexadecimal digits"),
        (("webhook.secret = whsec_c2hvcnQ=",), "webhook.secret: this must be at least 24 bytes in base64"),
        (("webhook.secret = not base64",), "webhook.secret: this must be at least 24 bytes in base64"),
        (("webhook.url = https://u:p@sms.example",), "webhook.url: this must be an http or https URL without user"),
        (("ca_file = nowhere.pem",), "ca_file: there is no such file."),
        (
            ("username = u", "password = p", "openmarket.url = http://sms.example"),
            "openmarket.url: the password would be sent unencrypted: use https.",
        ),
    ],
)
def test_refused(refused: Refuser, lines: tuple[str, ...], problem: str) -> None:
    (said,) = refused(sms(*lines))
    assert problem in said
    assert "c2hvcnQ" not in said


@pytest.mark.parametrize(
    ("lines", "warning"),
    [
        (TWILIO, "twilio.account_sid: without effect: `providers` doesn't name `twilio`."),
        (VONAGE[1:], "vonage.api_secret: without effect: `providers` doesn't name `vonage`."),
        (
            ("providers = webhook", "webhook.url = http://sms.example", f"webhook.secret = {SECRET}"),
            "webhook.url: numbers and codes are sent unencrypted: use https.",
        ),
    ],
)
def test_warns(given: Loader, lines: tuple[str, ...], warning: str) -> None:
    assert any(warning in each for each in warnings_of(given(sms(*lines))))


def test_the_terminal_is_for_loopback(given: Loader) -> None:
    text = sms("providers = log").replace("[sms]", "clientapi.http.bind_address = 127.0.0.1\n[sms]")
    assert given(text).sms.default_providers == ("log",)


def test_plain_http_is_fine_on_this_machine(given: Loader) -> None:
    text = sms("username = u", "password = p", "openmarket.url = http://localhost:9000/")
    assert given(text, strict=True).sms.openmarket_url == "http://localhost:9000/"


def test_providers_of_other_packages(given: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    # Packages can't be installed by a test, so what is installed is told.
    installed = EntryPoints([EntryPoint("acme", "acme:Acme", SMS_PROVIDER_GROUP)])
    monkeypatch.setattr(checks, "entry_points", installed.select)
    assert given(sms("providers = acme", "option.acme_key = x")).sms.default_providers == ("acme",)
