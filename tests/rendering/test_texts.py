from __future__ import annotations

import pytest

from identity_server.domain.text_messages import code_message, fits_one_sms
from identity_server.rendering.templates import Templates
from identity_server.rendering.texts import Texts
from tests.rendering.kit import SERVER

TEMPLATES = Templates.load(server_name=SERVER)


@pytest.mark.parametrize(
    ("tag", "words"),
    [
        ("de", "Ihr Code lautet 123456"),
        ("en", "Your code is 123456"),
        ("es", "Su clave es 123456"),
        ("fr", "Votre code est 123456"),
    ],
)
def test_a_text_is_in_the_language_of_its_reader_and_costs_once(tag: str, words: str) -> None:
    template = Texts(TEMPLATES, validation=None).validation((tag,), None)
    host = "identity.a-rather-long-name-of-a-host.example.org"
    text = code_message(template, code="123456", domain=host)
    assert text == f"{words}\n\n@{host} #123456"
    # A single letter that isn't of the GSM alphabet would leave room for 70.
    assert len(text) > 70
    assert fits_one_sms(text)


@pytest.mark.parametrize("tag", ["de", "en", "es", "fr"])
def test_a_text_of_the_privacy_page_costs_once(tag: str) -> None:
    template = Texts(TEMPLATES, validation="Shop: {token}").visit((tag,), None)
    text = code_message(template, code="12345678", domain=SERVER)
    assert SERVER in template
    assert text.endswith(f"@{SERVER} #12345678")
    assert len(text) > 70
    assert fits_one_sms(text)


def test_the_words_of_the_operator_stand_for_every_language() -> None:
    texts = Texts(TEMPLATES, validation="Shop: {token}")
    assert {texts.validation((tag,), None) for tag in ("de", "en", "xq")} == {"Shop: {token}"}
