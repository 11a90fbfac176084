"""Order, fallback, countries; building from settings; providers of other packages."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import structlog.testing

from identity_server.domain.ports import (
    SMS_PROVIDER_GROUP,
    DeliveryError,
    DeliveryPostponed,
    DeliveryRefused,
    DeliveryUnknown,
    SmsTransport,
    TextMessage,
)
from identity_server.metrics.table import DELIVERY_OUTCOMES
from identity_server.outbound.sms import (
    BUILT_IN_PROVIDERS,
    AccountProblem,
    OpenMarketAccount,
    ProviderProblem,
    ProviderTools,
    SmsRouter,
    SmsSettings,
    TwilioAccount,
    VonageAccount,
    Webhook,
    build,
    build_sms_transport,
)
from tests.outbound_sms.kit import CODE, MESSAGE, FixedClock, Vendor, failure_of


class Provider:
    """Does what it is told, and remembers what it was given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.got: list[TextMessage] = []

    async def send(self, message: TextMessage) -> None:
        self.got.append(message)
        if self.error is not None:
            raise self.error


async def nothing() -> None:
    pass


def router(*providers: Provider, **by_country: tuple[str, ...]) -> SmsRouter:
    named: dict[str, SmsTransport] = {str(number): provider for number, provider in enumerate(providers)}
    countries = {code.removeprefix("c"): order for code, order in by_country.items()}
    return SmsRouter(providers=named, default=tuple(named), by_country=countries, close=nothing)


def postponed(seconds: int | None = None) -> DeliveryPostponed:
    return DeliveryPostponed("x: 429", retry_after_seconds=seconds)


async def test_the_first_that_takes_it_ends_the_matter() -> None:
    providers = [Provider(DeliveryRefused("a: 400")), Provider(postponed()), Provider(), Provider()]
    await router(*providers).send(MESSAGE)
    assert [len(provider.got) for provider in providers] == [1, 1, 1, 0]
    assert providers[2].got == [MESSAGE]


async def test_what_each_provider_says_is_counted() -> None:
    answers: dict[str, Exception | None] = {
        "refuses": DeliveryRefused("a: 400"),
        "postpones": postponed(),
        "minds us": AccountProblem("b: 401"),
        "breaks": KeyError(),
        "takes": None,
    }
    counted: list[tuple[str, str]] = []
    transport = SmsRouter(
        providers={name: Provider(answer) for name, answer in answers.items()},
        default=("refuses", "postpones", "minds us", "takes"),
        by_country={"49": ("breaks",)},
        close=nothing,
        count=lambda provider, outcome: counted.append((provider, outcome)),
    )
    await transport.send(MESSAGE)
    with pytest.raises(DeliveryUnknown):
        await transport.send(dataclasses.replace(MESSAGE, country_code="49"))
    assert dict(counted) == {
        "refuses": "refused",
        "postpones": "postponed",
        "minds us": "account_problem",
        "takes": "taken",
        "breaks": "unknown",
    }
    assert {outcome for _, outcome in counted} == set(DELIVERY_OUTCOMES)


async def test_what_may_have_been_sent_goes_to_nobody_else() -> None:
    first, second = Provider(DeliveryUnknown("a: 500")), Provider()
    error = await failure_of(router(first, second))
    assert isinstance(error, DeliveryUnknown)
    assert second.got == []


@pytest.mark.parametrize(
    ("errors", "outcome", "seconds"),
    [
        ([DeliveryRefused("a: 400"), DeliveryRefused("b: 400")], DeliveryRefused, None),
        ([DeliveryRefused("a: 400"), postponed(60)], DeliveryPostponed, 60),
        ([postponed(60), DeliveryRefused("b: 400")], DeliveryPostponed, 60),
        ([postponed(60), postponed(5)], DeliveryPostponed, 5),
        ([postponed(60), postponed()], DeliveryPostponed, None),
        ([AccountProblem("a: 401"), DeliveryRefused("b: 400")], DeliveryPostponed, None),
    ],
)
async def test_when_nobody_takes_it(
    errors: list[DeliveryError], outcome: type[DeliveryError], seconds: int | None
) -> None:
    error = await failure_of(router(*map(Provider, errors)))
    assert type(error) is outcome
    assert str(error) == f"{errors[0]}; {errors[1]}"
    assert getattr(error, "retry_after_seconds", None) == seconds


async def test_a_provider_that_breaks_down_may_have_sent_it() -> None:
    first, second = Provider(RuntimeError(f"quoted by the vendor: {CODE}")), Provider()
    error = await failure_of(router(first, second))
    assert isinstance(error, DeliveryUnknown)
    assert str(error) == "0: broke down (RuntimeError)"
    assert second.got == []


async def test_countries_have_orders_of_their_own() -> None:
    first, second = Provider(), Provider()
    routes = router(first, second, c33=("1",), c1=())
    for country_code, to in (("44", "447700900123"), ("33", "33199001234")):
        await routes.send(dataclasses.replace(MESSAGE, to=to, country_code=country_code))
    assert [got.country_code for got in first.got] == ["44"]
    assert [got.country_code for got in second.got] == ["33"]
    error = await failure_of(routes, dataclasses.replace(MESSAGE, to="15005550006", country_code="1"))
    assert isinstance(error, DeliveryRefused)


