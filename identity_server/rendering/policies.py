"""Loads the terms of service, from Markdown files of our own or from Sydent's YAML.

Rule: loading reads files and changes nothing, so a reload is a second load; either everything is right,
or every problem is reported at once and the terms in force stay.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import nh3
import yaml

from identity_server.domain.terms import NO_TERMS, Policy, Terms, Translation
from identity_server.rendering.files import read_bounded

if TYPE_CHECKING:
    from markdown_it.token import Token

TERMS_PATH = "/_matrix/identity/terms/{id}/{version}/{language}"
"""Where the page of a document is, below the public base URL."""

_MAX_FILES = 200
_MAX_BYTES = 262_144
_MAX_TITLE = 200
_MAX_URL = 2_000
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._~-]{0,62}[A-Za-z0-9_])?")
_TAG = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8}){0,4}")
# Sydent takes any key; these are the forms that people use. `version` is a key of its own beside them.
_LOOSE_TAG = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8}){0,4}")
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?P<fields>.*?)^---[ \t]*(?:\n(?P<body>.*))?\Z", re.DOTALL | re.MULTILINE)
_FIELDS = ("id", "version", "language", "title")

_TAGS = {
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "blockquote", "pre", "code", "em", "strong", "s"),
    *("ul", "ol", "li", "a", "table", "thead", "tbody", "tr", "th", "td"),
}


class PolicyProblems(Exception):
    """What is wrong with the policies; the text lists every problem.

    Attributes:
        problems: one line each, with the file it is about.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """One policy in one language, with its text.

    Attributes:
        id: which policy.
        version: the version in force.
        language: the tag of the text's language.
        title: shown to people.
        url: its public address; what an account accepts.
        html: the text, safe to put on a page; its headings start at `h2`.
    """

    id: str
    version: str
    language: str
    title: str
    url: str
    html: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Policies:
    """The terms in force, and the texts that this server shows itself.

    Attributes:
        terms: what accounts are asked to accept.
        documents: the texts; empty where they are published elsewhere (Sydent's YAML).
    """

    terms: Terms = NO_TERMS
    documents: tuple[PolicyDocument, ...] = ()

    def find(self, policy_id: str, version: str, language: str) -> PolicyDocument | None:
        """The document at such a URL, or None."""
        wanted = (policy_id, version, language)
        return next((each for each in self.documents if (each.id, each.version, each.language) == wanted), None)

    def translations(self, document: PolicyDocument) -> tuple[PolicyDocument, ...]:
        """Every language of a document, itself included."""
        return tuple(each for each in self.documents if each.id == document.id)


def load_policies(path: Path, *, base_url: str) -> Policies:
    """Load `terms.path`: a directory of Markdown files, or a YAML file in Sydent's form.

    Args:
        path: the directory or file.
        base_url: the public base URL of this server, without or with a closing slash.

    Raises:
        PolicyProblems: everything that is wrong.
    """
    if path.is_dir():
        return _load_directory(path, base_url=base_url)
    return Policies(terms=_load_sydent_yaml(path))


# --- our own form: Markdown with front matter ----------------------------------------------


def _load_directory(directory: Path, *, base_url: str) -> Policies:
    """Load every `*.md` of a directory: front matter (id, version, language, title), then the text.

    Raises:
        PolicyProblems: everything that is wrong.
    """
    problems: list[str] = []
    files = sorted(directory.glob("*.md"))
    if not files:
        problems.append(f"{directory}: there is no policy (*.md) in this directory")
    if len(files) > _MAX_FILES:
        problems.append(f"{directory}: more than {_MAX_FILES} files")
    found = [
        (file, document)
        for file in files[:_MAX_FILES]
        if (document := _read_document(file, base_url.rstrip("/"), problems)) is not None
    ]
    by_id: dict[str, list[tuple[Path, PolicyDocument]]] = defaultdict(list)
    for file, document in found:
        by_id[document.id].append((file, document))
    for same_id in by_id.values():
        problems += _disagreements(same_id)
    if problems:
        raise PolicyProblems(problems)
    return Policies(
        terms=Terms(policies=tuple(_policy([document for _, document in same_id]) for same_id in by_id.values())),
        documents=tuple(document for _, document in found),
    )


def _policy(documents: list[PolicyDocument]) -> Policy:
    translations = {each.language: Translation(name=each.title, url=each.url) for each in documents}
    return Policy(id=documents[0].id, version=documents[0].version, translations=translations)


def _disagreements(same_id: list[tuple[Path, PolicyDocument]]) -> list[str]:
    """What the files of one policy contradict each other in."""
    problems: list[str] = []
    first_file, first = same_id[0]
    languages: dict[str, Path] = {}
    for file, document in same_id:
        other = languages.setdefault(document.language.casefold(), file)
        if other is not file:
            problems.append(f"{file}: id {document.id!r} in {document.language!r} is already in {other.name}")
        if document.version != first.version:
            problems.append(
                f"{file}: version {document.version!r} of {document.id!r}, but {first_file.name} has {first.version!r}"
            )
    return problems


def _read_document(file: Path, base_url: str, problems: list[str]) -> PolicyDocument | None:
    """Read one file; what is wrong goes to `problems`."""
    try:
        front, body = _split_front_matter(_read_text(file))
        fields = _parse_yaml(front)
    except ValueError as error:
        problems.append(f"{file}: {error}")
        return None
    faults = [*_faults_of_fields(fields), *(() if body else ("the text is empty",))]
    if faults or not isinstance(fields, dict):
        problems.extend(f"{file}: {fault}" for fault in faults)
        return None
    policy_id, version, language, title = (fields[key] for key in _FIELDS)
    url = base_url + TERMS_PATH.format(id=policy_id, version=version, language=language)
    return PolicyDocument(policy_id, version, language, title, url, markdown_to_html(body))


