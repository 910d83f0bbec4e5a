"""Clients that are too many, never read, send half and wait, or vanish in the middle."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading

from .clients import LARGE
from .faults import Scene, fault
from .site import FILES, HELD, LARGEST

_HEAD = b"POST /v2/models/%s/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


def connect(scene: Scene) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", scene.site.ports["inference"]), 5)
    found.settimeout(5)
    return found


def reset(sock: socket.socket) -> None:
    """Closes without a good-bye: the other end gets a RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wide_request() -> bytes:
    body = json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "INT32", "data": [LARGE, 1]}],
                       "parameters": {"binary_data_output": True}}).encode()  # fmt: skip
    return _HEAD % (b"wide", len(body)) + body


@fault("more connections than there may be")
def flood(scene: Scene) -> None:
    """Some say nothing, some send half a head. The server makes room by closing those that are idle."""
    with contextlib.ExitStack() as stack:
        for number in range(FILES // 4 * scene.site.fronts + 150):
            sock = connect(scene)
            stack.callback(reset, sock)
            if number % 2:
                with contextlib.suppress(OSError):
                    sock.sendall(b"POST /v2/models/lin")
        scene.rest(3.0)
    scene.onset()


@fault("connections that come and go", short=False)
def churn(scene: Scene) -> None:
    for _ in range(500 if scene.short else 3000):
        reset(connect(scene))
    scene.onset()


@fault("clients that never read")
def never_read(scene: Scene) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = connect(scene)
            stack.callback(reset, sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(wide_request())
        scene.rest(3.0)
    scene.onset()


@fault("clients that vanish")
def vanish(scene: Scene) -> None:
    """Within a head, within a body, before and within the answer."""
    whole = wide_request()
    for turn in range(80):
        sock = connect(scene)
        with contextlib.suppress(OSError):
            if turn % 4 == 0:
                sock.sendall(whole[:30])
            elif turn % 4 == 1:
                sock.sendall(_HEAD % (b"linear", 5_000_000) + bytes(1_000_000))
            elif turn % 8 == 2:
                sock.sendall(whole)
            else:
                sock.sendall(b"GET /v2/models/linear/config HTTP/1.1\r\nHost: x\r\n\r\n")
                sock.recv(10)
        reset(sock)
    scene.onset()


@fault("bodies for more memory than there is")
def hold(scene: Scene) -> None:
    """As many large bodies as `max_held_bytes` allows, and more, none of which ends."""
    body = bytes(LARGEST - 4096)
    with contextlib.ExitStack() as stack:
        for _ in range(2 * HELD // LARGEST):
            sock = connect(scene)
            stack.callback(reset, sock)
            with contextlib.suppress(OSError):
                sock.sendall(_HEAD % (b"linear", LARGEST - 1024))
                sock.sendall(body)
        scene.rest(1.0)
    scene.onset()


@fault("clients that are answered without end")
def take_all(scene: Scene) -> None:
    """They read as fast as a decoupled model answers, and vanish."""
    body = json.dumps({"x": 1.0}).encode()
    head = b"POST /v2/models/endless/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = connect(scene)
            stack.callback(reset, sock)
            sock.sendall(head + body)
            reader = threading.Thread(target=read_all, args=(sock,), name="chaos-reader")
            reader.start()
            stack.callback(reader.join)
            stack.callback(hang_up, sock)
        scene.rest(3.0)
    scene.onset()


def hang_up(sock: socket.socket) -> None:
    """So that who reads from it ends; the server may have hung up before."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def read_all(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass
