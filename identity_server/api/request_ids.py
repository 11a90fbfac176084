"""What a request is called in the log and in its answer.

The rule: nothing that a caller wrote. Only a proxy that is trusted, and that the operator has told us gives every
request an id, is believed; and only if what it says looks like an id.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web

from identity_server.api.proxies import TrustedProxies
from identity_server.domain.ports import Randomness
from identity_server.domain.random_values import opaque

ANSWER_HEADER: Final = "X-Request-ID"
"""Where every answer says what its request was called."""

_PARENT_HEADER: Final = "traceparent"
_PREFIX_BYTES = 9
# Long enough for a UUID, or two; and nothing in it ends a line, a field or a word of the log.
_ID = re.compile(r"[A-Za-z0-9._-]{8,80}")


class RequestIds:
    """Names requests.

    Args:
        header: where proxies write the id that they gave a request; None if they don't.
        proxies: those that are believed.
        traced: whether requests are traced.
    """

    def __init__(
        self, *, randomness: Randomness, header: str | None, proxies: TrustedProxies, traced: bool = False
    ) -> None:
        # Nobody else's, and then counted: an id has to tell requests apart, not to be hard to guess.
        self._prefix = opaque(randomness, _PREFIX_BYTES)
        self._count = 0
        self._header = header
        self._proxies = proxies
        self._traced = traced

    def of(self, request: web.Request) -> str:
        """The id of a request."""
        if self._header is not None and (given := self._given(request, self._header)) is not None:
            return given
        self._count += 1
        return f"{self._prefix}-{self._count:x}"

    def parent_of(self, request: web.Request) -> str | None:
        """What the proxy's part in the trace is called, if there is one; whoever uses it sees whether it makes sense."""
        if not self._traced or not self._proxies.trusts(request.remote or ""):
            return None
        return request.headers.get(_PARENT_HEADER)

    def _given(self, request: web.Request, header: str) -> str | None:
        values = request.headers.getall(header, [])
        # Of several, the caller may have written one.
        is_one = len(values) == 1 and _ID.fullmatch(values[0]) is not None
        return values[0] if is_one and self._proxies.trusts(request.remote or "") else None
