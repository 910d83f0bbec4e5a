"""A web server on loopback whose routes a test writes down, hostile ones included."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Route = Callable[[BaseHTTPRequestHandler], object]


class Web:
    """`base` is its URL; `asked` lists the paths requested so far. `stop` is set when the test is over."""

    def __init__(self, server: ThreadingHTTPServer, routes: dict[str, Route]) -> None:
        self.routes, self.stop = routes, threading.Event()
        self.asked: list[Any] = []
        self.port = server.server_address[1]
        self.base = f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(routes: dict[str, Route], tls: ssl.SSLContext | None = None) -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            web.asked.append(self.path)
            routes.get(self.path, status(404))(self)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = False

        def handle_error(self, *_: object) -> None: ...  # clients that hang up are part of the tests

    with Server(("127.0.0.1", 0), Handler) as server:
        web = Web(server, routes)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
            web.base = web.base.replace("http:", "https:")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield web
        finally:
            web.stop.set()
            server.shutdown()
            thread.join()


def status(code: int) -> Route:
    return lambda handler: handler.send_error(code)


def body(data: bytes, length: int | None = None) -> Route:
    """Answers 200 with `data`; `length` is the Content-Length it claims, -1 = none."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        if length != -1:
            handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirect(location: str, code: int = 302) -> Route:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Location", location)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer
