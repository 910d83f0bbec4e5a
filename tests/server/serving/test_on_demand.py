"""Models that are loaded by the first request for them, with real worker processes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jitney.core.errors import JitneyError, LoadFailed, ModelNotReady, NoWorkers, QueueTimeout
from jitney.server.serving import on_demand
from jitney.server.serving.deployment import ModelState, Options
from jitney.server.serving.model_cache import ModelCache
from jitney.server.serving.on_demand import NOT_LOADED, OnDemandDeployment
from jitney.tests.fakes.plane import LoadedPlane, doubling, first, loaded, rows
from jitney.tools.bench import served

PATIENCE = 30.0
ON_DEMAND = 'parameters { key: "load" value { string_value: "on_demand" } }\n'


def wait_until(true: Callable[[], bool]) -> None:
    served.wait_until(true, PATIENCE, "what the test expects")


def idle(seconds: float) -> str:
    return f'parameters {{ key: "idle_timeout_s" value {{ string_value: "{seconds}" }} }}\n'


def ask(plane: LoadedPlane, model: str = "m", value: float = 1.0) -> float:
    return first(plane.infer(model, None, rows(value)).result(PATIENCE))[0]


def deployment(plane: LoadedPlane, model: str = "m") -> OnDemandDeployment:
    found = plane.registry.deployment(model)
    assert isinstance(found, OnDemandDeployment)
    return found


def workers() -> set[int]:
    """Workers' processes of this one that have not ended; some may be an earlier test's that are about to."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.status() != psutil.STATUS_ZOMBIE and "worker.main" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def threads_of(*parts: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if any(part in thread.name for part in parts)]


def test_the_first_request_loads_the_model_and_waits_for_it(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND, instances=2)
    before = workers()
    with loaded(tmp_path) as plane:
        assert workers() <= before
        assert not threads_of("jitney-workers", "model-cache")
        assert plane.ready()
        assert plane.model_ready("m")
        assert plane.healthy()
        (entry,) = plane.index()
        assert (entry.state, entry.reason) == ("READY", NOT_LOADED)
        (description,) = plane.describe("m")
        assert (description.workers, description.min_workers, description.max_workers) == ([], 0, 2)
        assert plane.config("m").inputs[0].name == "x"
        assert ask(plane) == 2.0
        assert (plane.index()[0].state, plane.index()[0].reason) == ("READY", "")
        wait_until(lambda: sum(worker.state == "READY" for worker in plane.describe("m")[0].workers) == 2)
        assert plane.statistics("m")[0].success.count == 1
    assert workers() <= before
    wait_until(lambda: not threads_of("jitney-workers", "model-cache"))


def test_a_request_waits_no_longer_than_its_deadline(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND + "dynamic_batching { default_queue_policy { default_timeout_microseconds: 200000 } }")
    model = tmp_path / "m" / "1" / "model.py"
    model.write_text(model.read_text().replace("self.seconds = float", "time.sleep(1.5); self.seconds = float"))
    with loaded(tmp_path) as plane:
        began = time.monotonic()
        with pytest.raises(QueueTimeout):
            ask(plane)
        assert time.monotonic() - began < 1.2
        wait_until(lambda: bool(deployment(plane).seats()))
        assert ask(plane) == 2.0, "the load went on"


def test_a_model_goes_when_nothing_asks_and_its_counters_stay(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND + idle(1.0))
    model = tmp_path / "m" / "1" / "model.py"
    slowly = "time.sleep(1.5); self.seconds = float"  # a load that takes longer than what counts as unused
    model.write_text(model.read_text().replace("self.seconds = float", slowly))
    with loaded(tmp_path) as plane:
        before = workers()
        for round_ in (1, 2):
            assert ask(plane) == 2.0
            assert len(workers() - before) == 1
            wait_until(lambda: workers() <= before)
            assert plane.index()[0].reason == NOT_LOADED
            assert plane.model_ready("m")
            assert plane.statistics("m")[0].success.count == round_
        wait_until(lambda: not threads_of("jitney-workers", "model-cache"))


