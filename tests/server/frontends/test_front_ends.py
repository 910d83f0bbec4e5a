"""Front ends as processes: who answers, what they count, log and hold; clients that leave, models that change."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import shared_memory
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.http as tritonclient

from jitney.core.errors import InvalidConfig
from jitney.server.http.app import Services
from jitney.server.http.middleware.tokens import Tokens
from jitney.server.metrics import Metrics
from jitney.server.settings.addresses import parse_address
from jitney.server.web import Web
from jitney.tests.fakes.frontends import House, opened_fronts, plane_of, settings
from jitney.tests.fakes.leftovers import Inventory
from jitney.tests.fakes.plane import LoadedPlane, doubling
from jitney.tests.fakes.raw_http import Connection
from jitney.tools.bench.served import wait_until

from .test_equality import infer

PATIENCE = 20.0
JSON = {"Content_Type": "application/json"}


def test_each_front_end_is_a_process_of_its_own_and_all_of_them_answer(several: House) -> None:
    pids = several.fronts.pids()
    assert len(set(pids)) == 2 and os.getpid() not in pids
    with ThreadPoolExecutor(32) as clients:
        asking = [clients.submit(several.ask, "POST", "/v2/models/slow/infer", infer()) for _ in range(32)]
        wait_until(lambda: several.open_requests() + sum(f.done() for f in asking) >= 32, PATIENCE, "all requests")
        held = [child.session.open for child in several.children]
        assert {future.result().status for future in asking} == {200}
    assert min(held) > 0, held
    several.wait_idle()


def test_kept_connections_are_shared_out(plane: LoadedPlane) -> None:
    """Also those that come at once, which whoever is awake could take alone."""
    with opened_fronts(plane, front_ends=3) as opened, contextlib.ExitStack() as stack:
        counters = opened.fronts._spec.shared.counters
        for _ in range(2):
            for connection in [stack.enter_context(Connection(opened.inference)) for _ in range(15)]:
                connection.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
                assert connection.read().status == 200
        shares = list(counters._connections)
        assert sum(shares) == pytest.approx(30, abs=3) and max(shares) - min(shares) <= 4, shares
        victim = opened.fronts.pids()[0]
        os.kill(victim, 9)
        wait_until(lambda: victim not in opened.fronts.pids(), PATIENCE, "the death")
        wait_until(lambda: len(opened.fronts.pids()) == 3, PATIENCE, "another front end")
        for _ in range(12):
            connection = stack.enter_context(Connection(opened.inference))
            connection.send(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.read().status == 200
        shares = list(counters._connections)
        assert max(shares) - min(shares) <= 4, shares


def test_an_idle_front_end_costs_nothing(several: House) -> None:
    several.ask("GET", "/ping")
    threading.Event().wait(0.3)  # what the request leaves behind is done
    spent = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in several.fronts.pids()]
    threading.Event().wait(1.0)
    assert [sum(psutil.Process(pid).cpu_times()[:2]) for pid in several.fronts.pids()] == pytest.approx(spent, abs=0.011)


def test_right_answers_over_both_doors_from_many_clients_at_once(several: House) -> None:
    """Whose answer is whose: each client has a number of its own, small requests and large ones are mixed."""

    def ask_often(number: int) -> int:
        client = tritonclient.InferenceServerClient(f"{several.inference.host}:{several.inference.port}")
        right = 0
        for turn in range(12):
            width = 3 if turn % 3 else 50_000 + number
            values = np.full((2, width), number * 100 + turn, np.float32)
            tensor = tritonclient.InferInput("x", list(values.shape), "FP32")
            tensor.set_data_from_numpy(values, binary_data=bool(turn % 2) or width > 3)
            np.testing.assert_array_equal(client.infer("chain" if turn % 4 == 3 else "m", [tensor]).as_numpy("y"),
                                          values * (4 if turn % 4 == 3 else 2))  # fmt: skip
            word = f"w{number}-{turn} " * (1 if turn % 3 else 4000)
            answer = several.ask("POST", "/predictions/capitals", word.encode())
            right += answer.body == word.upper().encode()
        client.close()
        return right

    with ThreadPoolExecutor(12) as clients:
        assert list(clients.map(ask_often, range(12))) == [12] * 12
    several.wait_idle()


def test_what_front_ends_count_is_in_the_next_scrape(several: House) -> None:
    def counts() -> dict[str, float]:
        text = several.ask("GET", "/metrics", port="metrics").body.decode()
        return {name: float(value) for name, value in re.findall(r"^(\w+\{[^}]*\}) ([\d.e+-]+)$", text, re.M)}

    def of(found: dict[str, float], name: str, *labels: str) -> float:
        return sum(value for key, value in found.items() if key.startswith(name) and all(label in key for label in labels))

    before = counts()
    for _ in range(5):
        assert several.ask("POST", "/predictions/capitals", b"x").status == 200
        assert several.ask("POST", "/v2/models/m/infer", b"{").status == 400
        assert several.ask("GET", "/ping").status == 200
    after = counts()
    growth = {
        name: of(after, name, *labels) - of(before, name, *labels)
        for name, *labels in (
            ("Requests2XX",),
            ("Requests4XX",),
            ("ts_inference_requests_total", 'model_name="capitals"', 'model_version="default"'),
            ("ts_inference_latency_microseconds", 'model_name="capitals"'),
            ("jitney_requests_total", 'model="capitals"'),
        )
    }
    latency = growth.pop("ts_inference_latency_microseconds")
    assert 0 < latency < 5_000_000
    assert growth == {
        "Requests2XX": 11,  # the first scrape is one
        "Requests4XX": 5,
        "ts_inference_requests_total": 5,
        "jitney_requests_total": 5,
    }


def test_access_lines_and_errors_of_front_ends_are_in_the_servers_log(
    plane: LoadedPlane, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), opened_fronts(plane) as opened:
        served, relayed = "POST /predictions/capitals/1.0?a=b HTTP/1.1", "GET /ping?c=d HTTP/1.1"
        with Connection(opened.inference) as connection:
            host, port = connection.sock.getsockname()
            for line in (served, relayed):
                connection.send(f"{line}\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
                assert connection.read().status == 200
        connection = Connection(opened.inference)
        connection.send(b"no HTTP\r\n\r\n")
        assert connection.read().status == 400
        connection.sock.close()

        def lines() -> list[str]:
            return [record.getMessage() for record in caplog.records if record.name == "jitney.access"]

        wait_until(lambda: len(lines()) >= 2, PATIENCE, "the lines of the access log")
        assert {f'/{host}:{port} "{line}" 200' for line in (served, relayed)} == {
            line.rpartition(" ")[0] for line in lines()
        }
        wait_until(lambda: "malformed" in caplog.text, PATIENCE, "a front end's own line")
        assert re.search(r"front-\d:", next(r.threadName or "" for r in caplog.records if "malformed" in r.getMessage()))


def test_a_client_that_goes_away_takes_its_request_with_it(several: House) -> None:
    deployment = several.plane.registry.deployment("slow")
    body = infer()
    first = Connection(several.inference)
    first.send(b"POST /v2/models/slow/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    wait_until(lambda: several.open_requests() == 1, PATIENCE, "the worker's request")
    waiting = [Connection(several.inference) for _ in range(3)]
    paths = [b"/v2/models/slow/infer", b"/predictions/slow", b"/v2/models/slow/generate"]
    bodies = [body, b"[[1, 2]]", b'{"x": [[1.0, 2.0]]}']
    for connection, path, content in zip(waiting, paths, bodies, strict=True):
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        connection.send(head % (path, len(content)) + content)
    wait_until(lambda: deployment.queued() == 3, PATIENCE, "three requests in the queue")
    for connection in waiting:  # with a reset, which leaves no doubt that nobody reads any more
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sock.close()
    wait_until(lambda: deployment.queued() == 0, 0.4, "the end of what nobody waits for")
    assert first.read().status == 200
    first.sock.close()
    several.wait_idle()


def test_a_stream_arrives_piece_by_piece_and_ends_with_its_client(several: House) -> None:
    head = b"POST /predictions/words HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with Connection(several.inference) as connection:
        connection.send(head % 15 + b"early wait late")
        wait_until(lambda: b"early" in connection.buffer or not connection._fill(), PATIENCE, "the first piece")
        assert b"late" not in connection.buffer
        connection._until(b"late")
    with Connection(several.inference) as connection:
        connection.send(head % 20 + b"early wait wait later")
        connection._until(b"early")
    several.wait_idle()


def test_a_stream_that_fails_is_no_whole_answer(several: House) -> None:
    with Connection(several.inference) as connection:
        connection.send(b"POST /predictions/words HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\nearly fail end")
        connection._until(b"early")
        assert connection.closed()
        assert b"0\r\n\r\n" not in connection.buffer
    several.wait_idle()


def test_large_requests_and_answers_leave_no_memory_behind(several: House) -> None:
    client = tritonclient.InferenceServerClient(f"{several.inference.host}:{several.inference.port}")
    for size in (8 << 10, (8 << 10) + 4, 5_000_000, 7_000_000):
        values = np.arange(size // 4, dtype=np.float32).reshape(1, -1)
        tensor = tritonclient.InferInput("x", list(values.shape), "FP32")
        tensor.set_data_from_numpy(values)
        np.testing.assert_array_equal(client.infer("m", [tensor]).as_numpy("y"), values * 2)
    client.close()
    several.wait_idle()


def test_system_shared_memory_is_the_same_for_all(several: House) -> None:
    """Registered through one front end, used through any, gone for all."""
    host = f"{several.inference.host}:{several.inference.port}"
    block = shared_memory.SharedMemory(create=True, size=32)
    try:
        array = np.ndarray((2, 2), np.float32, block.buf)
        array[:] = [[1, 2], [3, 4]]
        for turn in range(6):
            with tritonclient.InferenceServerClient(host, connection_timeout=PATIENCE) as client:
                client.register_system_shared_memory("in", block.name, 16)
                client.register_system_shared_memory("out", block.name, 16, offset=16)
                given, wanted = tritonclient.InferInput("x", [2, 2], "FP32"), tritonclient.InferRequestedOutput("y")
                given.set_shared_memory("in", 16)
                wanted.set_shared_memory("out", 16)
                array[:] += turn
                for _ in range(3):
                    with tritonclient.InferenceServerClient(host) as other:
                        other.infer("m", [given], outputs=[wanted])
                    np.testing.assert_array_equal(np.ndarray((2, 2), np.float32, block.buf, 16), array * 2)
                client.unregister_system_shared_memory()
                with pytest.raises(tritonclient.InferenceServerException, match="Unable to find shared memory region: 'in'"):
                    client.infer("m", [given], outputs=[wanted])
        del array
    finally:
        block.close()
        block.unlink()


def test_a_model_that_changes_is_asked_as_it_is_now(tmp_path: Path) -> None:
    """Whoever hears that a model was loaded or unloaded finds it so through every front end."""
    doubling(tmp_path, "m", dims="2")
    with plane_of(tmp_path) as plane, opened_fronts(plane, front_ends=3) as opened:
        for width in (2, 3, 2, 3):
            config = tmp_path / "m" / "config.pbtxt"
            config.write_text(re.sub(r"dims: \[ \d \]", f"dims: [ {width} ]", config.read_text()))
            assert opened.ask("POST", "/v2/repository/models/m/load", b"{}").status == 200
            for _ in range(6):
                assert opened.ask("POST", "/v2/models/m/infer", infer([1.0] * width)).status == 200
                assert opened.ask("POST", "/v2/models/m/infer", infer([1.0] * (5 - width))).status == 400
        assert opened.ask("POST", "/v2/repository/models/m/unload", b"{}").status == 200
        assert {opened.ask("POST", "/v2/models/m/infer", infer()).status for _ in range(6)} == {404}
        assert {opened.ask("POST", "/predictions/m", b"[[1, 2]]", **JSON).status for _ in range(6)} == {503}


def test_no_request_fails_while_its_model_is_reloaded(tmp_path: Path) -> None:
    doubling(tmp_path, "m", "dynamic_batching { }")
    stop = threading.Event()

    def ask_on(opened: House, path: str, body: bytes) -> set[tuple[int, bytes]]:
        seen = set()
        while not stop.is_set():
            answer = opened.ask("POST", path, body, **JSON)
            seen.add((answer.status, answer.body if answer.status != 200 else b""))
        return seen

    with plane_of(tmp_path) as plane, opened_fronts(plane) as opened, ThreadPoolExecutor(4) as clients:
        asking = [
            clients.submit(ask_on, opened, path, body)
            for path, body in (("/v2/models/m/infer", infer()), ("/predictions/m", b"[[1, 2]]")) * 2
        ]
        for _ in range(4):
            (tmp_path / "m" / "1" / "model.py").touch()
            plane.load("m")
        stop.set()
        assert set().union(*(future.result() for future in asking)) == {(200, b"")}
        opened.wait_idle()


def test_all_front_ends_together_hold_no_more_than_may_wait(plane: LoadedPlane) -> None:
    with opened_fronts(plane, max_waiting=6, front_ends=3) as opened, ThreadPoolExecutor(24) as clients:
        asking = [clients.submit(opened.ask, "POST", "/predictions/slow", b"[[1, 2]]", **JSON) for _ in range(24)]
        statuses = [future.result().status for future in asking]
        assert set(statuses) == {200, 503}
        assert 6 <= statuses.count(200) <= 6 + 3  # front ends that look at the same moment may each take the last place
        assert opened.ask("POST", "/predictions/slow", b"[[1, 2]]", **JSON).status == 200


def test_as_many_are_relayed_as_there_are_threads_and_health_is_still_told(plane: LoadedPlane) -> None:
    with opened_fronts(plane, http_threads=2) as opened, ThreadPoolExecutor(24) as clients:
        body = b'{"x": [[1.0, 2.0]]}'
        asking = [clients.submit(opened.ask, "POST", "/v2/models/slow/generate", body) for _ in range(24)]
        wait_until(lambda: any(future.done() for future in asking), PATIENCE, "the first answer")
        assert opened.ask("GET", "/ping").status == 200
        statuses = [future.result().status for future in asking]
        assert set(statuses) == {200, 503}
        wait_until(lambda: opened.ask("POST", "/v2/models/slow/generate", body).status == 200, PATIENCE, "a free place")


# -- addresses and who may come in ---------------------------------------------------------------------------------------


def test_tokens_are_asked_for_by_every_front_end_and_a_renewed_one_counts_at_once(
    plane: LoadedPlane, tmp_path: Path
) -> None:
    path = tmp_path / "key_file.json"
    tokens = Tokens(path, 60)
    tokens.publish()
    with opened_fronts(plane, tokens) as opened:

        def key(kind: str) -> str:
            return f"Bearer {json.loads(path.read_text())[kind]['key']}"

        requests = [("POST", "/v2/models/m/infer", infer()), ("POST", "/predictions/capitals", b"x"), ("GET", "/ping", None)]
        for _ in range(4):
            old = key("inference")
            for request in requests:
                assert opened.ask(*request).status == 400
                assert opened.ask(*request, Authorization=key("management")).status == 400
                assert opened.ask(*request, Authorization=old).status == 200
            renewed = opened.ask("GET", "/token?type=inference", port="management", Authorization=key("API"))
            assert renewed.status == 200
            assert [opened.ask(*request, Authorization=old).status for request in requests] == [400] * 3
            assert [opened.ask(*request, Authorization=key("inference")).status for request in requests] == [200] * 3


def test_restricted_groups_are_restricted_everywhere(plane: LoadedPlane) -> None:
    with opened_fronts(plane, http_restricted_api={"inference": ("x-key", "secret")}) as opened:
        for path in ("/v2/models/m/infer", "/v2/models/m/generate"):
            assert opened.ask("POST", path, infer()).status == 403
        assert opened.ask("POST", "/v2/models/m/infer", infer(), x_key="secret").status == 200
        assert opened.ask("GET", "/ping").status == 200


def test_a_shared_port_carries_the_management_api_too(plane: LoadedPlane) -> None:
    from jitney.tools.bench.ports import free_port

    address = parse_address(f"http://127.0.0.1:{free_port()}")
    with opened_fronts(plane, inference_address=address, management_address=address) as opened:
        assert opened.web.address("management") == opened.inference == address
        assert json.loads(opened.ask("GET", "/models/capitals").body)[0]["modelName"] == "capitals"
        assert opened.ask("POST", "/predictions/capitals", b"x").body == b"X"
        assert opened.ask("PUT", "/models/capitals?min_worker=1&synchronous=true").status == 200


def test_a_unix_socket(plane: LoadedPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = parse_address("unix:inference.sock")
    with opened_fronts(plane, inference_address=address) as opened:
        assert opened.inference == address
        assert opened.ask("POST", "/predictions/capitals", b"x").body == b"X"
        assert opened.ask("GET", "/ping").status == 200
        victim = opened.fronts.pids()[0]
        os.kill(victim, 9)
        wait_until(lambda: victim not in opened.fronts.pids(), PATIENCE, "the death")
        wait_until(lambda: len(opened.fronts.pids()) == 2, PATIENCE, "another front end")
        assert opened.ask("POST", "/predictions/capitals", b"x").body == b"X"
    assert not Path("inference.sock").exists()


def test_tls_with_one_certificate_for_all(plane: LoadedPlane) -> None:
    import ssl
    import urllib.request

    with opened_fronts(plane, inference_address=parse_address("https://127.0.0.1:0"), front_ends=3) as opened:
        certificates = {ssl.get_server_certificate((opened.inference.host, opened.inference.port)) for _ in range(9)}
        assert len(certificates) == 1
        context = ssl.create_default_context(cadata=certificates.pop())
        base = f"https://localhost:{opened.inference.port}"
        for path, body in (("/predictions/capitals", b"x" * 300_000), ("/models/capitals/invoke", b"x")):
            request = urllib.request.Request(base + path, body, {"Content-Type": "text/plain"})
            with urllib.request.urlopen(request, timeout=PATIENCE, context=context) as reply:
                assert reply.read() == body.upper()


def test_what_cannot_be_had_ends_the_start_and_is_named(plane: LoadedPlane, several: House) -> None:
    before = Inventory()
    for port in ("inference", "management", "metrics"):
        with pytest.raises(InvalidConfig, match=rf"{port}_address=.*is already in use"):
            Web(Services(plane, plane.control, Metrics(), settings(**{f"{port}_address": several.inference}), None))
    assert before.new() == []
    with pytest.raises(InvalidConfig, match=r"inference_address=.*is already in use"), opened_fronts(
        plane, inference_address=several.inference
    ):  # fmt: skip
        pass
