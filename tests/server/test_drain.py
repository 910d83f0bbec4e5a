"""A server that is told to end, or to change, under load: what a client has sent over an open connection is answered.

As behind Kubernetes' service, a client goes elsewhere where a connection is refused, and closes one whose answer says so.
Between two answers it pauses, so that at any moment some kept connections are idle and about to be used.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from jitney.tests.fakes.plane import doubling
from jitney.tests.fakes.torchserve_server import archive, running
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServedProcess, serving, wait_until

PATIENCE = 30.0
BODY = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'
#: What grpcio says where there is no server: the call was not sent, and goes elsewhere.
ELSEWHERE = "failed to connect"
#: Threads that share a connection for gRPC: it is never without a call.
SHARING = 12


class Clients:
    """Threads that ask until the server has gone. `seen` counts answers, by what they were."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.failed: list[str] = []
        self._lock, self._threads, self._stop = threading.Lock(), list[threading.Thread](), threading.Event()

    def add(self, count: int, ask: Callable[[Clients, int], None]) -> None:
        for number in range(count):
            self._threads.append(threading.Thread(target=ask, args=(self, number)))
            self._threads[-1].start()

    def note(self, kind: str, failure: str = "") -> None:
        with self._lock:
            self.seen[kind] += 1
            if failure:
                self.failed.append(failure)

    @property
    def going(self) -> bool:
        return not self._stop.is_set()

    def join(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in self._threads)


def over_http(url: str, path: str, body: bytes, right: bytes) -> Callable[[Clients, int], None]:
    """Asks over a kept connection until none can be had."""

    def ask(clients: Clients, number: int) -> None:
        with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)) as connection:
            ask_on(connection, clients, number)

    def ask_on(connection: http.client.HTTPConnection, clients: Clients, number: int) -> None:
        while clients.going:
            if connection.sock is None:
                try:
                    connection.connect()
                except OSError:
                    return
            try:
                connection.request("POST", path, body)
                reply = connection.getresponse()
                content = reply.read()
            except (OSError, http.client.HTTPException) as error:
                clients.note("lost", f"{path}: {type(error).__name__}: {error}")
                return
            clients.note(
                "right" if reply.status == 200 and right in content else "wrong", "" if right in content else repr(content)
            )
            time.sleep(0.001 * (number % 8))  # http.client has closed the connection where the answer says so

    return ask


def over_grpc(address: str, sharing: int = 1) -> Callable[[Clients, int], None]:
    """Threads that ask over one connection until none can be had; a failure is noted as what it is."""

    def ask(clients: Clients, number: int) -> None:
        with triton.InferenceServerClient(address, channel_args=[("grpc.use_local_subchannel_pool", 1)]) as client:
            threads = [threading.Thread(target=ask_on, args=(client, clients, number + i)) for i in range(sharing)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)

    def ask_on(client: triton.InferenceServerClient, clients: Clients, number: int) -> None:
        x = np.full((1, 2), number + 1, np.float32)
        tensor = triton.InferInput("x", [1, 2], "FP32")
        tensor.set_data_from_numpy(x)
        while clients.going:
            try:
                right = client.infer("m", [tensor], client_timeout=PATIENCE).as_numpy("y").tolist() == (2 * x).tolist()
            except InferenceServerException as error:
                if ELSEWHERE not in str(error):
                    clients.note("lost", f"gRPC: {error}")
                return
            clients.note("right" if right else "wrong")
            time.sleep(0.001 * (number % 8))

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("front_ends", [1, 2])
def test_a_signal_under_load_loses_no_request(tmp_path: Path, number: signal.Signals, front_ends: int) -> None:
    end_under_load(tmp_path, number, front_ends, grpc=False)


@pytest.mark.slow
def test_a_signal_under_load_loses_no_call_of_grpc(tmp_path: Path) -> None:
    """Each call is answered, or was not sent because no connection could be had."""
    end_under_load(tmp_path, signal.SIGTERM, 1, grpc=True)


def end_under_load(tmp_path: Path, number: signal.Signals, front_ends: int, *, grpc: bool) -> None:
    doubling(tmp_path / "models", "m", "dynamic_batching { }", instances=2, seconds=0.005)
    archive(tmp_path / "store", "capitals")
    port = free_port()
    properties = f"front_ends={front_ends}\nmodel_store={tmp_path / 'store'}\nload_models=all\ndefault_workers_per_model=1\n"
    properties += f"grpc_port={port}\ngrpc_inference_port={free_port()}\ngrpc_management_port={free_port()}\n"
    with serving(tmp_path / "models", properties=properties, grpc=True) as server:
        wait_until(lambda: server.get_json("/models/capitals", server.management)[0]["workers"], PATIENCE, "the archive")
        clients = Clients()
        clients.add(8, over_http(server.inference, "/v2/models/m/infer", BODY, b"[2.0,4.0]"))
        clients.add(8, over_http(server.inference, "/predictions/capitals", b"abc", b"ABC"))
        if grpc:
            clients.add(4, over_grpc(f"127.0.0.1:{port}"))
            clients.add(1, over_grpc(f"127.0.0.1:{port}", SHARING))
        try:
            wait_until(lambda: clients.seen["right"] >= 200, PATIENCE, "load")
            server.process.send_signal(number)
            assert server.process.wait(PATIENCE) == 0
        finally:
            clients.join()
    assert clients.failed == [] and set(clients.seen) == {"right"}


