"""The template engine: one sandboxed environment per brand and language.

Rule: HTML templates escape whatever they show, no template sees anything but the values it was handed,
and a missing value is an error rather than an empty space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import urlencode

from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from identity_server.rendering.brands import Brand, Brands, BrandSource, load_brands
from identity_server.rendering.colours import Palette
from identity_server.rendering.compiled import CompiledTemplates
from identity_server.rendering.faults import BrandingProblems, TemplateFault
from identity_server.rendering.languages import Language, Languages
from identity_server.rendering.sydent_files import SydentFiles, SydentOverrides

_PACKAGED_TEMPLATES = Path(__file__).parent.parent / "templates"
"""Where the templates of this package lie."""

PRIVACY_PATH = "/_matrix/identity/privacy"
"""Where people see what is held about them, below the public base URL; every page and mail leads there."""

_SUFFIX = ".j2"
_COMPILED = CompiledTemplates()


class Templates:
    """Every template, by brand and language.

    Attributes:
        languages: the languages there are.
        server_name: the identity server's name.
        privacy_url: where people see what is held about them.
        sydent: the templates that an operator brought along from Sydent.
    """

    def __init__(
        self, *, brands: Brands, languages: Languages, server_name: str, privacy_url: str, sydent: SydentFiles
    ) -> None:
        self.languages = languages
        self.server_name = server_name
        self.privacy_url = privacy_url
        self.sydent = sydent
        self._brands = brands
        self._environments: dict[tuple[tuple[Path, ...], str], ImmutableSandboxedEnvironment] = {}

    @classmethod
    def load(
        cls,
        *,
        server_name: str,
        base_url: str | None = None,
        languages: Languages | None = None,
        path: Path | None = None,
        default_brand: str = "matrix-org",
        sydent_overrides: SydentOverrides | None = None,
    ) -> Templates:
        """Find the brands and compile every template of theirs.

        Args:
            server_name: the identity server's name; also the name of the plain brand.
            base_url: where the world reaches the server; https and its name by default.
            languages: the catalogues; those of the package by default.
            path: `templates.path`, or None where it isn't set or doesn't exist.
            default_brand: `brand.default`.
            sydent_overrides: single files in Sydent's form that the configuration names.

        Raises:
            BrandingProblems: everything that is wrong with the brands.
        """
        brands = load_brands(path, default_brand=default_brand, server_name=server_name)
        sydent = SydentFiles.load(brands, root=path, overrides=sydent_overrides or SydentOverrides())
        templates = cls(
            brands=brands,
            languages=languages or Languages.load(),
            server_name=server_name,
            privacy_url=(base_url or f"https://{server_name}") + PRIVACY_PATH,
            sydent=sydent,
        )
        templates._require_languages()
        templates._compile_all()
        return templates

    def brand(self, name: str | None) -> Brand:
        """The brand of this name, else the default one."""
        return self._brands.find(name).brand

    def language_for(self, wanted: Iterable[str], brand: str | None) -> Language:
        """The first wanted language that there is, else the brand's, else the server's."""
        return self.languages.negotiate(wanted, default=self.languages.find(self.brand(brand).language))

    @property
    def brand_names(self) -> tuple[str | None, ...]:
        """Every brand that has a name, after None for the default."""
        return (None, *self._brands.named)

    @property
    def changed_brands(self) -> tuple[str | None, ...]:
        """Those among `brand_names` with files of the operator's, which a start has to try; the package's own are tested."""
        return tuple(
            name
            for name in self.brand_names
            if self._brands.find(name).directories or self.sydent.page(name) is not None
        )

    def asking_for(self, brand: str | None) -> list[tuple[str, str]]:
        """The parameters by which a link asks for a brand; none if there is no such brand, or it is the default."""
        name = self.brand_in_links(brand)
        return [] if name is None else [("brand", name)]

    def brand_in_links(self, brand: str | None) -> str | None:
        """The name by which a link asks for a brand; None if there is no such brand, or it is the default."""
        is_default = brand is None or self._brands.find(brand) is self._brands.default
        return None if is_default else brand

    def has_mail(self, template: str, brand: str | None) -> bool:
        """Whether a brand has a mail of this name; one whose mails are Sydent's has only those that Sydent sends."""
        if self.sydent.mail(template, brand) is not None:
            return True
        if self.sydent.silences(template, brand):
            return False
        folders = (*self._brands.find(brand).directories, _PACKAGED_TEMPLATES)
        return any((folder / "mail" / f"{template}.txt{_SUFFIX}").is_file() for folder in folders)

    def render(self, template: str, *, language: Language, brand: str | None, variables: Mapping[str, object]) -> str:
        """Render one template.

        Besides `variables` it sees `brand`, `footer`, `palette`, `server_name`, `privacy_url`, `language` and
        `brand_query`, which keeps a link within the brand that was asked for.

        Raises:
            TemplateFault: there is no such template, or it fails.
        """
        source = self._brands.find(brand)
        environment = self._environment(source, language)
        context = {
            # Who invites gives texts whatever names they like, and none may stand for what templates call.
            **{name: value for name, value in variables.items() if name not in environment.globals},
            "brand": source.brand,
            "footer": source.brand.footer_in(language.tag),
            "palette": Palette.of(source.brand.colour),
            "server_name": self.server_name,
            "privacy_url": self.privacy_url,
            "brand_query": "".join(f"?{urlencode([each])}" for each in self.asking_for(brand)),
            "language": language,
        }
        try:
            return environment.get_template(template).render(context)
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            # The text of the error may quote a value, so only its kind is told.
            raise TemplateFault(f"template {template}: {type(error).__name__}") from None

    def _environment(self, source: BrandSource, language: Language) -> ImmutableSandboxedEnvironment:
        key = (source.directories, language.tag)
        if key not in self._environments:
            self._environments[key] = _make_environment((*source.directories, _PACKAGED_TEMPLATES), language)
        return self._environments[key]

    def _require_languages(self) -> None:
        problems = [
            f"brand {name}: there is no catalogue for the language {language!r}"
            for name in self.brand_names
            if (language := self.brand(name).language) is not None and self.languages.find(language) is None
        ]
        if problems:
            raise BrandingProblems(problems)

    def _compile_all(self) -> None:
        problems: list[str] = []
        for directory in sorted({each for name in self.brand_names for each in self._brands.find(name).directories}):
            environment = _make_environment((directory,), self.languages.default)
            for name in environment.list_templates(filter_func=lambda name: name.endswith(_SUFFIX)):
                if not name.startswith(("mail/", "pages/")):
                    continue
                try:
                    environment.get_template(name)
                except (TemplateError, UnicodeError) as error:
                    line = getattr(error, "lineno", None)
                    where = f"{directory / name}" + (f", line {line}" if line else "")
                    problems.append(f"{where}: {type(error).__name__}: {error}")
        if problems:
            raise BrandingProblems(problems)


def _make_environment(directories: tuple[Path, ...], language: Language) -> ImmutableSandboxedEnvironment:
    """An environment that reads from these directories and speaks this language."""
    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(directories),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        bytecode_cache=_COMPILED,
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.filters["moment"] = _moment_in(language)
    # The i18n extension adds this method when it is loaded.
    environment.install_gettext_translations(language.translations, newstyle=True)  # type: ignore[attr-defined]
    return environment


def _moment_in(language: Language) -> Callable[[Context, int | str], str]:
    # Whatever takes the context isn't worked out when a template is compiled, which is for all languages.
    @pass_context
    def moment(_context: Context, timestamp_ms: int | str) -> str:
        return language.moment(timestamp_ms)

    return moment


def load_packaged() -> None:
    """Read and compile what comes with this package, so that processes that are forked needn't."""
    environment = _make_environment((_PACKAGED_TEMPLATES,), Languages.load().default)
    for name in environment.list_templates(filter_func=lambda name: name.endswith(_SUFFIX)):
        environment.get_template(name)
