"""The short way for inference: the same routes, without the parts of the application that find the same thing every time.

Clients send the same head again and again. What follows from the head alone (the route, the path as the dialect sees it, that
nobody is to be refused) is found once, by the application's own middleware and router, and kept with the parsed head. From then
on a request with that head goes straight to its route, with a request and a response object that have what these routes use of
Falcon's. Where it matters who asks (tokens, restricted groups), and for everything but POST to the routes below, there is no
short way.

Shorter still is a route's `Shortcut`, for the usual request: one that is queued, and whose model gives one plain answer. It needs
neither of these objects, only a `Trip`. Whatever turns out not to be usual is answered as on the short way.

    front   trip = Trip(…) ─▶ shortcut.begin(trip) ─▶ … the model answers: `trip.wake`, any thread …
    front   shortcut.render(trip) ─▶ a `Plain` answer, or an exception ─▶ shortcut.respond(trip, request, response, error)
    front   shortcut.end(trip), always
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import falcon

from ...backends.base import Response
from ..call import Call, Mailbox, size
from ..errors import JitneyError

if TYPE_CHECKING:
    from .access import Access
    from .parser import Head

#: Serves a request whose answer comes later, or renders it at once.
Route = Callable[["LightRequest", "LightResponse"], None]

_PATHS = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?/infer|/predictions/[^/]+(?:/[^/]+)?/?")


class Unusual(Exception):
    """An answer that a shortcut leaves to the route."""


class Block:
    """What the heads of many answers share: status line, headers, and whether they say that the connection is kept open."""

    __slots__ = ("announce", "pairs", "status", "text")

    def __init__(self, status: str, pairs: Sequence[tuple[str, str]], announce: bool) -> None:
        self.status, self.pairs, self.announce = status, list(pairs), announce
        lines = [f"{name}: {value}\r\n" for name, value in self.pairs]
        self.text = f"HTTP/1.1 {status}\r\n{''.join(lines)}".encode("latin-1")

    @classmethod
    def of(cls, req: LightRequest, resp: LightResponse, without: str = "") -> Block:
        """The head of an answer as a route made it, but for the header `without`."""
        spelling: dict[str, str] = req.env.get("jitney.spelling") or {}
        pairs = [(spelling.get(name, name), value) for name, value in resp._wsgi_headers() if name != without]
        return cls(str(resp.status), pairs, req.env.get("jitney.connection") == "keep-alive")


class Plain(NamedTuple):
    """A usual answer: what its head shares with others, a header of its own, and the body. The status is below 400."""

    block: Block
    own: tuple[str, str] | None
    body: bytes


class Trip:
    """One request that takes a shortcut. `note` and `admitted` are the shortcut's own; `mailbox` holds several answers.

    The front's thread has it, except for `answered` and `wake`: whoever answers calls them, one at a time.
    """

    __slots__ = ("admitted", "answer", "began", "body", "call", "mailbox", "note")

    def __init__(self, body: bytes | bytearray) -> None:
        self.body = body
        self.admitted = False
        self.began = time.monotonic()
        self.call: Call | None = None
        self.answer: Response | JitneyError | None = None
        self.mailbox: Mailbox | None = None
        self.note: Any = None

    def answered(self, answer: Response | JitneyError) -> None:
        """`Call.on_answer`."""
        if self.mailbox is None and isinstance(answer, Response) and not answer.final:
            self.mailbox = Mailbox()
        if self.mailbox is None:
            self.answer = answer
        else:
            self.mailbox.put(answer)
        self.wake()

    def wake(self) -> None:
        """Has the front look at what is there."""
        raise NotImplementedError

    @property
    def peer(self) -> str:
        """The client's address and port."""
        raise NotImplementedError

    def size(self) -> int:
        """Bytes of the model's answer that is to be rendered; more where rendering it may take long."""
        nbytes = 0 if self.answer is None else size(self.answer)
        return nbytes if self.call is None else self.call.weight(nbytes)

    def unpack(self) -> Call:
        """The call, whose answers are then in its mailbox, as a route expects them."""
        if self.call is None:
            raise RuntimeError("the request was not queued")
        if self.call.mailbox is None:
            self.call.mailbox = self.mailbox or Mailbox()
            if self.answer is not None:
                self.call.mailbox.put(self.answer)
        return self.call


