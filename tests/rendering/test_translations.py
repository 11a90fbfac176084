"""Every word that people see is translated, and nothing else is in the catalogues."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

import identity_server
from identity_server.rendering.languages import PACKAGED_LANGUAGES

PACKAGE = Path(identity_server.__file__).parent
CATALOGUES = sorted(PACKAGED_LANGUAGES.glob("*.po"))


def read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale=path.stem, abort_invalid=True)


@cache
def used() -> frozenset[tuple[str | None, str]]:
    """Every message id in templates and code, with its context."""
    code = extract_from_dir(PACKAGE, method_map=[("rendering/**.py", "python"), ("domain/retention.py", "python")])
    templates = extract_from_dir(
        PACKAGE,
        method_map=[("templates/**.j2", "jinja2")],
        options_map={"templates/**.j2": {"trimmed": "true", "silent": "false"}},
    )
    return frozenset((context, str(message)) for _, _, message, _, context in [*code, *templates])


def translations(path: Path) -> dict[str, str]:
    def texts(value: str | Sequence[str] | None) -> str:
        return value if isinstance(value, str) else "\n".join(value or ())

    return {texts(message.id): texts(message.string) for message in read(path) if message.id}


def test_four_languages_are_there() -> None:
    assert [path.stem for path in CATALOGUES] == ["de", "en", "es", "fr"]
    assert len(used()) > 30


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_a_catalogue_holds_just_what_is_used(path: Path) -> None:
    catalogue = read(path)
    assert {(message.context, str(message.id)) for message in catalogue if message.id} == used()
    assert not [message.id for message in catalogue if message.id and not message.string]
    assert not [message.id for message in catalogue if message.id and message.fuzzy]
    assert not catalogue.obsolete


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_placeholders_survive_translation(path: Path) -> None:
    for message, translation in translations(path).items():
        found = [sorted(re.findall(r"%(?:\(\w+\))?.|\{\w*\}", text)) for text in (message, translation)]
        assert found[0] == found[1], message


def test_the_english_catalogue_says_what_the_templates_say() -> None:
    assert all(message == translation for message, translation in translations(PACKAGED_LANGUAGES / "en.po").items())


def test_french_typography() -> None:
    texts = [
        *translations(PACKAGED_LANGUAGES / "fr.po").values(),
        *(path.read_text("utf-8").split("---\n", 2)[2] for path in (PACKAGE.parent / "terms").glob("*.fr.md")),
    ]
    assert len(texts) > 30
    for text in texts:
        prose = re.sub(r"https?://\S+|%\(\w+\)s", "", text)
        assert not re.search(r" [:;?!»]|« ", prose), f"plain space where French has a no-break one: {text}"
        assert not re.search(r"[\w»*][?!;]", prose), f"no space before the sign: {text}"
        assert "'" not in prose, f"straight apostrophe: {text}"


def test_german_and_spanish_typography() -> None:
    for tag, straight in (("de", "'"), ("es", "'")):
        for text in translations(PACKAGED_LANGUAGES / f"{tag}.po").values():
            prose = re.sub(r"%\(\w+\)s", "", text)
            assert not re.search(r" [:;?!]", prose), f"{tag}: a space before the sign: {text}"
            assert straight not in prose, f"{tag}: straight apostrophe: {text}"
            assert '"' not in prose, f"{tag}: straight quotation mark: {text}"
    for text in translations(PACKAGED_LANGUAGES / "es.po").values():
        for opening, closing in ("¿?", "¡!"):
            assert text.count(opening) == text.count(closing), text
