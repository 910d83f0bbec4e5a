"""The shortcut (`express`) on the event loop of a granian listener: a coroutine, a body, a call, an answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .express import Express, LightRequest, LightResponse, Plain, Shortcut, Trip, Unusual
from .later import collect
from .parser import MAX_KEPT, Head
from .tasks import OWN
from .travel import LIGHT_BYTES

if TYPE_CHECKING:
    from .granian_listener import GranianListener
    from .granian_visit import Visit

#: Of a head: method, path, query, version and headers, all of which decide what a request means.
Key = tuple[Any, ...]


class KnownHeads:
    """The heads of requests that were seen before, by all that granian tells of them."""

    def __init__(self, express: Express | None) -> None:
        self._express = express
        self._heads: dict[Key, Head] = {}

    def find(self, scope: Any) -> tuple[Key | None, Head | None]:
        """The key of a request that may have a shortcut, and its head where that is known."""
        if self._express is None or scope.method != "POST":
            return None, None
        key = (scope.path, scope.query_string, scope.http_version, *scope.headers.items())
        return key, self._heads.get(key)

    def remember(self, key: Key, environ: dict[str, Any], length: int) -> None:
        """Keeps a head that a request has just gone through with. `environ` as that request has it."""
        if self._express is None or "HTTP_TRANSFER_ENCODING" in environ or "HTTP_EXPECT" in environ:
            return
        if len(self._heads) >= MAX_KEPT:
            self._heads.clear()
        version = str(environ["SERVER_PROTOCOL"]).rpartition("/")[2]
        names = {name[5:]: value for name, value in environ.items() if name.startswith("HTTP_")}
        state = {"command": "POST", "path": environ["PATH_INFO"], "version": version, "headers": names}
        head = Head({**state, "raw_headers": environ["jitney.headers"], "content_length": length})
        head.environ = {name: value for name, value in environ.items() if name not in OWN and not name.startswith("jitney.")}
        head.route, head.routed = self._express.route(head), True
        self._heads[key] = head


class GranianTrip(Trip):
    """One request on its shortcut. The loop's thread, but for `answered` and `wake`."""

    __slots__ = ("_front", "_head", "_sleeper", "_visit")

    def __init__(self, front: GranianListener, visit: Visit, head: Head, body: bytes) -> None:
        Trip.__init__(self, body)
        self._front, self._visit, self._head = front, visit, head
        self._sleeper: asyncio.Future[None] | None = None

    @property
    def peer(self) -> str:
        return str(self._visit.scope.client)

    def wake(self) -> None:
        self._front.post(self._on_wake)

    def _on_wake(self) -> None:
        if self._sleeper is not None and not self._sleeper.done() and self._is_there(self._head.shortcut):
            self._sleeper.set_result(None)

    def _is_there(self, shortcut: Shortcut | None) -> bool:
        """Whether an answer can be begun."""
        if self.mailbox is None or shortcut is None or shortcut.streams:
            return self.mailbox is not None or self.answer is not None
        return self.call is not None and self.call.done

    async def travel(self, shortcut: Shortcut) -> bool:
        """From the body to the answer; false where the request has to take the long way."""
        self._front.gather()
        try:
            return await self._travel(shortcut)
        finally:
            shortcut.end(self)

    async def _travel(self, shortcut: Shortcut) -> bool:
        error = None
        try:
            if not shortcut.begin(self):
                return False
            await self._answered()
            if self.mailbox is None:
                self._send(await self._render(shortcut))
                return True
        except Unusual:
            pass
        except Exception as problem:  # noqa: BLE001 - whatever it is, the client is told
            error = problem
        await self._detour(shortcut, error)
        return True

    async def _answered(self) -> None:
        if self.call is not None:
            self._visit.on_disconnect(self.call.cancel)
        if not self._is_there(self._head.shortcut):
            self._sleeper = self._front.loop.create_future()
            self._front.wait_with(self._visit)
            await self._sleeper

    async def _render(self, shortcut: Shortcut) -> Plain:
        if self.size() <= LIGHT_BYTES:
            return shortcut.render(self)
        found: list[Plain | Exception] = []

        def render() -> None:
            try:
                found.append(shortcut.render(self))
            except Exception as error:  # noqa: BLE001 - raised again in the loop's thread
                found.append(error)

        await self._front.in_pool(render)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _send(self, plain: Plain) -> None:
        block, own, body = plain
        pairs = [*block.pairs, own] if own is not None else block.pairs
        if self._front.draining or not self._head.keeps_open:
            pairs = [*pairs, ("connection", "close")]
        elif block.announce or self._visit.scope.http_version == "1":
            pairs = [*pairs, ("connection", "keep-alive")]
        self._visit.protocol.response_bytes(int(block.status[:3]), [*pairs, ("content-length", str(len(body)))], body)

    async def _detour(self, shortcut: Shortcut, error: Exception | None) -> None:
        """Has the route answer what is no usual answer."""
        environ = self._visit.use(bytes(self.body))
        del environ["jitney.later"]
        req, resp = LightRequest(environ, self._head.length), LightResponse()
        req.context.began = self.began
        await self._front.in_pool(lambda: shortcut.respond(self, req, resp, error))
        await self._visit.send(collect(resp))
