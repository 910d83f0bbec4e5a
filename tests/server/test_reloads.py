"""Loading, unloading and reloading one model over and over in a server process that others keep busy.

No answer may be wrong, no request may fail that had a version to go to, and what the server holds at the end is what it held at
the beginning. `RELOADS=500` in the environment makes it long.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from jitney.tests.fakes.plane import doubling
from jitney.tools.bench.served import ServedProcess, serving, wait_until

RELOADS = int(os.environ.get("RELOADS", "20"))
#: Cycles before the first look: threads, caches and allocators have then taken what they keep.
WARM_UP = 4
#: Requests at once before the first look: a listener starts a thread where it finds none idle, and keeps it.
AT_ONCE = 8
#: Bytes that the server process may have more at the end, for each cycle and in all.
PER_CYCLE, IN_ALL = 20_000, 8 << 20
MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        x = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", FACTOR * array)]) for array in x]
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(60 + 4 * RELOADS)]


class Clients:
    """Threads that ask `m` for something only they know, and `still`, which nobody reloads."""

    def __init__(self, server: ServedProcess) -> None:
        self.server = server
        self.stop = threading.Event()
        self.answered = {"m": 0, "still": 0}
        self.factors: set[float] = set()
        self.refused: set[str] = set()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def run(self, number: int) -> None:
        with contextlib.closing(connect(self.server)) as client:
            asked = 0
            while not self.stop.is_set():
                asked += 1
                model = "still" if asked % 4 == 0 else "m"
                self._ask(client, model, np.array([[number, asked]], np.float32))
                time.sleep(0.002)

    def _ask(self, client: triton.InferenceServerClient, model: str, x: np.ndarray) -> None:
        try:
            y = infer(client, model, x)
        except InferenceServerException as error:
            with self._lock:
                self.refused.add(f"{model}: {error}")
            return
        factor = float(y[0, 1] / x[0, 1])
        with self._lock:
            self.answered[model] += 1
            self.factors.add(factor)
            if y.tolist() != (np.float32(factor) * x).tolist() or (model == "still" and factor != 2):
                self.wrong.append(f"{model}: {x.tolist()} gave {y.tolist()}")


def connect(server: ServedProcess) -> triton.InferenceServerClient:
    return triton.InferenceServerClient(server.inference.removeprefix("http://"))


def infer(client: triton.InferenceServerClient, model: str, x: np.ndarray) -> np.ndarray:
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    found: np.ndarray = client.infer(model, [tensor]).as_numpy("y")
    return found


@contextlib.contextmanager
def busy(server: ServedProcess, count: int = 4) -> Iterator[Clients]:
    clients = Clients(server)
    threads = [threading.Thread(target=clients.run, args=(number,)) for number in range(1, count + 1)]
    for thread in threads:
        thread.start()
    try:
        yield clients
    finally:
        clients.stop.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServedProcess]:
    for name in ("m", "still"):
        doubling(tmp_path, name, "dynamic_batching { }")
    rewrite(tmp_path, 2)
    with serving(tmp_path, flags=["--model-control-mode=explicit", "--load-model=*"]) as server:
        yield server


def rewrite(repository: Path, factor: int) -> None:
    (repository / "m" / "1" / "model.py").write_text(MODEL.replace("FACTOR", str(factor)))


def holdings(server: ServedProcess) -> dict[str, int]:
    """What the server process holds besides memory."""
    process = psutil.Process(server.process.pid)
    return {
        "files": process.num_fds(),
        "threads": process.num_threads(),
        "processes": len(process.children(recursive=True)),
        "maps": len(process.memory_maps(grouped=False)),
    }


def memory(server: ServedProcess) -> int:
    return int(psutil.Process(server.process.pid).memory_full_info().uss)


def start_threads(server: ServedProcess) -> None:
    """Makes the listener start more threads than the cycles, which ask one thing after another, ever need."""

    def ask(number: int) -> None:
        with contextlib.closing(connect(server)) as client:
            for _ in range(25):
                assert client.get_model_repository_index()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(ask, range(AT_ONCE)))


def repeat(server: ServedProcess, cycle: Callable[[int], None]) -> None:
    """Runs the cycles and compares what is held after the first few with what is held after the last."""
    start_threads(server)
    for number in range(WARM_UP):
        cycle(number)
    settled: dict[str, int] = {}

    def steady() -> bool:  # replaced workers end beside everything else
        nonlocal settled
        before, settled = settled, holdings(server)
        time.sleep(0.3)
        return before == settled

    wait_until(steady, 30, "the replaced workers to end")
    first, used = settled, memory(server)
    for number in range(WARM_UP, WARM_UP + RELOADS):
        cycle(number)
    within = {"files": 0, "threads": 0, "processes": 0, "maps": 64}
    held: dict[str, int] = {}

    def given_back() -> bool:
        held.update(holdings(server))
        return all(value <= first[name] + within[name] for name, value in held.items())

    try:
        wait_until(given_back, 40, f"the server to hold no more than {first}")
    except TimeoutError as error:
        raise AssertionError(f"{error}; it holds {held}") from None
    grown = memory(server) - used
    assert grown <= IN_ALL + PER_CYCLE * RELOADS, f"{RELOADS} cycles took {grown} bytes"


def test_reloading_a_model_loses_no_request(server: ServedProcess, tmp_path: Path) -> None:
    with busy(server) as clients, contextlib.closing(connect(server)) as client:

        def reload(number: int) -> None:
            factor = 3 + number
            rewrite(tmp_path, factor)
            client.load_model("m")
            assert infer(client, "m", np.ones((1, 2), np.float32)).tolist() == [[factor, factor]]

        repeat(server, reload)
    assert (clients.wrong, clients.refused) == ([], set())
    assert clients.factors >= set(range(2, 3 + WARM_UP + RELOADS))
    assert min(clients.answered.values()) > RELOADS


def test_loading_and_unloading_a_model_gives_everything_back(server: ServedProcess, tmp_path: Path) -> None:
    source = {"file:1/model.py": MODEL.replace("FACTOR", "5").encode()}
    with busy(server) as clients, contextlib.closing(connect(server)) as client:
        config = json.dumps(client.get_model_config("m"))

        def cycle(number: int) -> None:
            if number % 2:
                client.load_model("m", config=config, files=source)
            else:
                client.load_model("m")
            expected = 5 if number % 2 else 2
            assert infer(client, "m", np.ones((1, 2), np.float32)).tolist() == [[expected, expected]]
            client.unload_model("m")
            assert not client.is_model_ready("m")

        client.unload_model("m")
        repeat(server, cycle)
        assert {entry["state"] for entry in client.get_model_repository_index() if entry["name"] == "m"} == {"UNAVAILABLE"}
    assert clients.wrong == []
    assert clients.refused == {"m: [404] Request for unknown model: 'm' has no available versions"}
    assert clients.answered["still"] > RELOADS
