"""The jitneys that the ingress knows: which one takes the next request, and which ones do not answer.

One event loop owns all of it. A replica that was told of is up; it is down when a connection to it is refused or when it leaves a
ping unanswered for `patience` seconds, until a ping is answered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Mapping

from .record import Record
from .upstream import Connection, Lost

CONNECT_SECONDS = 3.0
_PING = b"GET /v2/health/live HTTP/1.1\r\nhost: jitney\r\n\r\n"
_KEPT = 64  # idle connections to each replica


class Frozen(Lost):
    """The replica does not answer pings."""


class Target:
    """One replica: what it says of itself, and what this ingress has there."""

    def __init__(self, name: str, record: Record) -> None:
        self.name, self.record = name, record
        self.up, self.open, self.down_since = True, 0, 0.0
        #: Connections on which a request runs that may be sent to another replica instead.
        self.repeatable: set[Connection] = set()
        self._idle: list[Connection] = []

    def __str__(self) -> str:
        return f"replica {self.name} at {self.record.host}:{self.record.port}"

    async def connect(self) -> Connection:
        """A connection on which nothing runs; raises OSError where there is none to be had."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
            connection.close()
        return await Connection.open(self.record.host, self.record.port, CONNECT_SECONDS)

    def keep(self, connection: Connection) -> None:
        if connection.reusable and len(self._idle) < _KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def ping(self, patience: float) -> None:
        """Raises OSError where it is not there, Frozen where it does not answer."""
        connection = await self.connect()
        try:
            async with asyncio.timeout(patience):
                connection.start(b"GET")
                await connection.send(_PING)
                await connection.head()
                await connection.read()
        except TimeoutError:
            raise Frozen(f"{self} has not answered a ping for {patience:g} s") from None
        finally:
            self.keep(connection)


class Balancer:
    """Chooses by queue length: the fewest requests that this ingress has there; among equals, by chance."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._targets: dict[str, Target] = {}
        self._changed = asyncio.Event()

    @property
    def targets(self) -> Collection[Target]:
        return self._targets.values()

    def update(self, records: Mapping[str, Record]) -> None:
        """`records` are all the replicas that there are; what runs on one that is gone goes on."""
        for name in self._targets.keys() - records.keys():
            self._targets.pop(name).close()
        for name, record in records.items():
            known = self._targets.get(name)
            if known is None:
                self._targets[name] = Target(name, record)
            else:
                known.record = record
        self._changed.set()

    def choose(self, tried: Collection[str] = ()) -> Target | None:
        """One that is up and was not tried, a ready one if there is one."""
        up = [target for target in self._targets.values() if target.up and target.name not in tried]
        up = [target for target in up if target.record.ready] or up
        fewest = min((target.open for target in up), default=0)
        return random.choice([target for target in up if target.open == fewest]) if up else None

    async def wait(self, tried: Collection[str], seconds: float) -> Target | None:
        """`choose`, as soon as there is one; None after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while (target := self.choose(tried)) is None:
                    self._changed.clear()
                    await self._changed.wait()
                return target
        except TimeoutError:
            return None

    def down(self, target: Target, error: Exception) -> None:
        """Nothing more is sent there. What runs on a frozen one and may run twice raises `error`, if another one is up."""
        if target.up:
            target.up, target.down_since = False, asyncio.get_running_loop().time()
        target.close()
        if isinstance(error, Frozen) and any(other.up for other in self._targets.values()):
            for connection in list(target.repeatable):
                connection.give_up(error)

    def gone(self, seconds: float) -> list[str]:
        """Replicas that have been down for so long."""
        now = asyncio.get_running_loop().time()
        return [name for name, target in self._targets.items() if not target.up and now - target.down_since > seconds]

    async def ping_all(self) -> None:
        """Looks after every replica, once."""
        await asyncio.gather(*(self._ping(target) for target in list(self._targets.values())))

    async def _ping(self, target: Target) -> None:
        try:
            await target.ping(self._patience)
        except (OSError, TimeoutError) as error:
            self.down(target, error)
        else:
            if not target.up:
                target.up = True
                self._changed.set()
