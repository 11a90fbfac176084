from __future__ import annotations

import base64
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity_server.config import Originator, OriginatorKind, TlsMode, all_sections, decode_root_key, values
from identity_server.config.keys import Key
from identity_server.config.values import Reader
from tests.support.properties import examples

SEED = base64.b64encode(bytes(range(32))).decode().rstrip("=")

KEYS = [
    pytest.param(key, id=f"{section.name}-{key.name}") for section in all_sections() for key in section.keys.values()
]


@pytest.mark.parametrize(
    ("reader", "text", "value"),
    [
        (values.GENERAL_BOOLEAN, "True", True),
        (values.GENERAL_BOOLEAN, "no", False),
        (values.GENERAL_BOOLEAN, "0", False),
        (values.BOOLEAN, "Yes", True),
        (values.BOOLEAN, "1", True),
        (values.BOOLEAN, "off", False),
        (values.PORT, "0", 0),
        (values.PORT, "65535", 65535),
        (values.RATE, "0.5", 0.5),
        (values.SHARE, "0.25", 0.25),
        (values.SHARE, "1", 1.0),
        (values.RATE, "1/300", 1 / 300),
        (values.SERVER_NAME, "Matrix.Example.org:8448", "Matrix.Example.org:8448"),
        (values.listed(values.HOMESERVER), "Example.ORG,\n [::1]:80,, example.org", ("example.org", "[::1]:80")),
        (values.ALIAS, "ID.example/Some/Path", "id.example/Some/Path"),
        (values.listed(values.NETWORK), "10.0.0.1/8, ::1", (ip_network("10.0.0.0/8"), ip_network("::1/128"))),
        (values.NAMESERVER, "192.0.2.53", ("192.0.2.53", 53)),
        (values.NAMESERVER, "192.0.2.53:5353", ("192.0.2.53", 5353)),
        (values.NAMESERVER, "2001:DB8::53", ("2001:db8::53", 53)),
        (values.NAMESERVER, "[2001:db8::53]:5353", ("2001:db8::53", 5353)),
        (values.BIND_ADDRESS, "", "0.0.0.0"),
        (values.BIND_ADDRESS, "fe80::1%eth0", "fe80::1%eth0"),
        (values.BIND_ADDRESS, "localhost", "localhost"),
        (values.BASE_URL, "https://id.example.org/base//", "https://id.example.org/base"),
        (values.BASE_URL, "", ""),
        (values.DATABASE_URL, "postgresql+asyncpg://u:p%40@h/db", "postgresql+asyncpg://u:p%40@h/db"),
        (values.TLS_MODE, "0", TlsMode.PLAIN),
        (values.TLS_MODE, "", TlsMode.PLAIN),
        (values.TLS_MODE, "starttls", TlsMode.STARTTLS),
        (values.TLS_MODE, "SSL", TlsMode.TLS),
        (values.TLS_MODE, "TLS", TlsMode.TLS),
        (values.LOG_LEVEL, "warn", "WARNING"),
        (values.LOG_LEVEL, "debug", "DEBUG"),
        (values.BODY_TEMPLATE, "{token} is yours", "{token} is yours"),
        (
            values.ORIGINATORS,
            "long:447700900000, alpha:Matrix",
            (Originator(OriginatorKind.LONG, "447700900000"), Originator(OriginatorKind.ALPHA, "Matrix")),
        ),
        (values.SIGNING_KEY, f"ed25519 a_b {SEED}", f"ed25519 a_b {SEED}"),
        (values.SIGNING_KEY, "ab" * 32, "ab" * 32),
        (values.ROOT_KEY, f"{SEED}=", f"{SEED}="),
        (values.DOMAIN_WHITELIST, "none", ()),
        (values.DOMAIN_WHITELIST, "App.example, b.example", ("app.example", "b.example")),
        (values.ALGORITHMS, "sha256, none", ("sha256", "none")),
        (values.LINES, "one\n\n two words ", ("one", "two words")),
        (values.optional(values.PATH), "", None),
        (values.optional(values.PATH), "a/b", Path("a/b")),
    ],
)
def test_reads(reader: Reader[Any], text: str, value: object) -> None:
    read = reader.read(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("reader", "text"),
    [
        (values.GENERAL_BOOLEAN, "yes"),
        (values.GENERAL_BOOLEAN, ""),
        (values.GENERAL_BOOLEAN, "maybe"),
        (values.BOOLEAN, "2"),
        (values.BOOLEAN, ""),
        (values.PORT, "65536"),
        (values.PORT, "-1"),
        (values.PORT, "1_0"),
        (values.PORT, "\u0663"),
        (values.PORT, "8090.0"),
        (values.RATE, "0"),
        (values.RATE, "1/0"),
        (values.RATE, "nan"),
        (values.RATE, "inf"),
        (values.RATE, "fast"),
        (values.SERVER_NAME, "https://example.org"),
        (values.SERVER_NAME, "a b"),
        (values.SERVER_NAME, "example.org:0"),
        (values.listed(values.HOMESERVER), "a.example, *.example"),
        (values.NETWORK, "10.0.0.0/33"),
        (values.NETWORK, "private"),
        (values.NAMESERVER, "ns.example.org"),
        (values.NAMESERVER, "192.0.2.53:0"),
        (values.NAMESERVER, "192.0.2.53:"),
        (values.NAMESERVER, "2001:db8::53:5353:0:0:0:0:0"),
        (values.BIND_ADDRESS, "not an address"),
        (values.HOST, "relay:25"),
        (values.BASE_URL, "id.example.org"),
        (values.BASE_URL, "ftp://id.example.org"),
        (values.BASE_URL, "https://id.example.org/?a=b"),
        (values.BASE_URL, "https://id.example.org/#top"),
        (values.BASE_URL, "https://user@id.example.org"),
        (values.BASE_URL, "https://id.example.org:port"),
        (values.BASE_URL, "https://"),
        (values.BASE_URL, "https://id.example.org/a b"),
        (values.DATABASE_URL, "postgresql://u:p@h/db"),
        (values.DATABASE_URL, "sqlite:///x"),
        (values.DATABASE_URL, "no url"),
        (values.TLS_MODE, "yes"),
        (values.LOG_LEVEL, "LOUD"),
        (values.LANGUAGE, "english please"),
        (values.BRAND, "../etc"),
        (values.HEADER, "X-Request-ID: x"),
        (values.BODY_TEMPLATE, "no code"),
        (values.BODY_TEMPLATE, "{token} {password}"),
        (values.BODY_TEMPLATE, "{token"),
        (values.ORIGINATORS, ""),
        (values.ORIGINATORS, "Matrix"),
        (values.ORIGINATORS, "loud:Matrix"),
        (values.SMS_RULE, "perhaps"),
        (values.SIGNING_KEY, "ed25519 0 short"),
        (values.SIGNING_KEY, "ab" * 31),
        (values.ROOT_KEY, SEED[:-2]),
        (values.ROOT_KEY, "!" * 43),
        (values.PASSPHRASE, "too short"),
        (values.ALGORITHMS, ""),
        (values.ALGORITHMS, "sha256, md5"),
        (values.LINE, "two\nlines"),
        (values.DSN, "sentry"),
        (values.DSN, "https://sentry.example.org/1"),
        (values.DSN, "https://key@sentry.example.org/project"),
        (values.SHARE, "1.5"),
        (values.SHARE, "50%"),
    ],
)
def test_refuses(reader: Reader[Any], text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - some are raised by libraries, in their words
        reader.read(text)


def test_says_what_is_wrong_with_booleans_that_sydent_misreads() -> None:
    with pytest.raises(values.Unreadable, match="Sydent reads this as false"):
        values.GENERAL_BOOLEAN.read("yes")


def test_tells_how_to_write_the_database_url_without_showing_it() -> None:
    with pytest.raises(values.Unreadable, match=r"postgresql\+asyncpg://") as caught:
        values.DATABASE_URL.read("postgres://u:hunter2@h/db")
    assert "hunter2" not in str(caught.value)


def test_decodes_the_root_key_in_both_alphabets() -> None:
    key = b"\xfb\xff" * 16
    assert decode_root_key(base64.b64encode(key).decode()) == key
    assert decode_root_key(base64.urlsafe_b64encode(key).decode().rstrip("=")) == key


@pytest.mark.parametrize("key", KEYS)
def test_every_default_can_be_read(key: Key) -> None:
    key.reader.read(key.default)
    assert key.doc
    assert key.reader.expects


@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=examples(30), derandomize=True, database=None)
@given(text=st.one_of(st.text(max_size=40), st.text(alphabet="0123456789abc:/[]{}%@.,= \n-+", max_size=40)))
def test_no_text_makes_a_reader_stumble(key: Key, text: str) -> None:
    said = ""
    try:
        key.reader.read(text.strip())
    except values.Unreadable as error:
        said = str(error)
    except ValueError:
        pass
    # What a reader says about a value is shown even if the value is a secret.
    assert not key.secret or len(text.strip()) < 4 or text.strip() not in said
