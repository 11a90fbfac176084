from __future__ import annotations

from pathlib import Path

import pytest

from identity_server.rendering.brands import load_brands
from identity_server.rendering.faults import BrandingProblems, TemplateFault
from identity_server.rendering.page import Reader
from identity_server.rendering.pages import Pages
from identity_server.rendering.templates import Templates
from tests.rendering.kit import SERVER, make_mail, make_mails, write


def subject(path: Path, brand: str | None, *, default_brand: str = "ours") -> str:
    templates = Templates.load(server_name=SERVER, path=path, default_brand=default_brand)
    return str(make_mails(templates).render(make_mail(brand=brand)).message["Subject"])


def test_without_a_directory_the_server_name_is_the_brand() -> None:
    brand = load_brands(None, default_brand="ours", server_name=SERVER).find("anything").brand
    assert (brand.name, brand.logo_text, brand.support, brand.footer_in("en")) == (SERVER, SERVER, None, "")


def test_files_replace_ours_one_by_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "ours/mail/verification.subject.j2": "default brand",
            "ours/mail/verification.txt.j2": "default text {{ token }}",
            "shop/mail/verification.subject.j2": "shop",
            "ours/brand.toml": 'name = "Ours"',
        },
    )
    assert subject(tmp_path, "shop") == "shop"
    assert subject(tmp_path, None) == "default brand"
    assert subject(tmp_path, "nobody") == "default brand"
    assert subject(tmp_path, "nobody", default_brand="absent").startswith("Confirm your email address")
    templates = Templates.load(server_name=SERVER, path=tmp_path, default_brand="ours")
    message = make_mails(templates).render(make_mail(brand="shop")).message
    text = message.get_body(("plain",))
    html = message.get_body(("html",))
    assert text is not None
    assert html is not None
    # Subject from its own, text from the default brand, HTML from the package, variables from the default brand.
    assert text.get_content().startswith("default text sample")
    assert "Confirm this address" in html.get_content()
    assert "Ours" in html.get_content()


@pytest.mark.parametrize(
    "name", ["../secret", "shop/../../secret", "/etc", "..", ".", "", "shop\0", "SHOP", "a" * 5_000]
)
def test_a_name_from_the_network_never_leaves_the_directory(tmp_path: Path, name: str) -> None:
    write(
        tmp_path, {"secret/mail/verification.subject.j2": "leaked", "res/shop/mail/verification.subject.j2": "shop"}
    )
    assert subject(tmp_path / "res", name).startswith("Confirm your email address")


def test_branding_variables(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "shop/brand.toml": """
                name = "The <Shop>"
                logo_text = "SHOP"
                colour = "#123456"
                support = "help@shop.example"
                [footer]
                en = "A shop."
                fr = "Une boutique."
            """
        },
    )
    brand = load_brands(tmp_path, default_brand="ours", server_name=SERVER).find("shop").brand
    assert (brand.name, brand.logo_text, str(brand.colour)) == ("The <Shop>", "SHOP", "#123456")
    assert brand.support_url == "mailto:help@shop.example"
    assert [brand.footer_in(tag) for tag in ("en", "fr", "de")] == ["A shop.", "Une boutique.", ""]
    templates = Templates.load(server_name=SERVER, path=tmp_path)
    html = make_mails(templates).render(make_mail(brand="shop", language=("fr",))).message.get_body(("html",))
    assert html is not None
    assert all(
        part in html.get_content() for part in ("SHOP", "#123456", "Une boutique.", "mailto:help@shop.example")
    )


def test_a_brand_speaks_its_own_language_to_those_who_want_none_that_there_is(tmp_path: Path) -> None:
    write(tmp_path, {"laden/brand.toml": 'language = "de"', "shop/brand.toml": 'name = "Shop"'})
    templates = Templates.load(server_name=SERVER, path=tmp_path)
    spoken = {
        (brand, wanted): templates.language_for(wanted, brand).tag
        for brand in ("laden", "shop", None)
        for wanted in ((), ("it",), ("*",), ("fr", "de"))
    }
    assert {key: tag for key, tag in spoken.items() if tag != "en"} == {
        ("laden", ()): "de",
        ("laden", ("it",)): "de",
        ("laden", ("*",)): "de",
        ("laden", ("fr", "de")): "fr",
        ("shop", ("fr", "de")): "fr",
        (None, ("fr", "de")): "fr",
    }
    assert make_mails(templates).render(make_mail(brand="laden")).message["Content-Language"] == "de"
    assert Pages(templates).confirmed(Reader(brand="laden")).headers["Content-Language"] == "de"


def test_a_brand_that_speaks_what_nobody_has_translated_stops_the_start(tmp_path: Path) -> None:
    write(tmp_path, {"shop/brand.toml": 'language = "xq"'})
    with pytest.raises(BrandingProblems, match="brand shop: there is no catalogue for the language 'xq'"):
        Templates.load(server_name=SERVER, path=tmp_path)


def test_every_problem_of_the_brands_is_told_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a/brand.toml": 'name = ""\ncolour = "red"\nsupport = "javascript:alert(1)"\nfont = "x"\n[footer]\nen = 5',
            "b/brand.toml": "= broken",
            "c/brand.toml": "x" * 20_000,
        },
    )
    (tmp_path / "d").mkdir()
    (tmp_path / "d/brand.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(BrandingProblems) as caught:
        load_brands(tmp_path, default_brand="ours", server_name=SERVER)
    told = "\n".join(caught.value.problems)
    for expected in ("name must", "colour a colour", "support must", "font is not", "footer.en must", "larger than"):
        assert expected in told
    for name in "abcd":
        assert str(tmp_path / name / "brand.toml") in told


def test_a_broken_template_stops_the_start(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "shop/mail/verification.txt.j2": "one\n{% if %}",
            "shop/pages/confirm.html.j2": "{{ }",
            "shop/notes.j2": "{{",
        },
    )
    with pytest.raises(BrandingProblems) as caught:
        Templates.load(server_name=SERVER, path=tmp_path)
    assert len(caught.value.problems) == 2
    assert "verification.txt.j2, line 2" in str(caught.value)


def test_a_template_that_fails_with_sample_values_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"shop/mail/verification.txt.j2": "{{ no_such_variable }}"})
    with pytest.raises(BrandingProblems, match=r"brand shop, language en: template mail/verification\.txt\.j2"):
        make_mails(Templates.load(server_name=SERVER, path=tmp_path)).check()


def test_the_packaged_mails_pass_their_check() -> None:
    make_mails().check(brands=[None])


def test_templates_are_sandboxed_and_faults_hold_no_value(tmp_path: Path) -> None:
    write(tmp_path, {"shop/mail/verification.txt.j2": "{{ address.__class__.__mro__[1].__subclasses__() }}"})
    templates = Templates.load(server_name=SERVER, path=tmp_path)
    with pytest.raises(TemplateFault) as caught:
        make_mails(templates).render(make_mail(brand="shop"))
    assert "SecurityError" in str(caught.value)
    assert "alice" not in str(caught.value)


def test_a_missing_directory_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(BrandingProblems, match="not a directory"):
        Templates.load(server_name=SERVER, path=tmp_path / "absent")
