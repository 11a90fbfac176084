from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment

from identity_server.rendering.templates import Templates, load_packaged
from tests.rendering.kit import SERVER, make_mail, make_mails, write

SUBJECT = "shop/mail/verification.subject.j2"


def subject(templates: Templates, *, language: str = "en") -> str:
    return str(make_mails(templates).render(make_mail(brand="shop", language=(language,))).message["Subject"])


def test_a_file_that_has_changed_is_compiled_anew(tmp_path: Path) -> None:
    for text in ("before", "after"):
        assert subject(Templates.load(server_name=SERVER, path=write(tmp_path, {SUBJECT: text}))) == text


def test_files_of_one_name_in_two_folders_are_not_taken_for_each_other(tmp_path: Path) -> None:
    loaded = {
        name: Templates.load(server_name=SERVER, path=write(tmp_path / name, {SUBJECT: f"in {name}"}))
        for name in ("here", "there")
    }
    assert {name: subject(templates) for name, templates in loaded.items()} == {
        "here": "in here",
        "there": "in there",
    }


def test_nothing_of_one_language_is_compiled_into_what_others_use(tmp_path: Path) -> None:
    templates = Templates.load(server_name=SERVER, path=write(tmp_path, {SUBJECT: "{{ 1795443600000|moment }}"}))
    assert subject(templates, language="en") == "23 November 2026 at 14:20 UTC"
    assert subject(templates, language="es").startswith("23 de noviembre de 2026")


def test_what_is_packaged_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load_packaged()

    def compile_nothing(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(Environment, "compile", compile_nothing)
    make_mails(Templates.load(server_name=SERVER)).check(brands=[None])
