"""`identity-server` by itself: the list of commands, for which none of them is loaded."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner

from identity_server.__main__ import main
from tests.support.programs import outcome

NAMES = main.list_commands(click.Context(main))


def listed() -> dict[str, str]:
    """What is said of each command, by its name."""
    lines = CliRunner().invoke(main, ["--help"], terminal_width=200).output.partition("Commands:\n")[2].splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_the_list_says_of_a_command_what_it_says_of_itself(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.help is not None
    said = " ".join(command.help.split())
    assert said.startswith(listed()[name].removesuffix("."))


def test_the_list_is_complete() -> None:
    assert list(listed()) == NAMES


def test_the_list_loads_no_command() -> None:
    program = """
import json, sys
from identity_server.__main__ import main
try:
    main(["--help"])
except SystemExit:
    print(json.dumps([name for name in sys.modules if name.startswith("identity_server.")]))
"""
    assert json.loads(outcome(program).splitlines()[-1]) == ["identity_server.__main__"]


def test_an_unknown_command_is_refused_by_name() -> None:
    result = CliRunner().invoke(main, ["srve"])
    assert result.exit_code == 2
    assert "No such command 'srve'" in result.output
