from __future__ import annotations

from datetime import UTC, datetime

import pytest
from babel import Locale
from babel.dates import format_date
from hypothesis import given
from hypothesis import strategies as st

from identity_server.rendering.languages import Language, Languages, parse_accept_language

LANGUAGES = Languages.load()


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("en;q=0.5, fr-CH, *;q=0.1", ("fr-CH", "en", "*")),
        ("fr ; q=0, en", ("en",)),
        ("de;q=0.8,fr;q=0.8", ("de", "fr")),
        ("fr;q=2, ,;;q=1, en", ("en",)),
        (None, ()),
        ("", ()),
        ("fr\r\nX: y", ()),
    ],
)
def test_the_header_is_read_best_first(header: str | None, tags: tuple[str, ...]) -> None:
    assert parse_accept_language(header) == tags


@given(st.text(max_size=3_000))
def test_no_header_raises_or_gives_more_than_is_bounded(header: str) -> None:
    tags = parse_accept_language(header)
    assert len(tags) <= 20
    assert LANGUAGES.negotiate(tags) in LANGUAGES.all


@pytest.mark.parametrize(
    ("wanted", "got"),
    [
        (("fr-CH",), "fr"),
        (("FR",), "fr"),
        (("it", "fr", "en"), "fr"),
        (("de-AT", "fr"), "de"),
        (("es-419",), "es"),
        (("*", "fr"), "en"),
        (("it",), "en"),
        ((), "en"),
        (("x" * 10_000, "../../etc/passwd", ""), "en"),
    ],
)
def test_the_first_language_that_we_have_wins(wanted: tuple[str, ...], got: str) -> None:
    assert LANGUAGES.negotiate(wanted).tag == got


def test_the_default_can_be_another_one() -> None:
    assert Languages.load(default="fr").negotiate(["it"]).tag == "fr"


def test_a_default_without_a_catalogue_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'it'.*en, es, fr"):
        Languages.load(default="it")


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("en", "23 November 2026 at 14:20 UTC"),
        ("fr", "23 novembre 2026 à 14:20 UTC"),
        ("de", "23. November 2026 um 14:20 UTC"),
        ("es", "23 de noviembre de 2026 a las 14:20 UTC"),
    ],
)
def test_moments_are_written_as_the_language_does(tag: str, text: str) -> None:
    language = LANGUAGES.find(tag)
    assert language is not None
    assert language.moment(1_795_443_600_000) == text
    assert language.moment("1795443600000") == text


@pytest.mark.parametrize("language", LANGUAGES.all, ids=lambda language: language.tag)
@pytest.mark.parametrize("month", range(1, 13))
def test_dates_are_those_of_the_unicode_locale_data(language: Language, month: int) -> None:
    when = datetime(2026, month, month, 9, 5, tzinfo=UTC)
    # Plain `en` means American dates there.
    date = format_date(when, format="long", locale={"en": "en_001"}.get(language.tag, language.tag))
    moment = language.moment(round(when.timestamp() * 1000))
    assert moment.startswith(f"{date} ")
    assert "09:05" in moment


@pytest.mark.parametrize("beyond", [10**20, "soon", ""])
def test_what_is_no_moment_is_refused(beyond: int | str) -> None:
    with pytest.raises(ValueError, match=r"."):
        LANGUAGES.default.moment(beyond)


@pytest.mark.parametrize(
    ("tag", "name"),
    [("fr", "Français"), ("en", "English"), ("de", "Deutsch"), ("it", "Italiano"), ("xq-99", "xq-99")],
)
def test_languages_are_called_what_their_speakers_call_them(tag: str, name: str) -> None:
    assert LANGUAGES.name_of(tag) == name


def test_our_own_languages_are_called_what_the_unicode_locale_data_says() -> None:
    for language in LANGUAGES.all:
        assert language.name == str(Locale(language.tag).get_display_name()).capitalize()
