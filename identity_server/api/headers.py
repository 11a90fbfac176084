"""The headers that every answer has."""

from __future__ import annotations

from typing import Final

from multidict import CIMultiDict, CIMultiDictProxy

CORS_HEADERS: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
    # A `*` would not cover Authorization.
    "Access-Control-Allow-Headers": "Origin, X-Requested-With, Content-Type, Accept, Authorization",
}

STANDARD_HEADERS: Final = CIMultiDictProxy(
    CIMultiDict(
        {
            **CORS_HEADERS,
            # It doesn't tell versions.
            "Server": "matrix-identity-server",
        }
    )
)

JSON_HEADERS: Final = CIMultiDictProxy(
    CIMultiDict(
        {
            **STANDARD_HEADERS,
            "Content-Type": "application/json",
            # Some hold an address, and are answers to a GET whose query alone shows that it may be told.
            "Cache-Control": "no-store",
        }
    )
)