def test_a_model_is_not_unloaded_while_it_answers(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND + idle(0.1), seconds=0.8)
    with loaded(tmp_path) as plane:
        call = plane.infer("m", None, rows(3.0))
        wait_until(lambda: bool(deployment(plane).seats()))
        (seat,) = deployment(plane).seats()
        time.sleep(0.5)
        assert deployment(plane).seats() == [seat]
        assert first(call.result(PATIENCE)) == [6.0]


#: Answers some time after `execute` has returned.
LATER = """
import threading, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request,)).start()

    def answer(self, request):
        time.sleep(0.8)
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        sender = request.get_response_sender()
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", 2 * x)]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


def test_a_model_is_not_unloaded_while_a_request_is_open(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND + idle(0.1) + "model_transaction_policy { decoupled: true }")
    (tmp_path / "m" / "1" / "model.py").write_text(LATER)
    with loaded(tmp_path) as plane:
        call = plane.infer("m", None, rows(3.0))
        wait_until(lambda: bool(deployment(plane).seats()))
        (seat,) = deployment(plane).seats()
        time.sleep(0.5)
        assert deployment(plane).seats() == [seat]
        assert first(call.result(PATIENCE)) == [6.0]


def test_the_least_recently_used_model_makes_room(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        doubling(tmp_path, name, ON_DEMAND)
    cache = ModelCache()
    with loaded(tmp_path, options=Options(models=cache)) as plane:
        for name in ("a", "b"):
            ask(plane, name)
        wait_until(lambda: all(deployment(plane, name).memory for name in ("a", "b")))
        sizes = [deployment(plane, name).memory for name in ("a", "b")]
        cache.max_bytes = int(2.5 * max(sizes))
        ask(plane, "a")
        ask(plane, "c")
        wait_until(lambda: not deployment(plane, "b").seats())
        assert deployment(plane, "a").seats()
        assert deployment(plane, "c").seats()
        assert ask(plane, "b") == 2.0


BREAKS = """
import pathlib, time
import triton_python_backend_utils as pb_utils
started = pathlib.Path(__file__).parent / "started"
started.write_text(started.read_text() + "." if started.exists() else ".")
time.sleep(0.3)
if not (pathlib.Path(__file__).parent / "mended").exists():
    raise RuntimeError("no such weights")

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x").as_numpy() for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x * 2)]) for x in inputs]
"""


def test_a_load_that_fails_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doubling(tmp_path, "m", ON_DEMAND, instances=2)
    doubling(tmp_path, "fine")
    version = tmp_path / "m" / "1"
    (version / "model.py").write_text(BREAKS)
    with loaded(tmp_path) as plane:
        waiting = [plane.infer("m", None, rows(1.0)) for _ in range(3)]
        for call in waiting:
            with pytest.raises(NoWorkers, match="no such weights"):
                call.result(PATIENCE)
        began = time.monotonic()
        with pytest.raises(NoWorkers, match="no such weights"):
            ask(plane)
        assert time.monotonic() - began < 0.2, "refused at once"
        assert (version / "started").read_text() == ".", "and no process was started"
        assert not plane.model_ready("m")
        assert plane.ready(), "one broken model in a thousand is no reason to send requests elsewhere"
        assert plane.healthy()
        entry = next(entry for entry in plane.index() if entry.name == "m")
        assert entry.state == ModelState.UNAVAILABLE
        assert "no such weights" in entry.reason
        (version / "mended").touch()
        monkeypatch.setattr(on_demand, "RETRY_S", 0.0)
        assert plane.model_ready("m")
        assert ask(plane) == 2.0
        assert plane.model_ready("m")


def test_requests_do_not_notice_that_their_model_is_unloaded(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND + "dynamic_batching { }")
    errors: list[BaseException] = []
    stop = threading.Event()
    with loaded(tmp_path) as plane:

        def client() -> None:
            try:
                while not stop.is_set():
                    assert ask(plane, value=3.0) == 6.0
            except BaseException as error:  # noqa: BLE001 - reported by the test
                errors.append(error)

        clients = [threading.Thread(target=client) for _ in range(3)]
        for thread in clients:
            thread.start()
        unloaded = 0
        until = time.monotonic() + 40
        while unloaded < 4 and time.monotonic() < until:
            unloaded += deployment(plane).unload(time.monotonic() + 1)
        stop.set()
        for thread in clients:
            thread.join()
    assert not errors
    assert unloaded == 4


def test_a_load_that_is_asked_for_loads_now_and_an_unload_ends_it(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND)
    doubling(tmp_path, "broken", ON_DEMAND)
    (tmp_path / "broken" / "1" / "model.py").write_text("raise RuntimeError('no such weights')")
    with loaded(tmp_path) as plane:
        plane.load("m")
        assert deployment(plane).seats()
        with pytest.raises(LoadFailed, match="no such weights"):
            plane.load("broken")
        plane.unload("m")
        with pytest.raises(ModelNotReady, match="unloaded"):
            ask(plane)


def test_a_step_of_an_ensemble_is_loaded_by_the_ensembles_request(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND)
    (tmp_path / "e" / "1").mkdir(parents=True)
    (tmp_path / "e" / "config.pbtxt").write_text("""platform: "ensemble" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [
 { model_name: "m" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "z" } },
 { model_name: "m" model_version: -1 input_map { key: "x" value: "z" } output_map { key: "y" value: "y" } } ] }
