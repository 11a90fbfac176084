"""Makes a site of what is written for readers of the repository.

The README is its first page, and a link to a file that isn't documentation becomes that file's name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_TAKEN_ALONG = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along what stands outside of docs/."""
    root = Path(config.config_file_path).parent
    for name, page in _TAKEN_ALONG.items():
        files.append(File.generated(config, page, content=(root / name).read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Have links stay within the site."""
    folder = "" if page.file.src_uri in _TAKEN_ALONG.values() else "docs"
    return _LINK.sub(lambda link: _led(link, folder=folder), markdown)


def _led(link: re.Match[str], *, folder: str) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    path = posixpath.normpath(posixpath.join(folder, target))
    if path in _TAKEN_ALONG:
        return f"[{text}]({_TAKEN_ALONG[path]}{anchor})"
    if path.startswith("docs/"):
        return f"[{text}]({path.removeprefix('docs/')}{anchor})"
    return f"{text} (`{path}`)" if text.strip("`") != path else f"`{path}`"
