"""Whose users are served: exact names, wildcards, ports, and a denial that always wins."""

from __future__ import annotations

import pytest

from identity_server.domain.errors import HomeserverDenied
from identity_server.domain.homeserver_policy import HomeserverList, HomeserverPolicy
from identity_server.domain.identifiers import ServerName, UserId, parse_server_name


def admits(name: str, *, allowed: str = "", denied: str = "") -> bool:
    homeservers = HomeserverList(allowed=allowed.split(), denied=denied.split())
    server_name = parse_server_name(name)
    verdict = homeservers.admits(server_name)
    assert homeservers.admits(server_name) is verdict, "what is remembered is what was decided"
    return verdict


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("example.org", "other.org example.org"),
        ("example.org:8448", "example.org:8448"),
        ("example.org:8448", "example.org:*"),
        ("a.example.org", "*.example.org"),
        ("a.b.example.org", "*.example.org"),
        ("hs1.example.org", "hs?.example.org"),
        ("anything.example:1", "*"),
        ("[2001:db8::1]:8448", "[2001:db8::1]:8448"),
        ("[2001:db8::1]", "[2001:db8:*]"),
        ("192.0.2.7", "192.0.2.*"),
    ],
)
def test_allowed(name: str, allowed: str) -> None:
    assert admits(name, allowed=allowed)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("example.org", "example.com"),
        ("example.org.evil.example", "example.org"),
        ("evil-example.org", "example.org"),
        ("evil-example.org", "*.example.org"),
        ("example.org", "*.example.org"),
        ("a.example.org.evil.example", "*.example.org"),
        ("exampleaorg", "example.org"),
        ("examplexorg", "example.o*g"),
        ("hs12.example.org", "hs?.example.org"),
        ("example.org:8448", "example.org"),
        ("example.org", "example.org:8448"),
        ("a.example.org:8448", "*.example.org"),
        ("a.example.org", "[abc].example.org*"),
    ],
)
def test_not_allowed(name: str, allowed: str) -> None:
    assert not admits(name, allowed=allowed)


@pytest.mark.parametrize(
    ("name", "denied"),
    [
        ("evil.example", "evil.example"),
        ("evil.example:8448", "evil.example"),
        ("a.evil.example:1234", "*.evil.example"),
        ("evil.example:8448", "evil.example:8448"),
        ("[2001:db8::1]:8448", "[*"),
    ],
)
def test_denied(name: str, denied: str) -> None:
    assert not admits(name, denied=denied)
    assert not admits(name, allowed=f"* {name} {denied}", denied=denied)


@pytest.mark.parametrize(
    ("name", "denied"), [("good.example", "evil.example"), ("evil.example", "evil.example:8448")]
)
def test_not_denied(name: str, denied: str) -> None:
    assert admits(name, denied=denied)


def test_everyone_without_a_list() -> None:
    assert admits("anybody.example:1")


def test_a_flood_of_names_takes_no_memory() -> None:
    homeservers = HomeserverList(denied=("evil.example",))
    for number in range(30_000):
        assert homeservers.admits(ServerName(f"hs{number}.example"))
    assert not homeservers.admits(ServerName("evil.example"))
    assert len(homeservers._verdicts) <= 10_000


def test_many_wildcards_are_decided_at_once() -> None:
    """A pattern that is tried in every way would not come to an end within a day."""
    name = ServerName("a" * 220)
    assert not HomeserverList(allowed=["*a" * 40 + "b"]).admits(name)


def test_binding_needs_both_lists() -> None:
    everyone, few = HomeserverList(), HomeserverList(allowed=["example.org"])
    for policy in (
        HomeserverPolicy(using=few, binding=everyone, looking_up=everyone),
        HomeserverPolicy(using=everyone, binding=few, looking_up=everyone),
    ):
        policy.require_binding(UserId("@a:example.org"))
        with pytest.raises(HomeserverDenied):
            policy.require_binding(UserId("@a:other.org"))
