"""`identity-server demo`: told to the end by the real command, and ended in words where something is wrong."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from identity_server.__main__ import main
from identity_server.demo.narrator import Narrator, as_json, shortened, shortened_url
from identity_server.demo.run import perform
from identity_server.demo.stage import Place, Stage
from identity_server.demo.story import ALICES_EMAIL, STEPS, Story

REPOSITORY = Path(__file__).parents[2]
DEMO = (sys.executable, "-m", "identity_server", "demo")
TOKEN = "v1YQ0mJr8bUe3kTz5LxWq2NfHs7Ac9Dp"
ANY_WHOLE_TOKEN = re.compile(r"(?<!\w)(?!M_)[A-Za-z0-9_-]{22,}")


def run_demo(folder: Path, *, command: Sequence[str] = DEMO, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a newcomer does, with an empty home and nothing in the environment."""
    for name in ("home", "tmp"):
        (folder / name).mkdir()
    return subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
        cwd=folder / "home",
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            **env,
        },
    )


def left_behind(folder: Path) -> list[Path]:
    return [file for name in ("home", "tmp") for file in (folder / name).iterdir()]


def test_tells_every_step_in_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # The settings of an operator who happens to have some don't reach the demo.
    ended = run_demo(tmp_path, IDENTITY_SERVER__DB__DB_URL="postgresql+asyncpg://nobody@localhost/none")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    headings = re.findall(r"^([0-9]+)/([0-9]+)  (.*?) ─+$", ended.stdout, re.MULTILINE)
    assert headings == [(str(number), str(len(STEPS)), step.title) for number, step in enumerate(STEPS, start=1)]
    assert "That was the whole story" in ended.stdout
    assert left_behind(tmp_path) == []


def test_what_it_prints_is_plain_narrow_and_without_whole_tokens(tmp_path: Path) -> None:
    printed = run_demo(tmp_path, NO_COLOR="1").stdout
    lines = printed.splitlines()
    assert len(lines) > 100
    assert "\x1b" not in printed
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line != line.rstrip()] == []
    assert ANY_WHOLE_TOKEN.findall(printed) == []


def test_full_disk_ends_it_in_words(tmp_path: Path) -> None:
    # No file may grow beyond 64 blocks: what is said to the database is that the disk is full.
    ended = run_demo(tmp_path, command=("sh", "-c", 'ulimit -f 64 && exec "$@"', "sh", *DEMO))
    assert ended.returncode == 1, ended.stdout
    assert "The demo stopped" in ended.stdout
    assert "Look for room on the disk" in " ".join(ended.stdout.split())
    assert "Traceback" not in ended.stderr
    assert left_behind(tmp_path) == []


def test_unexpected_answer_ends_it_in_words_with_the_log(tmp_path: Path) -> None:
    (tmp_path / "server.log").write_text("what the server wrote last\n")
    told = io.StringIO()

    async def tell(stage: Stage, narrator: Narrator) -> None:
        story = Story(stage, narrator)
        story._alice.homeserver_token = TOKEN
        await story.tell()

    assert perform(Place(tmp_path), Narrator(Console(file=told, width=300)), tell=tell) == 1
    words = " ".join(told.getvalue().split())
    assert "The demo stopped" in words
    assert "was to be answered 200, and was answered 401:" in words
    assert '"errcode": "M_UNKNOWN_TOKEN"' in words
    assert "what the server wrote last" in words
    assert STEPS[1].title not in words
    assert TOKEN not in words


def test_check_that_does_not_hold_ends_it_in_words(tmp_path: Path) -> None:
    told = io.StringIO()

    async def tell(stage: Stage, narrator: Narrator) -> None:
        # A server that writes an address into its log.
        stage.place.log.write_text(f"mail sent to {ALICES_EMAIL}\n")
        await Story(stage, narrator).tell()

    assert perform(Place(tmp_path), Narrator(Console(file=told)), tell=tell) == 1
    assert 'This was to be so, and is not: "her address is in neither".' in told.getvalue()
    assert STEPS[6].title in told.getvalue()
    assert STEPS[7].title not in told.getvalue()


def test_missing_extra_is_named_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # How Python marks a module that can't be had.
    monkeypatch.setitem(sys.modules, "aiosmtpd", None)
    ended = CliRunner().invoke(main, ["demo"])
    assert ended.exit_code == 1
    assert "the demo needs what the server itself does not: aiosmtpd" in ended.output
    assert "pip install 'matrix-identity-server[demo]'" in ended.output
    assert "make demo" in ended.output


def test_long_opaque_strings_are_shortened_and_names_are_not() -> None:
    assert shortened({"token": TOKEN, "hashes": [TOKEN], "n": 1}) == {
        "token": "v1YQ0mJr...",
        "hashes": ["v1YQ0mJr..."],
        "n": 1,
    }
    kept = {"errcode": "M_SESSION_NOT_VALIDATED", "mxid": "@alice:localhost:40000", "address": ALICES_EMAIL}
    assert shortened(kept) == kept
    assert shortened_url(f"https://localhost/x?sid={TOKEN}&client_secret={TOKEN}&token={TOKEN}&lang=en") == (
        "https://localhost/x?sid=v1YQ0mJr...&client_secret=v1YQ0mJr...&token=v1YQ0mJr...&lang=en"
    )


def test_json_stays_on_one_line_while_it_fits() -> None:
    assert as_json({"a": 1, "b": "ü"}) == '{"a": 1, "b": "ü"}'
    long = "word " * 7
    assert as_json({"first": long, "second": long}) == f'{{"first": "{long}",\n "second": "{long}"}}'
    assert as_json({"only": long * 2}).splitlines() == [
        '{"only": "' + "word " * 11 + "word",
        '   word word "}',
    ]
