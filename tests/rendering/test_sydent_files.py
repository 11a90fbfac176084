"""Which of an operator's files is used, and the two forms they are written in."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from identity_server.rendering.faults import BrandingProblems
from identity_server.rendering.page import Reader
from identity_server.rendering.pages import Pages
from identity_server.rendering.sydent_files import LegacyText, SydentOverrides
from identity_server.rendering.templates import Templates
from tests.rendering.kit import SERVER, make_mail, make_mails, write

HEADERS = "From: {sender}\nTo: {to}\nSubject: {subject}\n\n{body}\n"
LEGACY = HEADERS.format(sender="%(from)s", to="%(to)s", subject="legacy", body="%(link)s")
JINJA = HEADERS.format(sender="{{ from|safe }}", to="{{ to|safe }}", subject="jinja", body="{{ link|safe }}")
RAW = "verification_template.eml"


def load(root: Path, *, default_brand: str = "ours", overrides: SydentOverrides | None = None) -> Templates:
    return Templates.load(server_name=SERVER, path=root, default_brand=default_brand, sydent_overrides=overrides)


def subject(templates: Templates, brand: str | None = None) -> str:
    return str(make_mails(templates).render(make_mail(brand=brand)).message["Subject"])


def shown(templates: Templates, brand: str | None = None) -> str | None:
    page = Pages(templates).followed(Reader(brand=brand))
    return None if page is None else page.html


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({f"shop/{RAW}": LEGACY}, "legacy"),
        ({f"shop/{RAW}.j2": JINJA}, "jinja"),
        ({f"shop/{RAW}": LEGACY, f"shop/{RAW}.j2": JINJA}, "jinja"),
        ({f"shop/{RAW}.j2": JINJA, "shop/mail/verification.subject.j2": "own"}, "own"),
        ({f"shop/{RAW}": LEGACY, "ours/mail/verification.subject.j2": "default"}, "legacy"),
        ({f"shop/{RAW}": LEGACY, f"ours/{RAW}.j2": JINJA}, "legacy"),
        ({"shop/invite_template.eml": LEGACY, f"ours/{RAW}.j2": JINJA}, "jinja"),
        ({"shop/invite_template.eml": LEGACY, "ours/mail/verification.subject.j2": "default"}, "default"),
        ({"shop/invite_template.eml": LEGACY}, f"Confirm your email address for {SERVER}"),
    ],
)
def test_the_nearest_template_counts(tmp_path: Path, files: dict[str, str], expected: str) -> None:
    assert subject(load(write(tmp_path, files)), "shop") == expected


def test_a_brand_that_does_not_exist_gets_the_default_brands_files(tmp_path: Path) -> None:
    templates = load(write(tmp_path, {f"ours/{RAW}": LEGACY, "ours/verify_response_template.html": "<%(message)s>"}))
    for brand in (None, "nobody", "../ours"):
        assert subject(templates, brand) == "legacy"
        assert str(shown(templates, brand)).startswith("<Your email address is confirmed.")


def test_a_file_that_the_configuration_names_stands_before_every_brand(tmp_path: Path) -> None:
    write(tmp_path, {f"res/shop/{RAW}": LEGACY, "res/shop/mail/verification.subject.j2": "own"})
    single = write(tmp_path, {"one.eml.j2": JINJA, "two.eml": LEGACY, "page.html": "page %(message)s"})
    overrides = SydentOverrides(single / "one.eml.j2", single / "two.eml", single / "page.html")
    for root in (tmp_path / "res", None):
        templates = Templates.load(server_name=SERVER, path=root, sydent_overrides=overrides)
        assert subject(templates, "shop") == "jinja"
        assert str(shown(templates, "shop")).startswith("page Your")
        invite = make_mail(template="invite", brand="shop")
        assert make_mails(templates).render(invite).message["Subject"] == "legacy"


def test_without_files_there_is_no_page_of_the_operators(tmp_path: Path) -> None:
    assert shown(load(write(tmp_path, {f"shop/{RAW}": LEGACY})), "shop") is None


def test_our_own_page_is_nearer(tmp_path: Path) -> None:
    write(
        tmp_path, {"shop/verify_response_template.html": "%(message)s", "shop/pages/confirmed.html.j2": "{{ style }}"}
    )
    assert shown(load(tmp_path), "shop") is None


@pytest.mark.parametrize(
    ("files", "brand", "expected"),
    [
        ({}, None, True),
        ({"shop/brand.toml": "name = 'Shop'"}, "shop", True),
        ({f"shop/{RAW}": LEGACY}, "shop", False),
        ({f"ours/{RAW}": LEGACY}, None, False),
        ({f"ours/{RAW}": LEGACY, "shop/brand.toml": "name = 'Shop'"}, "shop", False),
        ({f"shop/{RAW}": LEGACY, "shop/mail/notice.txt.j2": "ours"}, "shop", True),
        ({f"ours/{RAW}": LEGACY, "shop/mail/notice.txt.j2": "ours"}, "shop", True),
        ({f"ours/{RAW}": LEGACY}, "shop", False),
        ({"shop/verify_response_template.html": "%(message)s"}, "shop", True),
    ],
)
def test_who_brings_sydents_mails_gets_no_further_ones(
    tmp_path: Path, files: dict[str, str], brand: str | None, *, expected: bool
) -> None:
    # A mail of ours that Sydent doesn't know, in a default brand of its own where no nearer files decide.
    files = {"ours/mail/notice.txt.j2": "ours", **files} if not any(RAW in name for name in files) else files
    mails = make_mails(load(write(tmp_path, files) if files else write(tmp_path, {"x/brand.toml": ""})))
    assert mails.exists("notice", brand) is expected
    assert mails.exists("verification", brand)
    assert mails.exists("invite", brand)
    assert not mails.exists("no_such_mail", brand)


def test_a_single_file_in_the_configuration_silences_further_mails_too(tmp_path: Path) -> None:
    file = write(tmp_path, {"one.eml": LEGACY}) / "one.eml"
    templates = Templates.load(server_name=SERVER, sydent_overrides=SydentOverrides(verification=file))
    assert not make_mails(templates).exists("notice", None)
    assert make_mails(templates).exists("verification", None)


def test_only_sydents_have_a_mail_for_a_migration(tmp_path: Path) -> None:
    mails = make_mails(load(write(tmp_path, {"shop/migration_template.eml.j2": "Subject: s\n\n{{ mxid }}"})))
    assert mails.exists("migration", "shop")
    assert not mails.exists("migration", None)
    text = mails.render(make_mail(template="migration", brand="shop", mxid="@a:b")).content
    assert text.endswith(b"\r\n\r\n@a:b")


@pytest.mark.parametrize("form", [RAW, f"{RAW}.j2"])
def test_a_template_tells_what_it_shows(tmp_path: Path, form: str) -> None:
    values = ("{{ link }}", "{% if ipaddress %}x{% endif %}") if form.endswith(".j2") else ("%(link_forurl)s", "")
    mails = make_mails(load(write(tmp_path, {f"shop/{form}": f"Subject: x\n\n{values[0]}{values[1]}\n"})))
    assert mails.shows("verification", "shop", "link")
    assert mails.shows("verification", "shop", "ipaddress") is bool(values[1])
    assert not mails.shows("verification", "shop", "token")
    assert not mails.shows("verification", None, "link")


def test_what_others_bring_in_may_show_anything(tmp_path: Path) -> None:
    write(
        tmp_path, {f"shop/{RAW}.j2": "Subject: x\n\n{% include 'parts/foot.txt' %}", "parts/foot.txt": "{{ link }}"}
    )
    mails = make_mails(load(tmp_path))
    assert mails.shows("verification", "shop", "link")
    assert b"https://id.example.org/_matrix/identity/confirm" in mails.render(make_mail(brand="shop")).content


# --- the form with percent signs -----------------------------------------------------------------


def legacy(source: str, **values: str) -> str:
    return LegacyText.parse(source, Path("f")).render(values)


def test_legacy_values() -> None:
    assert legacy("%(a)s 100%% %(a_forhtml)s %(a_forurl)s", a="<ü&") == "<ü& 100% &lt;ü&amp; %3C%C3%BC%26"
    assert legacy("[%(gone)s%(gone_forhtml)s%(gone_forurl)s]") == "[]"
    assert legacy("%(org.matrix.web_client_location)s", **{"org.matrix.web_client_location": "w"}) == "w"
    assert legacy("%(a).2s|%(a)5s|%(a)-5s|", a="abc") == "ab|  abc|abc  |"
    assert legacy("%%(a)s", a="x") == "%(a)s"
    assert legacy("%(a)s", a="%(b)s%", b="x") == "%(b)s%"


def test_nobody_but_us_makes_the_escaped_form_of_a_value() -> None:
    values = {"name": "<b>", "name_forhtml": "<script>", "other_forhtml": "<script>"}
    assert legacy("%(name_forhtml)s%(other_forhtml)s", **values) == "&lt;b&gt;"


@pytest.mark.parametrize(
    "source", ["a\n100% sure", "a\n%(a)d", "a\n%(a)r", "a\n%s", "a\n%", "a\n%(a", "a\n%(a)9999s"]
)
def test_a_percent_sign_that_stands_for_nothing_is_told(source: str) -> None:
    with pytest.raises(ValueError, match="f, line 2: a % must be written %%"):
        LegacyText.parse(source, Path("f"))


# --- faults --------------------------------------------------------------------------------------


def test_every_fault_is_told_at_load_with_file_and_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"a/{RAW}.j2": "Subject: x\n\n{% if %}",
            f"b/{RAW}": "Subject: x\n\n\n100% sure",
            "c/verify_response_template.html": "<p>\n%(mesage)s",
            "d/invite_template.eml": "x" * 600_000,
        },
    )
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / RAW).write_bytes(b"Subject: x\n\nGr\xfc\xdfe")
    gone = tmp_path / "gone.eml"
    with pytest.raises(BrandingProblems) as caught:
        load(tmp_path, overrides=SydentOverrides(verification=gone))
    told = sorted(problem.removeprefix(f"{tmp_path}/") for problem in caught.value.problems)
    assert [each.partition(": ")[0] for each in told] == [
        f"a/{RAW}.j2, line 3",
        f"b/{RAW}, line 4",
        "c/verify_response_template.html, line 2",
        "d/invite_template.eml",
        f"e/{RAW}, line 3",
        "gone.eml",
    ]
    assert "no value named mesage" in told[2]
    assert "not UTF-8" in told[4]


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        (f"{RAW}.j2", "Subject: x\n\n\n{{ link.nope.nope }}", ", line 4: UndefinedError"),
        (f"{RAW}.j2", "Subject: x\n\n{{ link.__class__.__mro__[1].__subclasses__() }}", ", line 3: SecurityError"),
        (f"{RAW}.j2", "Subject: x\n\n{% include 'gone' %}", ", line 3: TemplateNotFound"),
        (RAW, "Subject: x\n\n%(lnik)s", ", line 3: there is no value named lnik"),
        (RAW, "Subject: x\nno colon here\n\n%(link)s", ": not a proper message (MissingHeaderBodySeparatorDefect)"),
        (
            RAW,
            'Subject: x\nContent-Type: multipart/mixed; boundary="b"\n\n--c\n\n%(link)s',
            ": not a proper message (StartBoundaryNotFoundDefect)",
        ),
        ("invite_template.eml.j2", "Subject: x\n\n{{ 1 // 0 }}", ", line 3: ZeroDivisionError"),
    ],
)
def test_a_fault_that_shows_with_sample_values_is_told(tmp_path: Path, file: str, text: str, expected: str) -> None:
    mails = make_mails(load(write(tmp_path, {f"shop/{file}": text})))
    with pytest.raises(BrandingProblems) as caught:
        mails.check()
    assert caught.value.problems == (f"{tmp_path}/shop/{file}{expected}",)


def test_proper_files_pass_the_check(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            f"shop/{RAW}": LEGACY,
            f"ours/{RAW}.j2": JINJA,
            "shop/invite_template.eml": "Subject: %(subject_header_value)s\n\n%(anything_of_the_request)s %(room_name)s",
            "ours/invite_template.eml.j2": "Subject: x\n\n{{ room_name.split() }}{{ whatever }}",
            "ours/migration_template.eml.j2": "Subject: x\n\n{{ mxid }}",
        },
    )
    with capture_logs() as logs:
        make_mails(load(tmp_path)).check()
    assert logs == []


def test_a_mail_without_headers_is_mentioned(tmp_path: Path) -> None:
    mails = make_mails(load(write(tmp_path, {f"shop/{RAW}": "<<<%(token)s>>>\n"})))
    with capture_logs() as logs:
        mails.check()
    assert [each["file"] for each in logs] == [f"{tmp_path}/shop/{RAW}"]
