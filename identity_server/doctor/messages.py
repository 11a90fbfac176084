"""Mail and texts: whether the relay lets us in, and, when asked for, whether one arrives."""

from __future__ import annotations

from collections.abc import Mapping

from identity_server.config import Config
from identity_server.doctor.findings import Finding, fault, fine, note, skipped
from identity_server.doctor.patient import Patient
from identity_server.domain.durations import DAY_MS
from identity_server.domain.ports import (
    DeliveryError,
    DeliveryPostponed,
    Mail,
    MailTransport,
    SmsTransport,
    TextMessage,
)
from identity_server.domain.random_values import message_id, opaque
from identity_server.outbound.mail import SmtpTransport
from identity_server.outbound.sms import ProviderProblem, build_sms_transport
from identity_server.rendering.faults import BrandingProblems
from identity_server.wiring.settings import load_templates, sms_settings
from identity_server.wiring.world import make_mail_transport, make_mails

_MAIL, _TEXTS = "mail", "texts"
_PASSING = "greylisting, or a limit of the relay: try again in some minutes, as the server does by itself"
_REFERENCE_BYTES = 12

# The first that fits is told. A 4xx is no fault of the set-up, and 530 is about the way in, not about the mail.
_ABOUT_MAIL = {
    "AUTH: 535": "the relay refuses the login: look at `email.smtpusername` and `email.smtppassword`",
    "AUTH": "the relay takes no login this way: look at `email.tlsmode`, and at what the relay offers",
    "certificate not trusted": "its certificate must be for `email.smtphost`; of your own authority: `email.smtp_ca_file`",
    "STARTTLS": "the relay offers no STARTTLS on this port: look at `email.tlsmode` and `email.smtpport`",
    "no TLS that both": "with `email.tlsmode = TLS` the port must speak TLS from the start (465, mostly); on 587: `STARTTLS`",
    "its name has no address": "correct `email.smtphost`, or mend the name servers in resolv.conf",
    "connect: no answer in time": "a firewall drops packets, or the port waits for TLS (465): `email.tlsmode = TLS`",
    "connect": "look at `email.smtphost` and `email.smtpport`, and whether the relay is up and reachable from here",
    "MAIL: 530": "the relay wants a login or TLS first: `email.smtpusername`, `email.tlsmode`",
    "MAIL: 4": _PASSING,
    "RCPT: 4": _PASSING,
    "MAIL": "the relay doesn't let you send as `email.from`",
    "RCPT": "the relay doesn't take mail for that address from here",
}
_UNREACHABLE = "have this machine reach the provider: look at its name servers, its routes and the firewall"
_ABOUT_TEXTS = dict.fromkeys(("no such host", "no connection", "in time"), _UNREACHABLE)


async def examine_mail(patient: Patient) -> list[Finding]:
    """Knock at the relay's door; send a mail if there is somebody to send it to."""
    config = patient.config
    try:
        transport = make_mail_transport(config, make_mails(config, patient.clock, load_templates(config)))
    except BrandingProblems:
        return [skipped(_MAIL, "the templates have to be mended first")]
    except OSError as error:
        return [fault(_MAIL, f"`email.smtp_ca_file` can't be used: {error.strerror}")]
    if not isinstance(transport, SmtpTransport):
        return [note(_MAIL, "mails are shown in the terminal, and none is sent", fix="set `email.transport = smtp`")]
    try:
        return await _visit_relay(patient, transport)
    finally:
        await transport.close()


async def _visit_relay(patient: Patient, transport: SmtpTransport) -> list[Finding]:
    config = patient.config
    relay = f"{config.email.smtphost} port {config.email.smtpport}"
    try:
        await transport.knock()
    except DeliveryPostponed as error:
        return [
            fault(
                _MAIL,
                f"{relay} doesn't let us in",
                cause=str(error),
                fix=_advice(_ABOUT_MAIL, error, "look at the relay's log"),
            )
        ]
    findings = [fine(_MAIL, f"{relay} lets us in")]
    if patient.questions.mail_to is None:
        return [*findings, skipped(_MAIL, "--mail-to ADDRESS sends a mail there")]
    return [*findings, await _send(patient, transport, patient.questions.mail_to)]


async def _send(patient: Patient, transport: MailTransport, address: str) -> Finding:
    config, now_ms = patient.config, patient.clock.now_ms()
    mail = Mail(
        template="verification",
        to=address,
        message_id=message_id(patient.randomness, config.mail_host),
        variables={
            "address": address,
            "user_id": f"@doctor:{config.general.server_name}",
            "token": "a-test",
            "confirm_url": f"{config.public_base_url}/_matrix/identity/confirm?token=a-test",
            "expires_at_ms": str(now_ms + DAY_MS),
            **_of_sydents_templates(config, address),
        },
    )
    try:
        await transport.send(mail)
    except DeliveryError as error:
        return fault(
            _MAIL,
            "the relay doesn't take a mail",
            cause=str(error),
            fix=_advice(_ABOUT_MAIL, error, "look at the relay's log"),
        )
    return fine(
        _MAIL,
        "the relay has taken a mail, as people get it to confirm an address; its link leads nowhere. See whether it"
        " arrives, and not among the spam",
    )


def _of_sydents_templates(config: Config, address: str) -> dict[str, str]:
    """What templates in Sydent's form may show."""
    return {"link": f"{config.public_base_url}/", "to": address, "from": config.email.from_}


async def examine_texts(patient: Patient) -> list[Finding]:
    """Send a text if there is somebody to send it to; nothing else shows whether the provider lets us in."""
    try:
        transport = build_sms_transport(sms_settings(patient.config), clock=patient.clock)
    except (ProviderProblem, OSError) as error:
        return [fault(_TEXTS, str(error), fix="correct [sms]; docs/sms.md")]
    if transport is None:
        return [note(_TEXTS, "no provider is configured, so no phone number can be confirmed")]
    try:
        return [await _text(patient, transport)]
    finally:
        await transport.close()


async def _text(patient: Patient, transport: SmsTransport) -> Finding:
    number = patient.questions.sms_to
    if number is None:
        return skipped(_TEXTS, "--sms-to NUMBER sends a text there, which costs what a text costs")
    message = TextMessage(
        to=number.msisdn,
        country_code=number.calling_code,
        body=f"A test by the identity server {patient.config.general.server_name}.",
        reference=opaque(patient.randomness, _REFERENCE_BYTES),
    )
    try:
        await transport.send(message)
    except DeliveryError as error:
        return fault(
            _TEXTS,
            "no provider takes a text",
            cause=str(error),
            fix=_advice(_ABOUT_TEXTS, error, "look at the credentials in [sms]"),
        )
    return fine(_TEXTS, "a provider has taken a text; see whether it arrives")


def _advice(advices: Mapping[str, str], error: DeliveryError, otherwise: str) -> str:
    text = str(error)
    return next((advice for words, advice in advices.items() if words in text), otherwise)
