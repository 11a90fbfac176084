"""What every worker needs, whatever its configuration says; server/loading.py has the rule, and says when and where."""

from __future__ import annotations

from identity_server.domain.server_domains import load_suffixes
from identity_server.rendering.templates import load_packaged


def preload() -> None:
    """Load it, once for the process."""
    load_packaged()
    load_suffixes()
