"""Which homeservers' users the operator serves, and with what.

The rule: a name that is denied is denied, whatever allows it.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from identity_server.domain.errors import HomeserverDenied
from identity_server.domain.identifiers import ServerName, UserId, server_of, split_server_name

_REMEMBERED = 10_000
_WILDCARDS = frozenset("*?")


def is_pattern(name: str) -> bool:
    """Whether this stands for more than one name."""
    return not _WILDCARDS.isdisjoint(name)


class ServerPatterns:
    """Names of homeservers, in lower case, in which `*` stands for any characters and `?` for one."""

    def __init__(self, patterns: Iterable[str]) -> None:
        patterns = frozenset(patterns)
        globs = [each for each in patterns if is_pattern(each)]
        self._names = patterns.difference(globs)
        # The brackets of an IPv6 address are no set of characters.
        self._globs = re.compile("|".join(fnmatch.translate(each.replace("[", "[[]")) for each in globs) or "(?!)")

    def match(self, name: str) -> bool:
        """Whether one of them stands for this name."""
        return name in self._names or self._globs.match(name) is not None


class HomeserverList:
    """Whose users may do something.

    Args:
        allowed: who may; nothing means everyone. A name without port is that homeserver and no other.
        denied: who may not, for all that. A name without port is that host with every port: ports cost nothing.
    """

    def __init__(self, *, allowed: Sequence[str] = (), denied: Sequence[str] = ()) -> None:
        self._is_open = not (allowed or denied)
        self._allowed = ServerPatterns(allowed or ("*",))
        self._denied = ServerPatterns(denied)
        self._verdicts: dict[ServerName, bool] = {}

    def admits(self, server_name: ServerName) -> bool:
        """Whether users of this homeserver may."""
        if self._is_open:
            return True
        verdict = self._verdicts.get(server_name)
        if verdict is None:
            if len(self._verdicts) >= _REMEMBERED:
                # Anybody may name a homeserver.
                self._verdicts.clear()
            verdict = self._verdicts[server_name] = self._decide(server_name)
        return verdict

    def _decide(self, server_name: ServerName) -> bool:
        host, _ = split_server_name(server_name)
        if self._denied.match(server_name) or self._denied.match(host):
            return False
        return self._allowed.match(server_name)


@dataclass(frozen=True, slots=True)
class HomeserverPolicy:
    """What the operator lets the users of which homeservers do.

    Attributes:
        using: have an account, and use it.
        binding: bind addresses, or be what an address is bound to.
        looking_up: look addresses up.
    """

    using: HomeserverList
    binding: HomeserverList
    looking_up: HomeserverList

    def require_binding(self, user_id: UserId) -> None:
        """Let pass only whom addresses may be bound to.

        Raises:
            HomeserverDenied: not to users of that homeserver.
        """
        server_name = server_of(user_id)
        if not (self.using.admits(server_name) and self.binding.admits(server_name)):
            raise HomeserverDenied("This identity server does not bind addresses to users of that homeserver.")

    def require_looking_up(self, user_id: UserId) -> None:
        """Let pass only who may look addresses up.

        Raises:
            HomeserverDenied: not users of that homeserver.
        """
        if not self.looking_up.admits(server_of(user_id)):
            raise HomeserverDenied("This identity server does not answer lookups of users of that homeserver.")
