"""Clients that go away while their request waits."""

from __future__ import annotations

import json
import socket
import time

from jitney.core.errors import Cancelled
from jitney.tests.fakes.dataplane import FakeDataPlane
from jitney.tests.server.http.kserve.messages import entry

BODY = json.dumps({"inputs": [entry("INPUT0", [1], "FP32", data=[1])]}).encode()


def until(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_hangs_up_withdraws_its_request(server: str, dataplane: FakeDataPlane) -> None:
    host, port = server.split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        head = f"POST /v2/models/stuck/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()
        sock.sendall(head + BODY)
        until(lambda: dataplane.calls)
        assert not dataplane.calls[0].done
    until(lambda: dataplane.calls[0].done)
    assert isinstance(dataplane.calls[0].error, Cancelled)
