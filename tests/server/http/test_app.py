"""How listeners and applications are put together: shared addresses, switched-off metrics, both dialects side by side."""

import json
import socket
from typing import Any

import pytest

from jitney.server.http.engine.listener import AddressInUse
from jitney.server.settings.addresses import parse_address
from jitney.tests.fakes.raw_http import Connection
from jitney.tools.bench.ports import free_port


def test_each_port_answers_its_own_routes(site: Any) -> None:
    ports = {site.address(name).port for name in ("inference", "management", "metrics")}
    assert len(ports) == 3
    assert site.ask("inference", "GET", "/models").status == 404
    assert site.ask("management", "GET", "/predictions/echo").status == 404
    assert site.ask("metrics", "GET", "/ping").status == 404


def test_both_dialects_answer_on_the_inference_port(site: Any) -> None:
    assert site.ask("inference", "GET", "/v2").status == 200
    unknown = site.ask("inference", "GET", "/v2/nope")
    assert (unknown.status, json.loads(unknown.body)) == (404, {"error": "Not Found"})
    assert unknown.header("x-request-id") is None
    assert site.ask("management", "GET", "/v2").status == 404


def test_refused_requests_are_answered_in_the_dialect_of_their_path(open_site: Any) -> None:
    site = open_site(max_request_size=10)
    answer = site.ask("inference", "POST", "/v2/models/m/infer", b"x" * 11)
    assert answer.status == 413 and "exceeds" in json.loads(answer.body)["error"]


@pytest.mark.parametrize("shared", [("inference", "management"), ("inference", "management", "metrics")])
def test_ports_with_one_address_share_a_listener(open_site: Any, shared: tuple[str, ...]) -> None:
    address = parse_address(f"http://127.0.0.1:{free_port()}")
    site = open_site(**{f"{name}_address": address for name in shared})
    assert len(site.web.listeners) == 4 - len(shared)
    assert site.ask("inference", "GET", "/ping").status == 200
    assert site.ask("management", "GET", "/models").status == 200
    assert site.ask("management", "GET", "/models/echo/1.0").status == 200
    assert site.ask("inference", "POST", "/models/echo/invoke", b"x").body == b"x"
    assert site.ask("inference", "POST", "/predictions/echo", b"x").body == b"x"
    assert site.ask("metrics", "GET", "/metrics").status == 200
    assert "Inference" not in site.ask("inference", "OPTIONS", "/").body.decode()


def test_the_metrics_port_can_be_switched_off(open_site: Any) -> None:
    site = open_site(enable_metrics_api=False)
    assert len(site.web.listeners) == 2


def test_a_busy_port_leaves_nothing_open(open_site: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = parse_address(f"http://127.0.0.1:{taken.getsockname()[1]}")
        free = parse_address(f"http://127.0.0.1:{free_port()}")
        with pytest.raises(AddressInUse, match="metrics_address"):
            open_site(inference_address=free, metrics_address=busy)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", free.port))


def test_management_and_metrics_answer_while_inference_is_full(site: Any) -> None:
    site.plane.add("forever", None)
    waiting = [_ask_forever(site) for _ in range(site.web.admission.threads.limit + 8)]
    assert site.ask("management", "GET", "/models").status == 200
    assert site.ask("metrics", "GET", "/metrics").status == 200
    assert site.ask("inference", "GET", "/ping").status == 200
    for connection in waiting:
        connection.sock.close()


def _ask_forever(site: Any) -> Connection:
    connection = Connection(site.address("inference"))
    connection.send(b"GET /predictions/forever HTTP/1.1\r\nHost: x\r\n\r\n")
    return connection
