"""The wheel and the sdist: complete, and enough to run the server from where there is nothing else of it.

What the server depends on comes from this environment; of the package itself there is only what the wheel holds.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from identity_server import __version__
from tests.e2e.processes import PATIENCE_SECONDS, Program, reserve_port

_REPOSITORY: Final = Path(__file__).parents[2]
_NAME: Final = f"matrix_identity_server-{__version__}"
_SHIPPED: Final = ("migrations", "terms", "sydent.conf.example")


# --- what is in them ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Distributions:
    """What would be released, and the wheel that others would build from the sdist."""

    sdist: Path
    wheel: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    folder = tmp_path_factory.mktemp("distributions")
    build(_REPOSITORY, folder / "ours", "sdist", "wheel")
    sdist = folder / "ours" / f"{_NAME}.tar.gz"
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    build(folder / _NAME, folder / "theirs", "wheel")
    wheel = f"{_NAME}-py3-none-any.whl"
    return Distributions(sdist, folder / "ours" / wheel, folder / "theirs" / wheel)


def build(source: Path, target: Path, *kinds: str) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-d", target, *(f"-t{kind}" for kind in kinds), cwd=source)


def run(*command: str | Path, cwd: Path) -> str:
    """What a command says; that it fails fails the test."""
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=PATIENCE_SECONDS, cwd=cwd, env={}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_in(*names: str) -> dict[str, bytes]:
    """Every file of the repository below these names, by its path, with what it holds."""
    paths = [path for name in names for path in ((_REPOSITORY / name), *(_REPOSITORY / name).rglob("*"))]
    kept = (path for path in paths if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(_REPOSITORY).as_posix(): path.read_bytes() for path in kept}


def files_of(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


def test_wheel_holds_every_file_and_no_other(distributions: Distributions) -> None:
    held = files_of(distributions.wheel)
    expected = files_in("identity_server")
    expected |= {f"identity_server/_shipped/{name}": content for name, content in files_in(*_SHIPPED).items()}
    assert {name: held[name] for name in held if ".dist-info/" not in name} == expected
    for name in ("py.typed", "api/openapi.json", "_shipped/migrations/env.py", "_shipped/terms/privacy_policy.de.md"):
        assert f"identity_server/{name}" in held
    assert f"{_NAME}.dist-info/licenses/LICENSE" in held


def test_wheel_of_the_sdist_is_the_same(distributions: Distributions) -> None:
    assert files_of(distributions.wheel_of_sdist) == files_of(distributions.wheel)


def test_sdist_holds_everything_that_belongs_to_the_project(distributions: Distributions) -> None:
    if not (_REPOSITORY / ".git").exists():
        pytest.skip("only git knows what belongs to the project")
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=_REPOSITORY).split("\0")
    kept = {name for name in listed if name and not name.startswith((".ci/", ".dockerignore"))}
    with tarfile.open(distributions.sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    assert kept <= held
    assert held - kept == {"PKG-INFO"}


def test_everything_that_is_imported_is_declared() -> None:
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    declared = {normal(re.split(r"[\[<>=!~; ]", each)[0]) for each in [*project["dependencies"], *extras]}
    owners = packages_distributions()
    imported = {name for path in (_REPOSITORY / "identity_server").rglob("*.py") for name in imports_of(path)}
    others = imported - sys.stdlib_module_names - {"identity_server"}

    def owners_of(name: str) -> set[str]:
        # Several packages may share a name, and those of an extra needn't be installed.
        owned = owners.get(name) or [each for each in declared if f"{each}-".startswith(f"{normal(name)}-")]
        return {normal(owner) for owner in owned}

    assert {name for name in others if not owners_of(name) & declared} == set()


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imports_of(path: Path) -> Iterator[str]:
    """The top-level packages that a module names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


# --- what they can do ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Installation:
    """An environment that has nothing of this repository but an installed wheel."""

    folder: Path
    port: int

    @property
    def conf(self) -> Path:
        return self.folder / "sydent.conf"

    @property
    def python(self) -> Path:
        return self.folder / "env" / "bin" / "python"

    @property
    def command(self) -> Path:
        return self.folder / "env" / "bin" / "identity-server"

    def ask(self, *arguments: str) -> str:
        """What a command says about the configuration."""
        return run(self.command, *arguments, "-c", self.conf, cwd=self.folder)

    def get(self, path: str, *, language: str = "en") -> str:
        """The body of an answer."""
        request = Request(f"http://127.0.0.1:{self.port}{path}", headers={"Accept-Language": language})
        # No proxy of the surroundings may come between.
        with build_opener(ProxyHandler({})).open(request, timeout=PATIENCE_SECONDS) as answer:
            body: bytes = answer.read()
            return body.decode()

    def is_up(self) -> bool:
        try:
            return bool(self.get("/health"))
        except (URLError, ConnectionError):
            return False


@pytest.fixture(params=["wheel", "wheel_of_sdist"])
def installation(request: pytest.FixtureRequest, distributions: Distributions, tmp_path: Path) -> Installation:
    installed = Installation(tmp_path, reserve_port())
    venv.create(tmp_path / "env", symlinks=True)
    wheel = getattr(distributions, request.param)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", installed.python)
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    [packages] = (tmp_path / "env" / "lib").glob("python*/site-packages")
    # Lines of it are looked through after what stands beside it; .pth files that lie there don't count.
    dependencies = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    shipped = packages / "identity_server" / "_shipped"
    installed.conf.write_text(f"""
[general]
server.name = id.example.org
terms.path = {shipped / "terms"}
pidfile.path =
[db]
db.file = {tmp_path}/db/identity.db
[crypto]
key_dir = {tmp_path}/keys
[http]
clientapi.http.bind_address = 127.0.0.1
clientapi.http.port = {installed.port}
client_http_base = https://id.example.org
[email]
email.from = Identity server <noreply@example.org>
""")
    return installed


def test_installed_it_is_the_server(installation: Installation) -> None:
    place = run(installation.python, "-c", "import identity_server; print(identity_server.__file__)", cwd=Path("/"))
    assert place.startswith(str(installation.folder))
    assert __version__ in run(installation.command, "--version", cwd=Path("/"))
    installation.ask("check-config", "--strict")
    assert re.search(r"^schema \d{4}$", installation.ask("db", "upgrade"), re.MULTILINE)
    server = Program(
        "identity server",
        [installation.command, "serve", "-c", installation.conf],
        log=installation.folder / "server.log",
        home=installation.folder,
    )
    try:
        server.start()
        server.wait_until(installation.is_up)
        assert "well" in installation.ask("health", "--ready")
        assert_answers(installation)
        assert server.stop() == 0
    finally:
        server.kill()


def assert_answers(installation: Installation) -> None:
    """Terms, templates, translations and the API's document have come along."""
    policies: dict[str, Any] = json.loads(installation.get("/_matrix/identity/v2/terms"))["policies"]
    assert set(policies["terms_of_service"]) == {"version", "de", "en", "es", "fr"}
    path = policies["terms_of_service"]["fr"]["url"].removeprefix("https://id.example.org")
    assert '<html lang="fr"' in installation.get(path)
    assert '<html lang="de"' in installation.get("/_matrix/identity/privacy", language="de")
    document = json.loads(installation.get("/_matrix/identity/openapi.json"))
    assert document["info"]["version"] == __version__
