"""What several lock files pin, they pin alike: so the tests run on what is installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
_PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def pins(name: str) -> set[tuple[str, str]]:
    return set(_PIN.findall((REPOSITORY / f"{name}.lock").read_text()))


@pytest.mark.parametrize("name", ["requirements", "requirements-demo", "requirements-reporting"])
def test_what_is_installed_is_what_was_tested(name: str) -> None:
    assert pins(name)
    assert pins(name) <= pins("requirements-dev")


@pytest.mark.parametrize("name", ["requirements-demo", "requirements-reporting"])
def test_an_extra_leaves_the_rest_as_it_is(name: str) -> None:
    assert pins("requirements") <= pins(name)
