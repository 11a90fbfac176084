"""What can be said only of several keys together, or of the world around them.

The one rule: each check looks at one matter and reports it; none stops the others.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from identity_server.config.database_url import parse_url
from identity_server.config.problems import NOWHERE, Origin, Problem, Report
from identity_server.config.sections import Config, all_sections
from identity_server.config.values import SERVER_NAME, TlsMode
from identity_server.domain.homeserver_policy import HomeserverList, is_pattern
from identity_server.domain.identifiers import ServerName, split_server_name
from identity_server.domain.ports import SMS_PROVIDER_GROUP

_REPLICATION = (
    "this server doesn't do Sydent's replication. To run several servers on the same data, give them one PostgreSQL "
    "database (`db.url` in [db]); or set `replication.ignore = true` in [http] to start without"
)
_ATOM = r"[^\s@<>(){}\[\],;:\\\".]+"
_WORD = rf"{_ATOM}(?:\.{_ATOM})*"
_ADDRESS = rf"{_WORD}@(?:{_WORD}|\[[0-9A-Fa-f.:]+\])"
_SENDER = re.compile(rf'{_ADDRESS}|(?:"(?:[^"\\]|\\.)*"|[^<>"@,;:()\[\]\\]*)\s*<{_ADDRESS}>')
# What the providers of text messages that come with the server need, and the key with their URL.
_SMS_KEYS = {
    "openmarket": ("username", "password"),
    "twilio": ("twilio.account_sid", "twilio.auth_token"),
    "vonage": ("vonage.api_key", "vonage.api_secret", "vonage.from"),
    "webhook": ("webhook.url", "webhook.secret"),
    "log": (),
}
_SMS_URLS = {name: f"{name}.url" for name in ("openmarket", "twilio", "vonage", "webhook")}
# Sydent's own sources hold its templates here, and it writes these paths into files that never named them.
_SYDENT_RESOURCES = "res"


class Checker:
    """Checks one configuration.

    Args:
        config: every value read on its own.
        report: takes what is found.
        origin: tells where the value of a key (by section and name) comes from.
        hostname: gives the name of the machine.
    """

    def __init__(
        self, config: Config, *, report: Report, origin: Callable[[str, str], Origin], hostname: Callable[[], str]
    ) -> None:
        self._config = config
        self._report = report
        self._origin = origin
        self._hostname = hostname

    def check(self, *, peers: Iterable[Origin]) -> Config:
        """Check everything; returns the configuration with what follows from other keys filled in."""
        self._check_reach()
        self._fill_server_name()
        self._fill_sender()
        self._drop_sydents_own_templates()
        self._check_public_url()
        self._check_listeners()
        self._check_tls()
        self._check_replication(peers)
        self._check_mail()
        self._check_sms()
        self._check_sms_urls()
        self._check_keys()
        self._check_database()
        self._check_v1()
        self._check_homeservers()
        self._check_pairs()
        self._check_paths()
        self._check_extras()
        return self._config

    def _check_reach(self) -> None:
        """Stop at paths that can't even be looked for: every later check of a path is spared the question.

        Raises:
            ConfigError: there are some, most often in a folder that is closed to the server's user.
        """
        closed = False
        for section in all_sections():
            values = getattr(self._config, section.name)
            for attribute, key in section.keys.items():
                path = getattr(values, attribute)
                if isinstance(path, Path) and (obstacle := _obstacle(path)):
                    where = "there" if path.is_absolute() else f"for {path} in {Path.cwd()}"
                    self._error(section.name, key.name, f"this user can't look {where}: {obstacle}.")
                    closed = True
        if closed:
            self._report.raise_errors()

    # --- what follows from other keys -------------------------------------------------------

    def _fill_server_name(self) -> None:
        general = self._config.general
        if general.server_name:
            return
        name = self._hostname()
        try:
            SERVER_NAME.read(name)
        except ValueError:
            self._error("general", "server.name", "set it: the name of this machine can't be used instead.")
            return
        self._warn(
            "general",
            "server.name",
            f"not set, so the name of this machine is used: `{name}`. Everything signed bears it.",
        )
        self._config = replace(self._config, general=replace(general, server_name=name))

    def _fill_sender(self) -> None:
        host = self._config.mail_host
        if not host:
            return  # no server name, and that is reported
        sender = self._config.email.from_
        for placeholder in ("{hostname}", "{host}"):
            sender = sender.replace(placeholder, host)
        self._config = replace(self._config, email=replace(self._config.email, from_=sender))
        if not _is_one_sender(sender):
            # The text isn't repeated: an address doesn't belong into messages.
            self._error(
                "email", "email.from", "this must be one address, with or without a name: `Name <user@host>`."
            )

    def _drop_sydents_own_templates(self) -> None:
        """Where Sydent's own resources are named but don't exist, ours are meant."""
        config = self._config
        general, http, mail = config.general, config.http, config.email
        self._config = replace(
            config,
            general=replace(
                general, templates_path=self._template("general", "templates.path", general.templates_path)
            ),
            http=replace(
                http,
                verify_response_template=self._template(
                    "http", "verify_response_template", http.verify_response_template
                ),
            ),
            email=replace(
                mail,
                template=self._template("email", "email.template", mail.template),
                invite_template=self._template("email", "email.invite_template", mail.invite_template),
            ),
        )

    def _template(self, section: str, key: str, path: Path | None) -> Path | None:
        if path is None or path.exists():
            return path
        if _SYDENT_RESOURCES not in path.parts:
            self._error(section, key, "there is no such file or directory.")
            return path
        self._warn(section, key, "Sydent's own templates aren't here, so the ones of this server are used.")
        return None

    # --- where the server is ------------------------------------------------------------------

    def _check_public_url(self) -> None:
        base = self._config.http.client_http_base
        if not base:
            message = (
                f"not set, so links in mails begin with {self._config.public_base_url}: set it if that isn't right."
            )
            self._warn("http", "client_http_base", message)
        elif urlsplit(base).scheme == "http" and not _is_loopback(urlsplit(base).hostname or ""):
            self._warn("http", "client_http_base", "clients refuse identity servers that aren't reached by https.")

    def _check_listeners(self) -> None:
        general, http = self._config.general, self._config.http
        listeners = (
            ("http", "clientapi.http.port", http.clientapi_http_bind_address, http.clientapi_http_port),
            ("http", "internalapi.http.port", http.internalapi_http_bind_address, http.internalapi_http_port),
            ("general", "prometheus_port", general.prometheus_addr, general.prometheus_port),
        )
        seen: dict[tuple[str, int], str] = {}
        for section, key, address, port in listeners:
            if not port or not address:
                continue
            if (address, port) in seen:
                self._error(section, key, f"`{seen[address, port]}` listens on this port of {address} already.")
            seen[address, port] = key

    def _check_tls(self) -> None:
        http = self._config.http
        given = (http.clientapi_https_certfile, http.clientapi_https_keyfile)
        if any(given) and not all(given):
            missing, there = ("keyfile", "certfile") if http.clientapi_https_certfile else ("certfile", "keyfile")
            message = f"it needs `clientapi.https.{missing}`, too."
            self._error("http", f"clientapi.https.{there}", message)
        if not http.federation_verifycerts:
            message = "the certificates of homeservers aren't verified: anybody on the way can pose as any of them."
            self._warn("http", "federation.verifycerts", message)

    def _check_replication(self, peers: Iterable[Origin]) -> None:
        http = self._config.http
        found = [("replication.https.certfile", self._origin("http", "replication.https.certfile"))] * (
            http.replication_https_certfile is not None
        )
        found += [("[peer.NAME]", origin) for origin in peers]
        for name, origin in found:
            if http.replication_ignore:
                self._report.warn(Problem("ignored: nothing is replicated.", None, name, origin))
            else:
                self._report.error(Problem(f"{_REPLICATION}.", None, name, origin))

    # --- mail, keys, v1 -----------------------------------------------------------------------

    def _check_mail(self) -> None:
        mail = self._config.email
        if mail.transport == "console" and not self._config.http.is_on_loopback:
            message = (
                "`console` shows everyone's mail, links and all, on standard output. It is meant for trying things out, "
                "and refused unless `clientapi.http.bind_address` is a loopback address such as 127.0.0.1."
            )
            self._error("email", "email.transport", message)
        if mail.smtpusername and not mail.smtppassword:
            self._warn("email", "email.smtpusername", "there is no `email.smtppassword` to log in with.")
        if mail.smtpusername and mail.tlsmode is TlsMode.PLAIN and not _is_loopback(mail.smtphost):
            self._warn(
                "email", "email.tlsmode", "the password for the relay is sent unencrypted: use STARTTLS or TLS."
            )
        if mail.ratelimit_address_per_account_and_day >= mail.ratelimit_address_per_day:
            message = (
                "not less than `email.ratelimit_address.per_day`: one stranger can lock an address out for the day."
            )
            self._warn("email", "email.ratelimit_address.per_account_and_day", message)

    def _check_sms(self) -> None:
        sms = self._config.sms
        named = "providers" if sms.providers is not None else "provider.*"
        for name in sorted(sms.used_providers - _SMS_KEYS.keys()):
            if not any(entry_points(group=SMS_PROVIDER_GROUP, name=name)):
                self._error("sms", named, f"there is no provider `{name}`, and no installed package offers one.")
        for name, needed in _SMS_KEYS.items():
            given = [key for key in needed if getattr(sms, _attribute("sms", key)) is not None]
            if name not in sms.used_providers:
                if given and name != "openmarket":  # Sydent's keys alone have a check of their own
                    self._warn("sms", given[0], f"without effect: `providers` doesn't name `{name}`.")
                continue
            for key in needed:
                if key not in given:
                    self._error("sms", key, f"`{name}` is to send text messages, and needs it.")
        if "twilio" in sms.used_providers and not (sms.twilio_messaging_service_sid or sms.twilio_from):
            self._error("sms", "twilio.from", "`twilio` needs it, or `twilio.messaging_service_sid`.")
        if "log" in sms.used_providers and not self._config.http.is_on_loopback:
            message = (
                "`log` shows everyone's codes on standard output. It is meant for trying things out, and refused unless "
                "`clientapi.http.bind_address` is a loopback address such as 127.0.0.1."
            )
            self._error("sms", named, message)

    def _check_sms_urls(self) -> None:
        """Passwords and codes go to these."""
        sms = self._config.sms
        for name, url in _SMS_URLS.items():
            parts = urlsplit(getattr(sms, _attribute("sms", url)) or "")
            if name not in sms.used_providers or parts.scheme != "http" or _is_loopback(parts.hostname or ""):
                continue
            if name == "webhook":
                self._warn("sms", url, "numbers and codes are sent unencrypted: use https.")
            else:
                self._error("sms", url, "the password would be sent unencrypted: use https.")

    def _check_keys(self) -> None:
        crypto, db = self._config.crypto, self._config.db
        if crypto.at_rest_key and crypto.at_rest_passphrase:
            message = "there is `at_rest_key`, too: keep the one that the data is sealed with."
            self._error("crypto", "at_rest_passphrase", message)
        if crypto.at_rest_next_key and crypto.at_rest_next_passphrase:
            message = "there is `at_rest_next_key`, too: only one key can be the next."
            self._error("crypto", "at_rest_next_passphrase", message)
        if db.url is None and crypto.key_dir.resolve() == db.file.parent.resolve():
            # Whichever of the two was chosen by the operator is the one to name.
            section, key = ("crypto", "key_dir") if ("crypto", "key_dir") in self._config.given else ("db", "db.file")
            message = (
                f"the keys would lie in the directory of the database ({crypto.key_dir}), so that whoever copies the one "
                "gets the other: set `key_dir` in [crypto] to a directory of its own."
            )
            self._error(section, key, message)
        if db.url is None and db.file.is_dir():
            self._error("db", "db.file", "this is a directory: name a file.")

    def _check_database(self) -> None:
        """Who could read along, or answer in PostgreSQL's place."""
        db = self._config.db
        if db.url is None:
            if db.password:
                self._warn("db", "db.password", "without effect unless `db.url` is set.")
            return
        url = parse_url(db.url)
        hosts = [*([url.host] if url.host else []), *url.normalized_query.get("host", ())]
        is_near = all(host.startswith("/") or _is_loopback(host.rpartition(":")[0] or host) for host in hosts)
        if not is_near and db.ca_file is None and url.query.get("ssl") != "verify-full":
            message = (
                "nothing proves that it is your PostgreSQL that answers: add `?ssl=verify-full` to it, and set"
                " `db.ca_file` if its certificate is signed by an authority of your own."
            )
            self._warn("db", "db.url", message)

    def _check_v1(self) -> None:
        general, lookup = self._config.general, self._config.lookup
        if general.enable_v1_access:
            return
        if lookup.enable_v1:
            self._warn("lookup", "enable_v1", "without effect unless `enable_v1_access` in [general] is true.")
        if general.enable_v1_associations:
            message = "without effect unless `enable_v1_access` is true."
            self._warn("general", "enable_v1_associations", message)

    # --- lists of homeservers -------------------------------------------------------------------

    def _check_homeservers(self) -> None:
        general = self._config.general
        lists = {
            prefix: (
                getattr(general, _attribute("general", f"{prefix}_allow_list")),
                getattr(general, _attribute("general", f"{prefix}_deny_list")),
            )
            for prefix in ("homeserver", "homeserver_bind", "homeserver_lookup")
        }
        for prefix, (allowed, denied) in lists.items():
            self._check_contradictions(f"{prefix}_allow_list", allowed, f"{prefix}_deny_list", denied)
        all_allowed, all_denied = lists.pop("homeserver")
        everyone = HomeserverList(allowed=all_allowed, denied=all_denied)
        for prefix, (allowed, _) in lists.items():
            for name in allowed:
                if not is_pattern(name) and not everyone.admits(ServerName(name)):
                    message = f"`{name}` is without effect: users of it may not use this server at all."
                    self._warn("general", f"{prefix}_allow_list", message)
        self._check_own_homeserver(all_allowed)
        allowed, denied = lists["homeserver_lookup"]
        if (allowed or denied) and general.enable_v1_access and self._config.lookup.enable_v1:
            key = "homeserver_lookup_allow_list" if allowed else "homeserver_lookup_deny_list"
            message = "lookups on v1 (`enable_v1` in [lookup]) are anybody's, so this doesn't hold for them."
            self._warn("general", key, message)

    def _check_contradictions(
        self, allow_key: str, allowed: Iterable[str], deny_key: str, denied: Iterable[str]
    ) -> None:
        patterns, denying = frozenset(denied), HomeserverList(denied=tuple(denied))
        for name in allowed:
            if name in patterns or (not is_pattern(name) and not denying.admits(ServerName(name))):
                message = f"`{name}` is without effect: `{deny_key}` has it, too, and wins."
                self._warn("general", allow_key, message)

    def _check_own_homeserver(self, allowed: tuple[str, ...]) -> None:
        """The homeserver that this server is run for is most often of the same domain."""
        hosts = [split_server_name(name)[0] for name in (self._config.general.server_name, self._config.public_host)]
        domains = {".".join(host.lower().split(".")[-2:]) for host in hosts}
        named = sorted(domain for domain in domains if "." in domain and not domain[-1].isdigit())
        listed = [split_server_name(name)[0] for name in allowed]
        if named and listed and not any(_may_be_of(name, named) for name in listed):
            wanted = " or ".join(f"`{domain}`" for domain in named)
            message = f"no homeserver of {wanted} is in it: isn't there one of yours that this server is for?"
            self._warn("general", "homeserver_allow_list", message)

    def _check_pairs(self) -> None:
        general, sms = self._config.general, self._config.sms
        if (general.prometheus_port is None) != (general.prometheus_addr is None):
            key = "prometheus_addr" if general.prometheus_port is None else "prometheus_port"
            self._warn("general", key, "without effect: `prometheus_port` and `prometheus_addr` need each other.")
        if (sms.username is None) != (sms.password is None):
            key = "password" if sms.username is None else "username"
            self._warn("sms", key, "without effect: `username` and `password` need each other.")

    # --- paths, and what isn't there yet ----------------------------------------------------------

    def _check_paths(self) -> None:
        general, http = self._config.general, self._config.http
        if general.terms_path and not general.terms_path.exists():
            self._error("general", "terms.path", "there is no such file or directory.")
        if general.templates_path and general.templates_path.is_file():
            self._error("general", "templates.path", "this is a file: name the directory with the brands in it.")
        if general.log_path and not general.log_path.parent.is_dir():
            self._error("general", "log.path", "the directory of the log file doesn't exist: create it.")
        files = (
            ("http", "clientapi.https.certfile", http.clientapi_https_certfile),
            ("http", "clientapi.https.keyfile", http.clientapi_https_keyfile),
            ("http", "federation.ca_file", http.federation_ca_file),
            ("email", "email.smtp_ca_file", self._config.email.smtp_ca_file),
            ("sms", "ca_file", self._config.sms.ca_file),
            ("db", "db.ca_file", self._config.db.ca_file),
        )
        for section, key, path in files:
            if path is not None and not path.is_file():
                self._error(section, key, "there is no such file.")

    def _check_extras(self) -> None:
        """What is configured must be installed: it isn't with everybody."""
        general = self._config.general
        for key, value, module, extra in (
            ("sentry_dsn", general.sentry_dsn, "sentry_sdk", "sentry"),
            ("otlp_endpoint", general.otlp_endpoint, "opentelemetry.exporter.otlp.proto.http", "opentelemetry"),
        ):
            if value is not None and not _is_installed(module):
                message = (
                    f"it needs a package that isn't installed: `pip install 'matrix-identity-server[{extra}]'`, or leave"
                    " the key empty."
                )
                self._error("general", key, message)

    def _error(self, section: str, key: str, message: str) -> None:
        self._report.error(Problem(message, section, key, self._origin(section, key)))

    def _warn(self, section: str, key: str, message: str) -> None:
        origin = self._origin(section, key)
        self._report.warn(Problem(message, section, key, origin if (section, key) in self._config.given else NOWHERE))


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # what it is a part of isn't there either
        return False


def _obstacle(path: Path) -> str | None:
    """What keeps this user from seeing whether something is at a path."""
    try:
        path.exists()
    except OSError as error:
        return error.strerror
    return None


def _attribute(section: str, name: str) -> str:
    """The attribute that holds a key's value."""
    keys = next(each.keys for each in all_sections() if each.name == section)
    return next(attribute for attribute, key in keys.items() if key.name == name)


def _may_be_of(host: str, domains: Iterable[str]) -> bool:
    """Whether a name, or one that a pattern stands for, is in one of these domains."""
    return is_pattern(host.rpartition(".")[2]) or host.endswith(tuple(domains))


def _is_one_sender(text: str) -> bool:
    """Whether this is `user@host` or `Name <user@host>`; a name with special characters stands in quotes.

    (The standard library's parser takes almost anything, and stumbles over some of the rest.)
    """
    match = _SENDER.fullmatch(text)
    return bool(match) and text.isprintable()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
