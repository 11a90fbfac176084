"""From the text of a value to the value: one reader per kind of value.

The one rule: a reader refuses what it doesn't understand, and never guesses. What it says about a value
doesn't repeat it: only the caller knows whether the value is a secret.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar
from urllib.parse import urlsplit

from identity_server.config.database_url import parse_url
from identity_server.domain.association import Visibility
from identity_server.domain.errors import InvalidParameter
from identity_server.domain.identifiers import ServerName, parse_server_name, split_server_name
from identity_server.domain.signing import SigningKey

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

T = TypeVar("T")

MAX_PORT = 65535
MAX_WORKERS = 64
_DNS_PORT = 53
_ROOT_KEY_BYTES = 32
_MIN_PASSPHRASE = 12
_DATABASE_PARAMETERS = frozenset({"host", "port", "ssl", "passfile", "target_session_attrs"})
_LONG_AGO = 100 * 366
_TRUE = frozenset({"1", "yes", "true", "on"})
_FALSE = frozenset({"0", "no", "false", "off"})
_HOST = re.compile(r"[0-9A-Za-z_](?:[0-9A-Za-z_.-]{0,252}[0-9A-Za-z_])?")
# With a wildcard in it, any piece of a name will do.
_SERVER_PATTERN = re.compile(r"(?=.*[*?])[0-9a-z_.:\[\]*?-]{1,230}")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(?:-[0-9A-Za-z]{1,8})*")
_BRAND = re.compile(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,63}")
_HEADER = re.compile(r"[A-Za-z][0-9A-Za-z-]{0,63}")
_PREFIX = re.compile(r"default|[1-9][0-9]{0,3}")
_CALLING_CODE = re.compile(r"[1-9][0-9]{0,2}")
_PROVIDER = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TWILIO_ACCOUNT = re.compile(r"AC[0-9a-fA-F]{32}")
_TWILIO_KEY = re.compile(r"SK[0-9a-fA-F]{32}")
_TWILIO_SERVICE = re.compile(r"MG[0-9a-fA-F]{32}")
_WEBHOOK_SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with, not one of them
_MIN_WEBHOOK_SECRET_BYTES = 24


class Unreadable(ValueError):
    """A value that is not what its key expects. The message doesn't show the value."""


class TlsMode(StrEnum):
    """How the connection to the mail relay is protected."""

    PLAIN = "plain"
    STARTTLS = "starttls"
    TLS = "tls"


class SmsRule(StrEnum):
    """Whether numbers of a country are served."""

    ALLOW = "allow"
    REJECT = "reject"


class OriginatorKind(StrEnum):
    """What kind of sender an SMS shows."""

    LONG = "long"
    SHORT = "short"
    ALPHA = "alpha"


@dataclass(frozen=True, slots=True)
class Originator:
    """The sender that an SMS shows: a kind and its text."""

    kind: OriginatorKind
    text: str


@dataclass(frozen=True, slots=True)
class Reader(Generic[T]):
    """Reads one kind of value.

    Attributes:
        expects: what the value has to be, to finish the sentence "this must be ...".
        read: from the text (stripped) to the value; raises ValueError.
    """

    expects: str
    read: Callable[[str], T]


def optional(reader: Reader[T]) -> Reader[T | None]:
    """The same, where an empty value means that there is none."""
    return Reader(f"{reader.expects}, or empty", lambda text: reader.read(text) if text else None)


