from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from identity_server.config import ini
from identity_server.config.problems import ConfigError, Report
from tests.support.properties import examples

FILE = Path("some.conf")


def scan(text: str) -> tuple[ini.Document, list[str]]:
    report = Report(strict=False)
    document = ini._Scanner(FILE, report).scan(text)
    try:
        report.raise_errors()
    except ConfigError as error:
        return document, [str(problem) for problem in error.problems]
    return document, []


LINES = st.sampled_from(
    [
        "[general]",
        "[DEFAULT]",
        "[peer.a]",
        "  [email]",
        "[]",
        "[half",
        "a = 1",
        "A: 2",
        "b=x = y : z",
        "  c = indented",
        "    deeper text",
        "\tdeeper = than all",
        "empty =",
        "= nothing",
        "no delimiter",
        "# comment",
        "   ; comment",
        "d = value # kept",
        "[e] = f",
        "",
        "   ",
        "p = %(a)s and 100%%",
        "q = %(p)s %(missing)s",
        "r = %(r)s",
        "s = 5%",
        "t = %(a",
    ]
)


def reference(text: str) -> dict[str, dict[str, str | None]] | None:
    """What configparser makes of it: None where it refuses the file, and for a value that it refuses."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error:
        return None
    found: dict[str, dict[str, str | None]] = {}
    for section in ("DEFAULT", *parser.sections()):
        found[section] = {}
        for key in parser[section]:
            try:
                found[section][key] = parser.get(section, key)
            except configparser.InterpolationError:
                found[section][key] = None
    return found


def ours(document: ini.Document) -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = {}
    for section in dict.fromkeys((ini.DEFAULT, *document.sections())):
        found[section] = {}
        for key in {**dict.fromkeys(document.keys(section)), **dict.fromkeys(document.keys(ini.DEFAULT))}:
            try:
                found[section][key] = document.value(section, key)
            except ValueError:
                found[section][key] = None
    return found


@settings(max_examples=examples(400), derandomize=True, database=None)
@given(st.lists(LINES, max_size=14))
def test_reads_as_configparser_does(lines: list[str]) -> None:
    text = "\n".join(lines)
    expected = reference(text)
    document, problems = scan(text)
    assert (expected is None) == bool(problems)
    if expected is not None:
        assert ours(document) == expected


def test_knows_the_line_of_everything() -> None:
    document, problems = scan(
        "# first\n[general]\nserver.name = a\n\n[email]\nemail.smtphost = b\n   c\n[DEFAULT]\nx=1\n"
    )
    assert not problems
    assert document.origin("email").line == 5
    assert document.origin("general", "server.name").line == 3
    assert document.origin("email", "email.smtphost").line == 6
    assert document.origin("email", "x").line == 9
    assert document.origin("email", "absent").line is None


def test_reports_every_fault_and_still_reads_the_rest() -> None:
    document, problems = scan(
        "early = 1\nearlier = 2\n[general]\nserver.name = a\nnonsense\nserver.name = b\n[general]\nlog.level = INFO\n"
    )
    assert [problem.partition(": ")[0] for problem in problems] == [
        "some.conf, line 1",
        "some.conf, line 5, [general]",
        "some.conf, line 6, [general] server.name",
        "some.conf, line 7, [general]",
    ]
    assert "line 4" in problems[2]
    assert "line 3" in problems[3]
    assert document.value("general", "server.name") == "a"
    assert document.value("general", "log.level") == "INFO"


def test_does_not_repeat_a_line_that_makes_no_sense() -> None:
    _, problems = scan(
        "[email]\nemail.smtppassword hunter2\nc2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0=1\nc2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0=1"
    )
    assert len(problems) == 2
    assert "hunter2" not in "".join(problems)
    assert "c2vjcmv0" not in "".join(problems).lower()


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "sydent.conf"
    file.write_bytes(b"\xef\xbb\xbf[general]\r\nserver.name = a\r\n\r\nlog.level = DEBUG\r\n")
    report = Report(strict=True)
    document = ini.read_document(file, report)
    report.raise_errors()
    assert document.value("general", "server.name") == "a"
    assert document.origin("general", "log.level").line == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[general]\nserver.name = caf\xe9\n", "not UTF-8 text (first at line 2)"),
        (b"[general]\n\n\0", "NUL character (first at line 3)"),
        (b"#" * (1 << 20) + b"\n", "larger than 1 MiB"),
    ],
)
def test_refuses_what_is_no_text_file(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "sydent.conf"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="the file") as caught:
        ini.read_text(file)
    assert message in str(caught.value)


def test_refuses_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a directory, not a file"):
        ini.read_text(tmp_path)
    with pytest.raises(ValueError, match="No such file"):
        ini.read_text(tmp_path / "absent")


def test_refuses_a_file_that_it_may_not_read() -> None:
    # Even root may not read this one.
    with pytest.raises(ValueError, match="the file can't be read: "):
        ini.read_text(Path("/proc/self/mem"))
