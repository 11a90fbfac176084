"""A homeserver reduced to what an identity server needs of one: it vouches for its users (OpenID).

The one rule: it speaks only what the Matrix specification says, so that a real homeserver could stand here.
"""

from __future__ import annotations

import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from identity_server.server import open_socket

_LIFETIME_SECONDS = 3600
_TOKEN_BYTES = 24


class SampleHomeserver:
    """Knows its users by their access tokens, and gives out OpenID tokens for them.

    Attributes:
        name: its server name, `localhost:PORT`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._users: dict[str, str] = {}
        self._openid: dict[str, str] = {}

    @property
    def url(self) -> str:
        """Where its users' apps reach it."""
        return f"https://{self.name}"

    def sign_up(self, localpart: str) -> tuple[str, str]:
        """Make a user; returns the Matrix ID, and the access token that only the user's own app has."""
        user_id, token = f"@{localpart}:{self.name}", secrets.token_urlsafe(_TOKEN_BYTES)
        self._users[token] = user_id
        return user_id, token

    def routes(self) -> list[web.RouteDef]:
        """What it answers."""
        return [
            web.post("/_matrix/client/v3/user/{user_id}/openid/request_token", self._request_token),
            web.get("/_matrix/federation/v1/openid/userinfo", self._userinfo),
        ]

    async def _request_token(self, request: web.Request) -> web.Response:
        """https://spec.matrix.org/v1.20/client-server-api/#openid."""
        user_id = self._users.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if user_id is None:
            return _refusal(401, "M_UNKNOWN_TOKEN", "Unknown access token.")
        if user_id != request.match_info["user_id"]:
            return _refusal(403, "M_FORBIDDEN", "This is another user's.")
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._openid[token] = user_id
        body = {"access_token": token, "token_type": "Bearer", "matrix_server_name": self.name}
        return web.json_response({**body, "expires_in": _LIFETIME_SECONDS})

    async def _userinfo(self, request: web.Request) -> web.Response:
        """https://spec.matrix.org/v1.20/server-server-api/#openid."""
        user_id = self._openid.get(request.query.get("access_token", ""))
        if user_id is None:
            return _refusal(401, "M_UNKNOWN_TOKEN", "Unknown or expired OpenID token.")
        return web.json_response({"sub": user_id})


@asynccontextmanager
async def running_homeserver(tls: ssl.SSLContext) -> AsyncIterator[SampleHomeserver]:
    """A sample homeserver on a free port of loopback, for as long as the block runs."""
    with open_socket("127.0.0.1", 0) as listener:
        homeserver = SampleHomeserver(f"localhost:{listener.getsockname()[1]}")
        app = web.Application()
        app.add_routes(homeserver.routes())
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await web.SockSite(runner, listener, ssl_context=tls).start()
            yield homeserver
        finally:
            await runner.cleanup()


def _refusal(status: int, errcode: str, error: str) -> web.Response:
    return web.json_response({"errcode": errcode, "error": error}, status=status)