def under_load(server: ServedProcess, change: Callable[[], Any], *asking: Callable[[Clients, int], None]) -> None:
    """Makes the change several times while clients ask; none of them may notice."""
    clients = Clients()
    for ask in asking:
        clients.add(6, ask)
    try:
        wait_until(lambda: clients.seen["right"] >= 100, PATIENCE, "load")
        for _ in range(3):
            change()
    finally:
        clients.join()
    assert clients.failed == [] and set(clients.seen) == {"right"}, (clients.seen, clients.failed[:5])


@pytest.mark.slow
@pytest.mark.parametrize("front_ends", ["1", "2"])
def test_scaling_down_and_another_version_lose_no_request(tmp_path: Path, front_ends: str) -> None:
    store = tmp_path / "store"
    archive(store, "capitals")
    archive(store, "capitals", version="2.0", file="capitals_2")
    with running(tmp_path, load_models="capitals.mar", default_workers_per_model="2", front_ends=front_ends) as site:

        def change() -> None:
            for method, path in (
                ("PUT", "/models/capitals?min_worker=4&max_worker=4&synchronous=true"),
                ("PUT", "/models/capitals?min_worker=1&max_worker=1&synchronous=true"),
                ("POST", "/models?url=capitals_2.mar&initial_workers=1&synchronous=true"),
                ("PUT", "/models/capitals/2.0/set-default"),
                ("PUT", "/models/capitals/1.0/set-default"),
                ("DELETE", "/models/capitals/2.0"),
            ):
                status, answer = site.manage(method, path)
                assert status == 200, (method, path, answer)

        under_load(site.server, change, over_http(site.server.inference, "/predictions/capitals", b"abc", b"ABC"))


@pytest.mark.slow
@pytest.mark.parametrize("front_ends", [1, 2])
def test_unloading_answers_what_it_had_accepted_and_then_refuses(tmp_path: Path, front_ends: int) -> None:
    """Over HTTP and gRPC: each request is answered rightly, or hears that the model is not there; nothing hangs or is cut off."""
    doubling(tmp_path, "m", "dynamic_batching { }", instances=2, seconds=0.005)
    port = free_port()
    flags = ["--model-control-mode=explicit", "--load-model=*", f"--grpc-port={port}"]
    with serving(tmp_path, flags=flags, properties=f"front_ends={front_ends}\n", grpc=True) as server:
        seen, stop, lock = Counter[str](), threading.Event(), threading.Lock()

        def http_asks() -> None:
            while not stop.is_set():
                with contextlib.closing(http.client.HTTPConnection(server.inference[7:], timeout=PATIENCE)) as connection:
                    connection.request("POST", "/v2/models/m/infer", BODY)
                    reply = connection.getresponse()
                    content = reply.read()
                kind = (
                    "right"
                    if reply.status == 200 and b"[2.0,4.0]" in content
                    else "gone"
                    if b"no available versions" in content
                    else repr(content)
                )
                with lock:
                    seen[kind] += 1

        def grpc_asks() -> None:
            tensor = triton.InferInput("x", [1, 2], "FP32")
            tensor.set_data_from_numpy(np.ones((1, 2), np.float32))
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
                while not stop.is_set():
                    try:
                        kind = "right" if client.infer("m", [tensor]).as_numpy("y").tolist() == [[2, 2]] else "wrong"
                    except InferenceServerException as error:
                        kind = "gone" if "no available versions" in str(error) else str(error)
                    with lock:
                        seen[kind] += 1

        threads = [threading.Thread(target=asks) for asks in (http_asks, http_asks, http_asks, grpc_asks, grpc_asks)]
        for thread in threads:
            thread.start()
        try:
            with triton.InferenceServerClient(f"127.0.0.1:{port}") as control:
                for _ in range(5):
                    right = seen["right"]
                    wait_until(lambda right=right: seen["right"] > right + 30, PATIENCE, "answers")
                    control.unload_model("m")
                    control.load_model("m")
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
    assert set(seen) <= {"right", "gone"}, seen