""")
    with loaded(tmp_path) as plane:
        assert plane.model_ready("e")
        assert not deployment(plane).seats()
        assert ask(plane, "e") == 4.0


def test_more_workers_in_the_configuration_are_those_of_the_next_load(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND)
    with loaded(tmp_path) as plane:
        before = deployment(plane)
        config = tmp_path / "m" / "config.pbtxt"
        config.write_text(config.read_text().replace("count: 1", "count: 2"))
        plane.model_control.reload("m")
        assert deployment(plane) is before
        ask(plane)
        wait_until(lambda: len(before.seats()) == 2)
        config.write_text(config.read_text().replace("count: 2", "count: 1"))
        plane.model_control.reload("m")
        wait_until(lambda: len(before.seats()) == 1)
        assert ask(plane) == 2.0


def test_ending_the_server_ends_a_load(tmp_path: Path) -> None:
    doubling(tmp_path, "m", ON_DEMAND)
    (tmp_path / "m" / "1" / "model.py").write_text("import time; time.sleep(60)")
    before = workers()
    with loaded(tmp_path) as plane:
        call = plane.infer("m", None, rows(1.0))
        wait_until(lambda: bool(workers() - before))
        began = time.monotonic()
        plane.close(0.5)
        with pytest.raises(JitneyError):
            call.result(PATIENCE)
        assert time.monotonic() - began < 10
    assert workers() <= before


def test_a_sequence_under_way_keeps_its_worker(tmp_path: Path) -> None:
    idle_us = "sequence_batching { max_sequence_idle_microseconds: 2000000 }"
    doubling(tmp_path, "m", ON_DEMAND + idle(0.1) + idle_us)
    with loaded(tmp_path) as plane:

        def step(value: float, flags: int = 0) -> float:
            request = rows(value)
            request.parameters = {"triton_sequence_id": 7, "triton_flags": flags}
            return first(plane.infer("m", None, request).result(PATIENCE))[0]

        assert step(1.0, flags=1) == 2.0
        (seat,) = deployment(plane).seats()
        time.sleep(0.8)
        assert step(2.0) == 4.0
        assert deployment(plane).seats() == [seat]
        assert not deployment(plane).unload(time.monotonic()), "not for others either"
        wait_until(lambda: not deployment(plane).seats())