def whole(lowest: int, highest: int) -> Reader[int]:
    """A whole number between two bounds, both included."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not lowest <= int(text) <= highest:
            raise Unreadable
        return int(text)

    return Reader(f"a whole number from {lowest} to {highest}", read)


def choice(
    *allowed: str, folded: Callable[[str], str] = str.lower, also: Mapping[str, str] | None = None
) -> Reader[str]:
    """One of some words, in any case; `also` holds further spellings."""
    spellings = {word: word for word in allowed} | dict(also or {})

    def read(text: str) -> str:
        if folded(text) not in spellings:
            raise Unreadable
        return spellings[folded(text)]

    return Reader(" or ".join(f"`{word}`" for word in allowed), read)


def _items(text: str) -> list[str]:
    return [item.strip() for item in re.split(r"[,\n]", text) if item.strip()]


def listed(item: Reader[T]) -> Reader[tuple[T, ...]]:
    """A list, separated by commas or line ends; may be empty. Repeats are dropped."""
    return Reader(
        f"a list, separated by commas, each {item.expects}",
        lambda text: tuple(dict.fromkeys(item.read(each) for each in _items(text))),
    )


def _text(text: str) -> str:
    if not text:
        raise Unreadable("this must not be empty")
    return text


def _header_text(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise Unreadable("this must be one line")
    return _text(text)


def _general_boolean(text: str) -> bool:
    folded = text.lower()
    if folded in _TRUE - {"true"}:
        raise Unreadable("Sydent reads this as false here, though it looks like true: write `true` or `false`")
    if folded not in _FALSE | {"true"}:
        raise Unreadable
    return folded == "true"


def _boolean(text: str) -> bool:
    folded = text.lower()
    if folded not in _TRUE | _FALSE:
        raise Unreadable
    return folded in _TRUE


def _rate(text: str) -> float:
    numerator, slash, denominator = text.partition("/")
    try:
        rate = float(numerator) / (float(denominator) if slash else 1.0)
    except ZeroDivisionError:
        raise Unreadable from None
    # The upper bound also refuses infinity, the comparison also refuses what is no number (NaN).
    if not 0 < rate <= 1e6:  # noqa: PLR2004 - a bound far above any use
        raise Unreadable
    return rate


def _server_name(text: str) -> str:
    """Keeps the case: signatures stand under exactly this name."""
    if not text:
        return ""
    _homeserver(text)
    return text


def _homeserver(text: str) -> ServerName:
    try:
        return parse_server_name(text)
    except InvalidParameter:
        raise Unreadable from None


def _server_pattern(text: str) -> str:
    pattern = text.lower()
    return pattern if _SERVER_PATTERN.fullmatch(pattern) else _homeserver(pattern)


def _alias(text: str) -> str:
    name, slash, path = text.partition("/")
    if not path.isprintable():
        raise Unreadable
    return f"{_homeserver(name)}{slash}{path}"


def _network(text: str) -> Network:
    return ipaddress.ip_network(text, strict=False)


def _nameserver(text: str) -> tuple[str, int]:
    try:
        return str(ipaddress.ip_address(text)), _DNS_PORT
    except ValueError:
        host, port = split_server_name(_homeserver(text))
        return str(ipaddress.ip_address(host.strip("[]"))), _DNS_PORT if port is None else port


def _bind_address(text: str) -> str:
    """Empty means every IPv4 address, as it does for Sydent."""
    if not text:
        return "0.0.0.0"  # noqa: S104 - what the operator asked for
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return _host(text)
    return text


def _host(text: str) -> str:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        if not _HOST.fullmatch(text):
            raise Unreadable from None
    return text


def _base_url(text: str) -> str:
    """Without a slash at its end; empty if there is none."""
    if not text:
        return ""
    return _web_url(text).rstrip("/")


def _web_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        raise Unreadable from None
    if not valid or not text.isascii() or not text.isprintable() or " " in text:
        raise Unreadable
    if parts.username is not None or "?" in text or "#" in text:
        raise Unreadable("this must be an http or https URL without user, query and fragment")
    return text


def _dsn(text: str) -> str:
    parts = urlsplit(text)
    project = parts.path.rpartition("/")[2]
    if parts.scheme not in {"http", "https"} or not parts.hostname or not parts.username or not project.isdigit():
        raise Unreadable
    return text


def _share(text: str) -> float:
    if not re.fullmatch(r"[01](\.[0-9]{1,6})?", text) or float(text) > 1:
        raise Unreadable
    return float(text)


def _database_url(text: str) -> str:
    try:
        url = parse_url(text)
    except ValueError:
        raise Unreadable from None
    if url.drivername in {"postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2"}:
        raise Unreadable("write `postgresql+asyncpg://` at its beginning: that is the driver which this server uses")
    if url.drivername != "postgresql+asyncpg":
        raise Unreadable
    for name in url.query.keys() - _DATABASE_PARAMETERS:
        if name == "sslmode":
            raise Unreadable("write `ssl=` in it instead of `sslmode=`; the words after it are the same")
        raise Unreadable(f"`{name}` isn't among the parameters that it may have after `?`")
    return text


def _tls_mode(text: str) -> TlsMode:
    modes = {
        **dict.fromkeys(("0", "", "none", "plain"), TlsMode.PLAIN),
        **dict.fromkeys(("tls", "ssl"), TlsMode.TLS),
        "starttls": TlsMode.STARTTLS,
    }
    if text.lower() not in modes:
        raise Unreadable
    return modes[text.lower()]


def _body_template(text: str) -> str:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError:
        raise Unreadable from None
    if not fields or set(fields) != {"token"}:
        raise Unreadable
    return text


def _originators(text: str) -> tuple[Originator, ...]:
    originators = []
    for item in _items(text):
        kind, colon, name = item.partition(":")
        if not colon or not name.strip() or kind.strip().lower() not in set(OriginatorKind):
            raise Unreadable
        originators.append(Originator(OriginatorKind(kind.strip().lower()), name.strip()))
    if not originators:
        raise Unreadable
    return tuple(originators)


def _provider(text: str) -> str:
    if not _PROVIDER.fullmatch(text):
        raise Unreadable
    return text


def _providers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(_provider(item) for item in _items(text)))
    if not names:
        raise Unreadable
    return names


def _webhook_secret(text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(_WEBHOOK_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable from None
    if len(key) < _MIN_WEBHOOK_SECRET_BYTES:
        raise Unreadable
    return key


def _signing_key(text: str) -> str:
    # Only the form is checked here; the text is kept, and is read again with the server's name.
    SigningKey.parse(text, server_name="unused")
    return text


def decode_root_key(text: str) -> bytes:
    """The 32 bytes of a root key, written in either base64 alphabet, padded or not.

    Raises:
        ValueError: it isn't one. The text is not repeated: it is a secret.
    """
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/").rstrip("=") + "=", validate=True)
    except (binascii.Error, ValueError):
        raise Unreadable from None
    if len(key) != _ROOT_KEY_BYTES:
        raise Unreadable
    return key


def _root_key(text: str) -> str:
    decode_root_key(text)
    return text


def _passphrase(text: str) -> str:
    if len(text) < _MIN_PASSPHRASE:
        raise Unreadable
    return text


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not pattern.fullmatch(text):
            raise Unreadable
        return text

    return read


def _domain(text: str) -> str:
    if not _HOST.fullmatch(text):
        raise Unreadable
    return text.lower()


def _domain_whitelist(text: str) -> tuple[str, ...]:
    if text.lower() == "none":
        return ()
    return tuple(dict.fromkeys(_domain(item) for item in _items(text)))


def _algorithms(text: str) -> tuple[str, ...]:
    algorithms = tuple(dict.fromkeys(item.lower() for item in _items(text)))
    if not algorithms or not set(algorithms) <= {"sha256", "none"}:
        raise Unreadable
    return algorithms


TEXT: Reader[str] = Reader("some text", _text)
LINE: Reader[str] = Reader("one line of text", _header_text)
FREE_TEXT: Reader[str] = Reader("text, or empty", str)
PATH: Reader[Path] = Reader("a path", lambda text: Path(_header_text(text)))
GENERAL_BOOLEAN: Reader[bool] = Reader("`true` or `false`", _general_boolean)
BOOLEAN: Reader[bool] = Reader("a boolean (`true` or `false`, `yes` or `no`, `on` or `off`, `1` or `0`)", _boolean)
PORT = whole(0, MAX_PORT)
WORKERS = whole(1, MAX_WORKERS)
COUNT = whole(0, 1_000_000)
POSITIVE = whole(1, 1_000_000)
DAYS = whole(1, _LONG_AGO)
GRACE_DAYS = whole(14, _LONG_AGO)
MONTHS = whole(1, 1200)
VISIBILITY: Reader[Visibility] = Reader(
    " or ".join(f"`{each}`" for each in Visibility), lambda text: Visibility(text.lower())
)
RATE: Reader[float] = Reader("a rate per second above 0, such as `0.5` or `1/300`", _rate)
SERVER_NAME: Reader[str] = Reader("a server name: a host with an optional port", _server_name)
HOMESERVER: Reader[ServerName] = Reader("a server name", _homeserver)
SERVER_PATTERN: Reader[str] = Reader(
    "a server name, in which `*` stands for any characters and `?` for one", _server_pattern
)
ALIAS: Reader[str] = Reader("a server name with an optional path", _alias)
NETWORK: Reader[Network] = Reader("an IP network such as `10.0.0.0/8`", _network)
NAMESERVER: Reader[tuple[str, int]] = Reader(
    "an IP address, with an optional port (`192.0.2.53:5353`, `[2001:db8::53]:5353`)", _nameserver
)
BIND_ADDRESS: Reader[str] = Reader("an IP address or a host name", _bind_address)
HOST: Reader[str] = Reader("a host name or an IP address", _host)
BASE_URL: Reader[str] = Reader("an http or https URL, or empty", _base_url)
WEB_URL: Reader[str] = Reader("an http or https URL", _web_url)
DSN: Reader[str] = Reader("an http or https URL with a key and the number of a project", _dsn)
SHARE: Reader[float] = Reader("a number from 0 to 1", _share)
DATABASE_URL: Reader[str] = Reader("a URL that begins with `postgresql+asyncpg://`", _database_url)
TLS_MODE: Reader[TlsMode] = Reader("`0` (plain), `STARTTLS` or `TLS` (also written `SSL`)", _tls_mode)
LOG_LEVEL = choice(
    *("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
    folded=str.upper,
    also={"WARN": "WARNING", "FATAL": "CRITICAL"},
)
LANGUAGE: Reader[str] = Reader("a language tag such as `en`", _matching(_LANGUAGE))
HEADER: Reader[str] = Reader("the name of a header", _matching(_HEADER))
BRAND: Reader[str] = Reader("the name of a brand's directory", _matching(_BRAND))
BODY_TEMPLATE: Reader[str] = Reader("text with `{token}` in it and no other braces", _body_template)
ORIGINATORS: Reader[tuple[Originator, ...]] = Reader(
    "a list, separated by commas, each `long:`, `short:` or `alpha:` with a sender", _originators
)
SMS_RULE: Reader[SmsRule] = Reader("`allow` or `reject`", lambda text: SmsRule(text.lower()))
SIGNING_KEY: Reader[str] = Reader(
    "`ed25519 VERSION SEED` (the seed in base64), or Sydent's old hex seed", _signing_key
)
ROOT_KEY: Reader[str] = Reader("32 bytes in base64", _root_key)
PASSPHRASE: Reader[str] = Reader(f"a passphrase of at least {_MIN_PASSPHRASE} characters", _passphrase)
DOMAIN_WHITELIST: Reader[tuple[str, ...]] = Reader(
    "a list of host names, separated by commas, or `none`", _domain_whitelist
)
ALGORITHMS: Reader[tuple[str, ...]] = Reader("`sha256`, `none` or both, separated by a comma", _algorithms)
LINES: Reader[tuple[str, ...]] = Reader(
    "a list, one item per line", lambda text: tuple(line.strip() for line in text.splitlines() if line.strip())
)
CALLING_CODE: Reader[str] = Reader("a country calling code such as `44`", _matching(_CALLING_CODE))
PROVIDERS: Reader[tuple[str, ...]] = Reader("a list of names of providers, separated by commas", _providers)
OPTION_NAME: Reader[str] = Reader("a name in small letters, digits and `_`", _matching(_OPTION))
TWILIO_ACCOUNT: Reader[str] = Reader("`AC` and 32 hexadecimal digits", _matching(_TWILIO_ACCOUNT))
TWILIO_KEY: Reader[str] = Reader("`SK` and 32 hexadecimal digits", _matching(_TWILIO_KEY))
TWILIO_SERVICE: Reader[str] = Reader("`MG` and 32 hexadecimal digits", _matching(_TWILIO_SERVICE))
WEBHOOK_SECRET: Reader[bytes] = Reader(
    f"at least {_MIN_WEBHOOK_SECRET_BYTES} bytes in base64, with or without `{_WEBHOOK_SECRET_PREFIX}` before them",
    _webhook_secret,
)
COUNTRY_PREFIX: Reader[str] = Reader("a country calling code such as `44`", _matching(_PREFIX))
