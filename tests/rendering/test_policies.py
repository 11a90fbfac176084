from __future__ import annotations

from pathlib import Path

import pytest

import identity_server
from identity_server.domain.terms import Acceptance, Translation
from identity_server.rendering.policies import PolicyProblems, load_policies, markdown_to_html
from tests.rendering.kit import write

BASE = "https://id.example.org"
EXAMPLES = Path(identity_server.__file__).parent.parent / "terms"


def policy(
    policy_id: str = "privacy",
    version: str = "1.0",
    language: str = "en",
    title: str = "Privacy",
    text: str = "Text.",
) -> str:
    return f"---\nid: {policy_id}\nversion: {version}\nlanguage: {language}\ntitle: {title}\n---\n{text}\n"


def problems_of(path: Path) -> list[str]:
    with pytest.raises(PolicyProblems) as caught:
        load_policies(path, base_url=BASE)
    return list(caught.value.problems)


def test_the_examples_are_whole() -> None:
    policies = load_policies(EXAMPLES, base_url=BASE + "/")
    assert {each.id: set(each.translations) for each in policies.terms.policies} == {
        "privacy_policy": {"de", "en", "es", "fr"},
        "terms_of_service": {"de", "en", "es", "fr"},
    }
    assert {each.version for each in policies.terms.policies} == {"1.2"}
    url = f"{BASE}/_matrix/identity/terms/privacy_policy/1.2/fr"
    assert policies.terms.find(url) == Acceptance("privacy_policy", "1.2", "fr", url)
    for document in policies.documents:
        assert "[OP" in document.html
        assert document.html.startswith("<p>")


def test_a_document_is_found_by_what_its_url_says(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.md": policy(version="1.10", text="# One\n\n## Two"),
            "b.md": policy(version="1.10", language="no", title="Personvern"),
            "c.md": policy("tos"),
            "notes.txt": "not a policy",
        },
    )
    policies = load_policies(tmp_path, base_url=BASE)
    document = policies.find("privacy", "1.10", "no")
    assert document is not None
    assert document.title == "Personvern"
    assert [each.language for each in policies.translations(document)] == ["en", "no"]
    assert policies.find("privacy", "1.1", "no") is None
    english = policies.find("privacy", "1.10", "en")
    assert english is not None
    assert english.html == "<h2>One</h2>\n<h3>Two</h3>\n"


def test_loading_again_sees_what_changed_and_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path, {"a.md": policy()})
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    first = load_policies(tmp_path, base_url=BASE)
    assert load_policies(tmp_path, base_url=BASE) == first
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before
    write(tmp_path, {"a.md": policy(version="2")})
    assert load_policies(tmp_path, base_url=BASE).terms.policies[0].version == "2"


def test_every_problem_is_told_at_once_with_its_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "01.md": policy(),
            "02.md": policy(language="EN"),
            "03.md": policy(language="fr", version="2.0"),
            "04.md": "no front matter",
            "05.md": "---\nid: x\n---\nText.",
            "06.md": policy(language="en_GB"),
            "07.md": policy("a/../b"),
            "08.md": policy(version="'1 0'"),
            "09.md": policy("empty", text=""),
            "10.md": policy("list", title="[a, b]"),
            "11.md": "---\nid: [\n---\nText.",
            "12.md": policy("twice").replace("title:", "id: again\ntitle:"),
            "13.md": policy("large", text="x" * 300_000),
            "15.md": policy("extra").replace("title:", "author: me\ntitle:"),
            "16.md": policy(".."),
        },
    )
    (tmp_path / "14.md").write_bytes(policy("latin", title="Priv\u00e9").encode("latin-1"))
    told = problems_of(tmp_path)
    expected = {
        "02": "already in 01.md",
        "03": "version '2.0' of 'privacy', but 01.md has '1.0'",
        "04": "front matter",
        "05": "version is missing",
        "06": "language must be a tag",
        "07": "id must be",
        "08": "version must be",
        "09": "the text is empty",
        "10": "title must be",
        "11": "not valid YAML",
        "12": "stands twice",
        "13": "larger than",
        "14": "not UTF-8",
        "15": "author is not a field",
        "16": "id must be",
    }
    for name, what in expected.items():
        assert any(f"{name}.md: " in line and what in line for line in told), (name, told)
    assert not any("01.md: " in line for line in told)


def test_an_empty_or_missing_place_is_a_problem(tmp_path: Path) -> None:
    assert "no policy" in problems_of(tmp_path)[0]
    assert "cannot be read" in problems_of(tmp_path / "absent.yaml")[0]


@pytest.mark.parametrize(
    "markdown",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "[x](data:text/html,hello)",
        "![x](https://tracker.example/p.gif)",
        '<a href="x" onclick="alert(1)">x</a>',
        "<style>body{display:none}</style>",
    ],
)
def test_markdown_brings_nothing_active(markdown: str) -> None:
    html = markdown_to_html(markdown)
    for forbidden in ("<script", "<img", "<style", 'href="javascript', 'href="data', "<a onclick", '<a href="x"'):
        assert forbidden not in html


def test_markdown_links_and_tables_stay() -> None:
    html = markdown_to_html("[site](https://x.example/a?b=1&c=2)\n\n|a|b|\n|-|-|\n|1|2|")
    assert '<a href="https://x.example/a?b=1&amp;c=2" rel="noopener noreferrer">site</a>' in html
    assert "<td>1</td>" in html


SYDENT = """
master_version: 1.10
docs:
  privacy_policy:
    version: 1.0
    langs:
      en: {name: Privacy Policy, url: "https://example.org/privacy-en.html"}
      no: {name: Personvern, url: "https://example.org/privacy-no.html"}
  terms_of_service:
    version: "2"
    langs:
      en: {name: Terms of Service, url: "https://example.org/tos.html"}
"""


def test_sydent_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, {"terms.yaml": SYDENT}) / "terms.yaml"
    policies = load_policies(path, base_url=BASE)
    assert policies.documents == ()
    assert policies.terms.master_version == "1.10"
    privacy, service = policies.terms.policies
    assert (privacy.id, privacy.version, service.version) == ("privacy_policy", "1.0", "2")
    assert privacy.translations["no"] == Translation("Personvern", "https://example.org/privacy-no.html")


def test_every_problem_of_sydent_yaml_is_told_at_once(tmp_path: Path) -> None:
    text = """
docs:
  a:
    langs:
      en: {name: A, url: "javascript:alert(1)"}
      version: {name: A, url: "https://example.org"}
      fr: {url: /relative}
  b: text
"""
    path = write(tmp_path, {"terms.yaml": text}) / "terms.yaml"
    told = problems_of(path)
    assert all(line.startswith(str(path)) for line in told)
    for what in (
        "master_version is missing",
        "docs.a.version is missing",
        "docs.a.langs.en.url must be an http(s) URL",
        "docs.a.langs.version: not a language tag",
        "docs.a.langs.fr.name is missing",
        "docs.a.langs.fr.url must be",
        "docs.b is missing or not a mapping",
    ):
        assert any(what in line for line in told), (what, told)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1, 2]",
        "a: [",
        "docs: 1\nmaster_version: 2",
        "a: 1\na: 2",
        "- " * 5_000,
        "!!python/object/apply:os.system [id]",
    ],
)
def test_broken_yaml_is_a_problem_and_no_more(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, {"terms.yaml": text}) / "terms.yaml"
    assert problems_of(path)
