"""The text of a message with a code."""

from __future__ import annotations

import pytest

from identity_server.domain.text_messages import code_message, fits_one_sms

LINE = "\n\n@id.example.org #123456"


def message(template: str) -> str:
    return code_message(template, code="123456", domain="id.example.org")


@pytest.mark.parametrize(
    ("letters", "fits"),
    [("a" * 160, True), ("a" * 161, False), ("€" * 80, True), ("€" * 81, False), ("ж" * 70, True), ("ж" * 71, False)],
)
def test_one_message_holds(letters: str, fits: bool) -> None:
    assert fits_one_sms(letters) is fits


def test_an_emoji_counts_twice() -> None:
    assert fits_one_sms("😀" * 35)
    assert not fits_one_sms("😀" * 36)


@pytest.mark.parametrize("letter", ["a", "ж"])
def test_the_line_is_added_while_the_message_stays_one(letter: str) -> None:
    limit = {"a": 160, "ж": 70}[letter] - len("123456") - len(LINE)
    assert message("{token}" + limit * letter).endswith(LINE)
    assert message("{token}" + (limit + 1) * letter) == "123456" + (limit + 1) * letter


def test_a_template_may_have_its_own_line() -> None:
    text = "Code {token}\n\n@chat.example.org #{token}"
    assert message(text) == "Code 123456\n\n@chat.example.org #123456"
