"""Makes a site of what is written for readers of the repository.

The README is its first page, and a link to a file that isn't documentation becomes that file's name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_TAKEN_ALONG = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take along what stands outside of docs/."""
    root = Path(config.config_file_path).parent
    for name, page in _TAKEN_ALONG.items():
        content = _LINK.sub(lambda link: _led(link, folder=""), (root / name).read_text())
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Have links stay within the site."""
    return _LINK.sub(lambda link: _led(link, folder="docs"), markdown)


def _led(link: re.Match[str], *, folder: str) -> str:
    text, target, anchor = link[1], link[2], link[3] or ""
    path = posixpath.normpath(posixpath.join(folder, target))
    if path in _TAKEN_ALONG:
        return f"[{text}]({_TAKEN_ALONG[path]}{anchor})"
    if path.startswith("docs/"):
        return f"[{text}]({path.removeprefix('docs/')}{anchor})"
    if not folder and target in _TAKEN_ALONG.values():
        return link[0]
    return f"{text} (`{path}`)" if text.strip("`") != path else f"`{path}`"