def _split_front_matter(text: str) -> tuple[str, str]:
    match = _FRONT_MATTER.match(text)
    if match is None:
        raise ValueError("must begin with front matter between two lines of ---")
    return match["fields"], (match["body"] or "").strip()


def _faults_of_fields(fields: object) -> list[str]:
    if not isinstance(fields, dict):
        return ["the front matter must be lines of `key: value`"]
    faults = [f"{key} is missing" for key in _FIELDS if not fields.get(key)]
    faults += [f"{key} is not a field of a policy" for key in fields if key not in _FIELDS]
    grammars = {"id": (_NAME, "letters, digits and ._~-"), "version": (_NAME, "letters, digits and ._~-")}
    for key, (grammar, what) in (grammars | {"language": (_TAG, "a tag like en or pt-BR")}).items():
        value = fields.get(key)
        if value and not (isinstance(value, str) and grammar.fullmatch(value)):
            faults.append(f"{key} must be {what}, because it stands in a URL")
    return faults + _faults_of_title(fields.get("title"), "title")


def _faults_of_title(title: object, where: str) -> list[str]:
    if not title or (isinstance(title, str) and len(title) <= _MAX_TITLE and title.isprintable()):
        return []
    return [f"{where} must be one line of text, at most {_MAX_TITLE} characters"]


def markdown_to_html(text: str) -> str:
    """Markdown as HTML that is safe on a page: no raw HTML, scripts, styles or images; headings from `h2`."""
    # A megabyte, which whoever has no policies in Markdown does without.
    from markdown_it import MarkdownIt  # noqa: PLC0415

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(text)
    return nh3.clean(
        str(parser.renderer.render(_below_the_title(tokens), parser.options, {})),
        tags=_TAGS,
        attributes={"a": {"href", "title"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer",
    )


def _below_the_title(tokens: list[Token]) -> list[Token]:
    """The page's title is its one `h1`: headings of the text start at `h2`, whatever level they were written in."""
    headings = [token for token in tokens if token.type in {"heading_open", "heading_close"}]
    top = min((int(token.tag[1]) for token in headings), default=2)
    for token in headings:
        token.tag = f"h{min(int(token.tag[1]) - top + 2, 6)}"
    return tokens


# --- Sydent's form: one YAML file with links ------------------------------------------------


def _load_sydent_yaml(file: Path) -> Terms:
    """Load `master_version` and `docs.NAME.{version, langs.LANG.{name, url}}`.

    Raises:
        PolicyProblems: everything that is wrong.
    """
    try:
        content = _parse_yaml(_read_text(file))
    except ValueError as error:
        raise PolicyProblems([f"{file}: {error}"]) from None
    problems: list[str] = []
    root = _mapping(content, "the file", problems)
    master_version = _text(root.get("master_version"), "master_version", problems)
    docs = _mapping(root.get("docs"), "docs", problems)
    policies = [_sydent_policy(name, value, problems) for name, value in docs.items()]
    if problems:
        raise PolicyProblems(f"{file}: {problem}" for problem in problems)
    return Terms(policies=tuple(policies), master_version=master_version)


def _sydent_policy(name: object, value: object, problems: list[str]) -> Policy:
    where = f"docs.{name}"
    policy = _mapping(value, where, problems)
    version = _text(policy.get("version"), f"{where}.version", problems)
    translations: dict[str, Translation] = {}
    for tag, text in _mapping(policy.get("langs"), f"{where}.langs", problems).items():
        at = f"{where}.langs.{tag}"
        if not isinstance(tag, str) or not _LOOSE_TAG.fullmatch(tag):
            problems.append(f"{at}: not a language tag")
            continue
        fields = _mapping(text, at, problems)
        translation = Translation(
            name=_text(fields.get("name"), f"{at}.name", problems), url=_url(fields.get("url"), f"{at}.url", problems)
        )
        translations[tag] = translation
    return Policy(id=str(name), version=version, translations=translations)


def _mapping(value: object, where: str, problems: list[str]) -> Mapping[Any, object]:
    if isinstance(value, dict) and value:
        return value
    problems.append(f"{where} is missing or not a mapping")
    return {}


def _text(value: object, where: str, problems: list[str]) -> str:
    if not isinstance(value, str) or not value:
        problems.append(f"{where} is missing")
        return ""
    problems.extend(_faults_of_title(value, where))
    return value


def _url(value: object, where: str, problems: list[str]) -> str:
    if isinstance(value, str) and len(value) <= _MAX_URL and value.isprintable() and " " not in value:
        try:
            parts = urlsplit(value)
            if parts.scheme in {"http", "https"} and parts.hostname:
                return value
        except ValueError:
            pass
    problems.append(f"{where} must be an http(s) URL")
    return ""


# --- files ------------------------------------------------------------------------------------


class _Loader(yaml.BaseLoader):
    """YAML in which every scalar is text (`version: 1.10` stays 1.10, `no:` is Norwegian) and no key comes twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen: set[str] = set()
        for each, _ in node.value:
            key = self.construct_object(each, deep=True)
            if not isinstance(key, str) or key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", each.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _parse_yaml(text: str) -> object:
    """Parse YAML.

    Raises:
        ValueError: it isn't YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - makes strings, lists and mappings only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f" in line {mark.line + 1}" if mark else ""
        raise ValueError(f"not valid YAML{line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError):
        raise ValueError("not valid YAML") from None


def _read_text(file: Path) -> str:
    """Read a file of text.

    Raises:
        ValueError: it can't be read, is too large or isn't UTF-8.
    """
    try:
        return read_bounded(file, max_bytes=_MAX_BYTES).decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ValueError("not UTF-8") from None
