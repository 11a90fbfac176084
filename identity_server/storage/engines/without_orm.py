"""SQLAlchemy's asynchronous engine without its ORM, which nothing here uses.

`sqlalchemy.ext.asyncio` comes with sessions, and these with the whole ORM: six megabytes in a process. The rule: only
the two modules that need it are stood in for, only while the package is imported, and whoever has them already keeps them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import NoReturn

_PACKAGE = "sqlalchemy.ext.asyncio"
_NEED_THE_ORM = (f"{_PACKAGE}.scoping", f"{_PACKAGE}.session")


class _NotLoaded(ModuleType):
    """Has whatever the package takes from it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent


class _Absent:
    def __init__(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(
            "SQLAlchemy's ORM isn't loaded in this server: see identity_server/storage/engines/without_orm.py"
        )


def import_engine() -> None:
    """Import the package, with nothing in the place of sessions."""
    if _PACKAGE in sys.modules:
        return
    sys.modules.update({name: _NotLoaded(name) for name in _NEED_THE_ORM})
    try:
        importlib.import_module(_PACKAGE)
    finally:
        for name in _NEED_THE_ORM:
            del sys.modules[name]
