"""structlog without rich, which it would paint tracebacks with and which nothing here asks it for.

Where rich is installed for the demo and for progress bars, it would be four megabytes in every process that logs. The
rule: it is out of sight only while structlog is imported; whoever wants it has it afterwards.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import cast

_RICH = "rich"


def import_structlog() -> None:
    """Import it, without rich unless somebody has imported that before."""
    if _RICH in sys.modules:
        return
    # This is how Python is told that there is no such module.
    sys.modules[_RICH] = cast("ModuleType", None)
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules[_RICH]
