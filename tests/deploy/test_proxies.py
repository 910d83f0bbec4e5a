"""nginx and Envoy with the files in deploy/, really run, in front of a real jitney and of servers that are in trouble."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from jitney.tests.deploy.proxies import PROXIES, STREAM, STREAM_CONFIG, Dying, ask
from jitney.tests.deploy.ray.cluster import write_models
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess, serving

INFER, SLOW = "/v2/models/digits_onnx/infer", "/v2/models/slow/infer"


@pytest.fixture(scope="module")
def jitney(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    """`digits_onnx` doubles; `slow` and `stream` are Python models, which no proxy may ask twice."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    (folder / "double").rename(folder / "digits_onnx")
    (folder / "stream" / "1").mkdir(parents=True)
    (folder / "stream" / "1" / "model.py").write_text(STREAM)
    (folder / "stream" / "config.pbtxt").write_text(STREAM_CONFIG)
    with serving(folder) as server:
        yield server


def port_of(server: ServedProcess) -> int:
    port = urlsplit(server.inference).port
    assert port is not None
    return port


def tensor(value: float, **more: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}], **more}).encode()


def answer_of(body: bytes) -> list[float]:
    data: list[float] = json.loads(body)["outputs"][0]["data"]
    return data


@pytest.mark.parametrize("proxy", PROXIES)
def test_connections_are_kept_on_both_sides(proxy: str, jitney: ServedProcess, tmp_path: Path) -> None:
    with PROXIES[proxy](tmp_path, (port_of(jitney), port_of(jitney))) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.connect()
        socket = client.sock
        for number in range(50):
            client.request("POST", INFER, tensor(number))
            answer = client.getresponse()
            assert answer_of(answer.read()) == [2.0 * number]
        assert client.sock is socket
        client.close()
        served = psutil.Process(jitney.process.pid).net_connections("tcp4")
        open_ = [one for one in served if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port_of(jitney)]
        assert len(open_) <= 6  # Envoy's health checks have two


@pytest.mark.parametrize("proxy", PROXIES)
def test_large_bodies_pass_up_to_what_jitney_takes(proxy: str, jitney: ServedProcess, tmp_path: Path) -> None:
    with PROXIES[proxy](tmp_path, (port_of(jitney), port_of(jitney))) as port:
        for path, right in ((INFER, 6.0), (SLOW, 4.0)):
            status, body = ask(port, "POST", path, tensor(3, padding="x" * (40 << 20)))
            assert (status, answer_of(body)) == (200, [right])
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.putrequest("POST", SLOW)
        client.putheader("Content-Length", str(80 << 20))
        client.endheaders()
        assert client.getresponse().status == 413
        client.close()


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_stream_arrives_as_it_is_made(proxy: str, jitney: ServedProcess, tmp_path: Path) -> None:
    with PROXIES[proxy](tmp_path, (port_of(jitney), port_of(jitney))) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        client.request("POST", "/v2/models/stream/generate_stream", json.dumps({"x": 1.0}))
        answer, arrived = client.getresponse(), []
        while line := answer.readline():
            if line.startswith(b"data:"):
                arrived.append(time.monotonic())
        client.close()
    assert len(arrived) == 3
    assert arrived[-1] - arrived[0] > 0.4


@pytest.mark.parametrize("proxy", PROXIES)
def test_only_what_may_run_twice_is_sent_again(proxy: str, jitney: ServedProcess, tmp_path: Path) -> None:
    with Dying() as dying, PROXIES[proxy](tmp_path, (dying.port, port_of(jitney))) as port:
        for number in range(40):
            status, body = ask(port, "POST", INFER, tensor(number))
            assert status == 200, body
            assert answer_of(body) == [2.0 * number]
        assert dying.asked
        for method in ("POST", "PUT"):
            asked, failed = dying.asked, 0
            deadline = time.monotonic() + 20
            while not failed and time.monotonic() < deadline:
                status, body = ask(port, method, "/predictions/slow", json.dumps({"x": [1.0]}))
                assert status in (200, 502, 503), body
                failed += status != 200
                time.sleep(0.05)
            assert dying.asked - asked == failed == 1


@pytest.mark.parametrize("proxy", PROXIES)
def test_a_server_that_is_not_there_is_passed_over(proxy: str, jitney: ServedProcess, tmp_path: Path) -> None:
    with PROXIES[proxy](tmp_path, (free_port(), port_of(jitney))) as port:
        for number in range(40):
            status, body = ask(port, "POST", SLOW, tensor(number))
            assert status == 200, body
            assert answer_of(body) == [number + 1.0]
