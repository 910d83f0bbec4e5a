"""`Peers`: how many connections each client address has, so that one client's thousand do not lock out the rest."""

from __future__ import annotations

from collections import Counter


class Peers:
    """Of one listener. `limit`: connections that one address may have, 0 = any number. The loop's thread alone.

    A client without an address (a Unix socket's) is not counted.
    """

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self._hosts: dict[object, str] = {}
        self._counts: Counter[str] = Counter()

    def full(self, host: str, factor: int = 1) -> bool:
        """Whether an address has as many connections as it may, or `factor` times as many."""
        return bool(self.limit and self._counts[host] >= factor * self.limit)

    def enter(self, connection: object, host: str) -> None:
        if self.limit and host:
            self._hosts[connection] = host
            self._counts[host] += 1

    def leave(self, connection: object) -> None:
        """A connection has ended; said twice it counts once."""
        host = self._hosts.pop(connection, "")
        if host:
            self._counts[host] -= 1
            if not self._counts[host]:
                del self._counts[host]
