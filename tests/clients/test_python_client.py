"""A client in Python that is generated from the API's document, typed throughout, against the live server."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_operations import POLICY
from tests.support.harness import ALICE, BOB, running

_REPOSITORY = Path(__file__).parents[2]
_TOOLS = _REPOSITORY / ".venv-client" / "bin"
_STORY = Path(__file__).with_name("story.py")


def checked(*command: str | Path, **environment: str) -> str:
    """What a command says; whatever it complains of fails the test."""
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated client."""
    folder = tmp_path_factory.mktemp("client") / "generated"
    checked(_REPOSITORY / "contrib/python-client/generate", folder)
    return folder


def test_document_is_valid() -> None:
    checked(_TOOLS / "openapi-spec-validator", _REPOSITORY / "identity_server/api/openapi.json")


def test_types_are_right(client: Path, tmp_path: Path) -> None:
    command = (_TOOLS / "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path)
    checked(*command, client / "matrix_identity_client", _STORY, MYPYPATH=str(client))


def example_in(readme: Path) -> str:
    """The program that the client's README shows."""
    [program] = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    return str(program)


def test_types_in_the_readme_are_right(client: Path, tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text(example_in(client / "README.md"))
    command = (_TOOLS / "mypy", "--strict", "--config-file=", "--cache-dir", tmp_path / "cache")
    checked(*command, example, MYPYPATH=str(client))


async def test_readme_says_what_works(client: Path, tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        program = example_in(client / "README.md")
        for shown, ours in (
            ("https://id.example.org", server.base),
            ("OPENID_TOKEN", server.homeservers.issue(ALICE)),
        ):
            assert shown in program
            program = program.replace(shown, ours)

        told = await asyncio.to_thread(checked, _TOOLS / "python", "-c", program, PYTHONPATH=str(client))

    assert told == f"{ALICE}\n"


async def test_finds_somebody(client: Path, tmp_path: Path) -> None:
    terms = tmp_path / "terms"
    terms.mkdir()
    (terms / "terms.en.md").write_text(POLICY.format(language="en"))
    async with running(tmp_path, settings={"GENERAL__TERMS_PATH": str(terms)}) as server:
        bob = await server.register(BOB)
        policies = (await server.get("terms")).json["policies"]
        await server.post("terms", {"user_accepts": [each["en"]["url"] for each in policies.values()]}, as_=bob)
        await server.bound(bob, "bob@example.com")
        token = server.homeservers.issue(ALICE)

        told = await asyncio.to_thread(
            checked,
            _TOOLS / "python",
            _STORY,
            server.base,
            "example.org",
            token,
            "bob@example.com",
            PYTHONPATH=str(client),
        )

    found: dict[str, Any] = json.loads(told)
    assert found == {
        "early": "M_TERMS_NOT_SIGNED",
        "documents": 1,
        "user_id": ALICE,
        "mappings": {"bob@example.com": BOB},
        "late": "M_UNAUTHORIZED",
    }