class Shortcut(Protocol):
    """The shortcut of one head. The front's thread calls everything.

    streams  whether an answer begins with the model's first response, or is made of all
    """

    streams: bool

    def is_quick(self) -> bool:
        """Whether `begin` takes so little time that the thread of all connections may do it."""

    def begin(self, trip: Trip) -> bool:
        """Queues the request, whose answers go to `trip.answered`; false where it has to take the long way.

        Raises what the client is to be told by `respond`; the trip has to be ended all the same.
        """

    def render(self, trip: Trip) -> Plain:
        """The usual answer; raises Unusual, or an error, where it is another."""

    def respond(self, trip: Trip, req: Any, resp: Any, error: Exception | None) -> None:
        """Any other answer: the error, or what the call's mailbox holds (`Trip.unpack`)."""

    def end(self, trip: Trip) -> None:
        """The answer is out, or given up."""


def light(env: Mapping[str, Any], length: int) -> tuple[Any, Any]:
    """A `LightRequest` with a copy of `env` and its `LightResponse`: what a route takes for Falcon's."""
    return LightRequest(dict(env), length), LightResponse()


class Express:
    """Finds the routes of heads. `app` must look at no request but by `access`, and let `access` pass everybody."""

    def __init__(self, app: falcon.App[falcon.Request, falcon.Response], access: Access) -> None:
        self._app, self.access = app, access

    def route(self, head: Head) -> Route | None:
        """Where requests with this head go, None where they have to take the usual way; `head.shortcut` where there is one."""
        if head.command != "POST" or head.environ is None or not _PATHS.fullmatch(head.path):
            return None
        environ = {**head.environ, "wsgi.input": io.BytesIO()}
        req, resp = falcon.Request(environ, options=self._app.req_options), falcon.Response()
        self.access.process_request(req, resp)
        if resp.complete:
            return None
        respond: Callable[..., None]
        respond, names, resource, *_ = self._app._get_responder(req)  # type: ignore[assignment]
        seal: Callable[..., None] = self.access.process_response
        path = req.path

        def serve(req: LightRequest, resp: LightResponse) -> None:
            req.path = path
            respond(req, resp, **names)
            seal(req, resp, None, True)

        head.shortcut = self._shortcut(head, respond if resource is None else resource, path, names)
        return serve

    def _shortcut(self, head: Head, owner: object, path: str, names: Mapping[str, str]) -> Shortcut | None:
        """What the owner of the route, a sink or a resource, offers for this head."""
        prepare: Callable[..., Shortcut | None] | None = getattr(owner, "shortcut", None)
        if prepare is None:
            return None
        req, _ = light({**(head.environ or {}), "jitney.headers": head.raw_headers}, head.length)
        req.path = path
        return prepare(req, self.access, **names)


class LightRequest:
    """What the inference routes use of `falcon.Request`."""

    __slots__ = ("content_length", "content_type", "context", "env", "method", "path", "query_string")

    def __init__(self, env: dict[str, Any], length: int) -> None:
        self.env = env
        self.method: str = env["REQUEST_METHOD"]
        self.path: str = env["PATH_INFO"]
        self.content_type: str | None = env.get("CONTENT_TYPE")
        self.content_length: int | None = length if "CONTENT_LENGTH" in env else None
        self.query_string: str = env["QUERY_STRING"]
        self.context = _Context()

    @property
    def relative_uri(self) -> str:
        return self.path + (f"?{self.query_string}" if self.query_string else "")

    def get_header(self, name: str, default: str | None = None) -> str | None:
        key = name.upper().replace("-", "_")
        value = self.env.get(key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}")
        return value or default


class _Context:
    """What the dialects remember of a request."""

    def __init__(self) -> None:
        self.began = time.monotonic()


class LightResponse:
    """What the inference routes use of `falcon.Response`."""

    __slots__ = ("_cookies", "_headers", "complete", "data", "status", "stream")

    def __init__(self) -> None:
        self.status: str | int = "200 OK"
        self.data: bytes | None = None
        self.stream: Any = None
        self.complete = False
        self._headers: dict[str, str] = {}
        self._cookies: list[tuple[str, str]] = []

    @property
    def status_code(self) -> int:
        return int(falcon.http_status_to_code(self.status))

    @property
    def content_type(self) -> str | None:
        return self._headers.get("content-type")

    @content_type.setter
    def content_type(self, value: str) -> None:
        self._headers["content-type"] = value

    def set_header(self, name: str, value: str) -> None:
        self._headers[name.lower()] = value

    def append_header(self, name: str, value: str) -> None:
        """For Set-Cookie, the one header that is repeated."""
        self._cookies.append((name, value))

    def get_header(self, name: str, default: str | None = None) -> str | None:
        return self._headers.get(name.lower(), default)

    def delete_header(self, name: str) -> None:
        self._headers.pop(name.lower(), None)

    def _wsgi_headers(self, _: str | None = None) -> list[tuple[str, str]]:
        return [*self._headers.items(), *self._cookies]
