from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from identity_server.config import Config, ConfigError, load


class Loader(Protocol):
    def __call__(self, text: str, *, environ: Mapping[str, str] | None = None, strict: bool = False) -> Config: ...


class Refuser(Protocol):
    def __call__(self, text: str, *, environ: Mapping[str, str] | None = None, strict: bool = False) -> list[str]: ...


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "sydent.conf"


def read(path: Path | None, environ: Mapping[str, str], *, strict: bool = False) -> Config:
    return load(path, environ=environ, strict=strict, hostname=lambda: "machine.example")


@pytest.fixture
def given(conf: Path) -> Loader:
    """Loads a file of this text."""

    def loader(text: str, *, environ: Mapping[str, str] | None = None, strict: bool = False) -> Config:
        conf.write_text(text, encoding="utf-8")
        return read(conf, environ or {}, strict=strict)

    return loader


@pytest.fixture
def refused(given: Loader, conf: Path) -> Refuser:
    """Loads a file of this text, which must be refused; gives the problems with `FILE` for its path."""

    def refuser(text: str, *, environ: Mapping[str, str] | None = None, strict: bool = False) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            given(text, environ=environ, strict=strict)
        assert str(caught.value) == "\n".join(map(str, caught.value.problems))
        return [str(problem).replace(str(conf), "FILE") for problem in caught.value.problems]

    return refuser


def warnings_of(config: Config) -> list[str]:
    return [str(warning).replace(str(config.path), "FILE") for warning in config.warnings]