async def test_what_is_logged() -> None:
    with structlog.testing.capture_logs() as logs:
        await router(Provider(AccountProblem("a: 401")), Provider(postponed()), Provider()).send(MESSAGE)
    assert [(each["log_level"], each["event"], each["provider"]) for each in logs] == [
        ("error", "sms.account_problem", "0"),
        ("warning", "sms.postponed", "1"),
        ("info", "sms.taken", "2"),
    ]
    assert MESSAGE.to not in str(logs)
    assert CODE not in str(logs)


# --- building -----------------------------------------------------------------------------


def built(settings: SmsSettings, stream: io.StringIO | None = None) -> SmsRouter:
    transport = build_sms_transport(settings, clock=FixedClock(), stream=stream)
    assert transport is not None
    return transport


def test_nothing_configured_is_nothing() -> None:
    assert build_sms_transport(SmsSettings(), clock=FixedClock()) is None


async def test_fallback_between_real_vendors(vendor: Vendor, ca_file: Path) -> None:
    """OpenMarket is unreachable, Twilio refuses the login, Vonage takes the message."""
    answers = {"/v1/messages": 202, f"/2010-04-01/Accounts/AC{'0' * 32}/Messages.json": 401}

    async def reply(request: object) -> object:
        vendor.answers(answers[vendor.seen[-1].path], {})
        prepared, vendor.reply = vendor.reply, reply  # type: ignore[assignment] # the same shape, told loosely
        return await prepared(request)  # type: ignore[arg-type] # the same shape, told loosely

    vendor.reply = reply  # type: ignore[assignment] # the same shape, told loosely
    transport = built(
        SmsSettings(
            providers=("openmarket", "twilio", "vonage", "webhook"),
            openmarket=OpenMarketAccount("https://localhost:1/", "u", "p"),
            twilio=TwilioAccount(vendor.base, "AC" + "0" * 32, "t", sender="Matrix"),
            vonage=VonageAccount(f"{vendor.base}/v1/messages", "k", "Matrix", "s"),
            webhook=Webhook(f"{vendor.base}/sms", bytes(32)),
            ca_file=ca_file,
        )
    )
    await transport.send(MESSAGE)
    await transport.close()
    assert [seen.path for seen in vendor.seen] == list(reversed(answers))


async def test_the_terminal_for_one_country() -> None:
    stream = io.StringIO()
    transport = built(SmsSettings(by_country={"44": ("log",)}), stream)
    await transport.send(MESSAGE)
    await transport.close()
    assert MESSAGE.body in stream.getvalue()


@pytest.mark.parametrize("name", sorted(set(BUILT_IN_PROVIDERS) - {"log"}))
def test_a_provider_without_an_account(name: str) -> None:
    with pytest.raises(ProviderProblem, match=f"`{name}` has no account"):
        built(SmsSettings(providers=(name,)))


# --- providers of other packages ----------------------------------------------------------


class Acme(Provider):
    def __init__(self, tools: ProviderTools) -> None:
        super().__init__()
        if "acme_key" not in tools.options:
            raise ValueError("set option.acme_key")
        self.tools = tools


def broken(tools: ProviderTools) -> SmsTransport:
    raise KeyError(tools.options["acme_key"])


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Packages can't be installed by a test, so what is installed is told."""

    def install(**providers: str) -> None:
        points = EntryPoints(
            EntryPoint(name.rstrip("_"), f"{__name__}:{value}", SMS_PROVIDER_GROUP)
            for name, value in providers.items()
        )
        monkeypatch.setattr(build, "entry_points", points.select)

    return install


async def test_a_provider_of_another_package(install: Install) -> None:
    install(acme="Acme", other="broken")
    transport = built(SmsSettings(providers=("acme",), options={"acme_key": "s3cret"}))
    await transport.send(MESSAGE)
    await transport.close()
    (provider,) = transport._providers.values()
    assert isinstance(provider, Acme)
    assert provider.got == [MESSAGE]
    assert "s3cret" not in repr(provider.tools)


@pytest.mark.parametrize(
    ("name", "options", "problem"),
    [
        ("acme", {}, "`acme` can't be used: set option.acme_key"),
        ("broken", {"acme_key": "s3cret"}, "`broken` fails to start: KeyError"),
        ("missing", {}, "`missing` fails to start: AttributeError"),
        ("twice", {}, "several installed packages offer a provider `twice`"),
        ("nobody", {}, "no installed package offers one"),
    ],
)
def test_providers_that_cannot_be_used(install: Install, name: str, options: dict[str, str], problem: str) -> None:
    install(acme="Acme", broken="broken", missing="there_is_no_such", twice="Acme", twice_="Acme")
    with pytest.raises(ProviderProblem, match=problem) as caught:
        built(SmsSettings(providers=(name,), options=options))
    assert "s3cret" not in str(caught.value)


def test_no_package_takes_the_name_of_ours(install: Install) -> None:
    install(openmarket="Acme")
    with pytest.raises(ProviderProblem, match="has no account"):
        built(SmsSettings(providers=("openmarket",), options={"acme_key": "x"}))
