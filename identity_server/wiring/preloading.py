"""What every worker needs, whatever its configuration says: loaded before it reads any.

The rule: only what comes with the package is loaded here, as code is. What an operator wrote is tried by a worker.
"""

from __future__ import annotations

from identity_server.domain.server_domains import load_suffixes
from identity_server.rendering.templates import load_packaged


def preload() -> None:
    """Load it."""
    load_packaged()
    load_suffixes()
