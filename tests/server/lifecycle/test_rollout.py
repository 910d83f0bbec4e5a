"""What a reload leaves alone, what it replaces, and what it does when something fails."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from jitney.core.errors import Draining, InvalidConfig, JitneyError, LoadFailed, ModelNotFound, Unsupported
from jitney.server.lifecycle.model_control import ModelControl
from jitney.server.repository.triton.repository import TritonRepository
from jitney.server.serving.dataplane import DataPlane
from jitney.server.serving.deployment import Options
from jitney.server.serving.registry import Registry
from jitney.tests.fakes.plane import DOUBLING, LoadedPlane, doubling, first, loaded, rows
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0
CHAIN = """platform: "ensemble" max_batch_size: 8
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [
  { model_name: "m" model_version: -1 input_map { key: "x" value: "IN" } output_map { key: "y" value: "half_way" } },
  { model_name: "n" model_version: -1 input_map { key: "x" value: "half_way" } output_map { key: "y" value: "OUT" } }
] }
"""
OVERRIDE = json.dumps(
    {
        "backend": "python",
        "max_batch_size": 8,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [2]}],
    }
)


def processes(plane: DataPlane, version: str = "1", model: str = "m") -> set[int]:
    (found,) = plane.describe(model, version)
    return {worker.pid for worker in found.workers}


def rewrite(folder: Path, old: str, new: str) -> None:
    text = (folder / "config.pbtxt").read_text()
    assert old in text
    (folder / "config.pbtxt").write_text(text.replace(old, new))


@pytest.fixture
def started() -> Callable[[], list[psutil.Process]]:
    """The processes that this test has started and that still run, whatever other tests left (multiprocessing's tracker)."""
    before = set(psutil.Process().children())
    return lambda: [process for process in psutil.Process().children() if process not in before]


def add_version(folder: Path, version: str, source: str = DOUBLING) -> None:
    (folder / version).mkdir()
    (folder / version / "model.py").write_text(source)


def ask(plane: DataPlane, model: str = "m", version: str | None = None) -> list[float]:
    name = "IN" if model == "chain" else "x"
    return first(plane.infer(model, version, rows(1.0, name=name)).result(PATIENCE))


def index(plane: LoadedPlane) -> list[tuple[str, str, str]]:
    return [(entry.name, entry.version, entry.state) for entry in plane.index()]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    doubling(tmp_path, "m", "version_policy { all { } }")
    return tmp_path / "m"


def test_more_and_fewer_instances_leave_the_others_running(model: Path) -> None:
    with loaded(model.parent) as plane:
        before = processes(plane)
        rewrite(model, "count: 1", "count: 2")
        plane.load("m")
        assert processes(plane) > before and len(processes(plane)) == 2
        assert plane.config("m").instance_groups[0].count == 2
        assert plane.config("m").config_json["instance_group"][0]["count"] == 2
        rewrite(model, "count: 2", "count: 1")
        plane.load("m")
        assert ask(plane) == [2.0]
        (worker,) = [worker for worker in plane.describe("m")[0].workers if worker.state == "READY"]
        assert {worker.pid} == before


def test_a_new_version_leaves_the_old_one_running(model: Path) -> None:
    with loaded(model.parent) as plane:
        before = processes(plane)
        add_version(model, "2", DOUBLING.replace("2 * x", "20 * x"))
        plane.load("m")
        assert (ask(plane), ask(plane, "m", "1"), processes(plane)) == ([20.0], [2.0], before)
        rewrite(model, "version_policy { all { } }", "version_policy { specific { versions: [ 1 ] } }")
        plane.load("m")
        assert (plane.versions("m"), ask(plane), processes(plane)) == (["1"], [2.0], before)


@pytest.mark.parametrize("what", ["scheduler", "file", "name", "override"])
def test_everything_else_is_loaded_anew(model: Path, what: str) -> None:
    with loaded(model.parent) as plane:
        before = processes(plane)
        if what == "scheduler":
            rewrite(model, "version_policy", "dynamic_batching { } version_policy")
        elif what == "file":
            (model / "1" / "helper.py").write_text("")
        elif what == "name":
            rewrite(model, "kind: KIND_CPU count: 1", 'kind: KIND_CPU count: 1 name: "other"')
        plane.load("m", OVERRIDE if what == "override" else None)
        assert ask(plane) == [2.0]
        assert not processes(plane) & before


def test_a_load_that_fails_in_part_changes_nothing(model: Path) -> None:
    with loaded(model.parent) as plane:
        before = processes(plane)
        add_version(model, "2", "raise RuntimeError('no weights')")
        (model / "1" / "helper.py").write_text("")
        with pytest.raises(LoadFailed, match=r"version 2 is at UNAVAILABLE state: Internal: .*no weights"):
            plane.load("m")
        assert (processes(plane), ask(plane)) == (before, [2.0])
        assert index(plane) == [("m", "1", "READY"), ("m", "2", "UNAVAILABLE")]


def test_a_new_version_that_is_given_up_with_another_is_not_listed_as_loading(model: Path) -> None:
    with loaded(model.parent) as plane:
        add_version(model, "2")
        add_version(model, "3", "raise RuntimeError('no weights')")
        with pytest.raises(LoadFailed, match="no weights"):
            plane.load("m")
        assert index(plane) == [("m", "1", "READY"), ("m", "2", "UNAVAILABLE"), ("m", "3", "UNAVAILABLE")]


def test_a_load_that_breaks_off_leaves_no_worker_and_nothing_loading(model: Path) -> None:
    """Whatever breaks it off: here it is who wants to be told how it went."""

    def refuse(*_: object) -> None:
        raise BrokenPipeError("nobody reads")

    registry = Registry()
    plane, repository = DataPlane(registry), TritonRepository([model.parent])
    control = ModelControl(registry, repository, plane, Options(), "explicit")
    with pytest.raises(BrokenPipeError):
        control.load_all(None, refuse)
    assert {entry.state for entry in registry.index()} == {"UNAVAILABLE"}
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("jitney-m")]
    control.load("m")
    assert ask(plane) == [2.0]
    plane.close(PATIENCE)
    control.close()
    repository.close()


def test_what_is_loading_is_given_up_when_the_server_ends(model: Path) -> None:
    add_version(model, "2", "import threading\nthreading.Event().wait()")
    (model / "1" / "model.py").unlink()
    (model / "1").rmdir()
    registry = Registry()
    plane, repository = DataPlane(registry), TritonRepository([model.parent])
    control = ModelControl(registry, repository, plane, Options(), "explicit")
    loading = threading.Thread(target=control.load_all, args=(None, lambda *_: None))
    loading.start()
    begun = [("2", "LOADING")]
    wait_until(lambda: [(entry.version, entry.state) for entry in registry.index()] == begun, PATIENCE, "the load")
    control.close()
    loading.join(PATIENCE)
    assert not loading.is_alive()
    assert [entry.state for entry in registry.index()] == ["UNAVAILABLE"]
    with pytest.raises(Draining):
        control.load("m")
    repository.close()


def test_unloading_gives_up_what_is_loading(model: Path, started: Callable[[], list[psutil.Process]]) -> None:
    with loaded(model.parent) as plane:
        (model / "1" / "model.py").write_text("import threading\nthreading.Event().wait()")
        told: list[str] = []

        def load() -> None:
            try:
                plane.load("m")
            except LoadFailed as error:
                told.append(str(error))

        loading = threading.Thread(target=load)
        loading.start()
        wait_until(lambda: len(started()) == 2, PATIENCE, "the new worker")
        plane.unload("m")
        loading.join(PATIENCE)
        assert not loading.is_alive()
        assert "given up: it was unloaded before it was ready" in told[0]
        wait_until(lambda: not started(), PATIENCE, "the end of all workers")
        assert index(plane) == [("m", "1", "UNAVAILABLE")]
        assert [entry.reason for entry in plane.index()] == ["unloaded"]


@pytest.mark.parametrize("served", [True, False])
def test_unloading_gives_up_a_load_that_has_only_just_begun(tmp_path: Path, served: bool) -> None:
    """The codec's own file takes its time here, which comes before the workers; then what loads would never end."""
    folder, hold, reached = tmp_path / "models" / "m", tmp_path / "hold", tmp_path / "reached"
    doubling(folder.parent, "m", 'parameters { key: "codec" value { string_value: "codec.py" } }')
    codec = "def decode(request): ...\ndef encode(outputs, request): ...\n"
    (folder / "codec.py").write_text(codec)
    with loaded(folder.parent) as plane:
        if not served:
            plane.unload("m")
        wait = f"import os, pathlib, time\npathlib.Path({str(reached)!r}).touch()\n"
        wait += f"while os.path.exists({str(hold)!r}): time.sleep(0.01)\n"
        (folder / "codec.py").write_text(wait + codec)
        (folder / "1" / "model.py").write_text("import time\ntime.sleep(60)")
        hold.touch()
        with ThreadPoolExecutor() as pool:
            loading = pool.submit(plane.load, "m")
            wait_until(reached.exists, PATIENCE, "the codec")
            unloading = pool.submit(plane.unload, "m")
            control = plane.model_control
            wait_until(lambda: control._rollout._unloads("m") != [], PATIENCE, "the unload")
            hold.unlink()
            unloading.result(PATIENCE)
            with pytest.raises(LoadFailed, match="given up: it was unloaded before it was ready"):
                loading.result(PATIENCE)
        assert index(plane) == [("m", "1", "UNAVAILABLE")]
        assert [entry.reason for entry in plane.index()] == ["unloaded"]


def test_unloading_gives_up_workers_that_are_being_added(model: Path, started: Callable[[], list[psutil.Process]]) -> None:
    hold = model.parent / "hold"
    wait = f"import os, time\nwhile os.path.exists({str(hold)!r}): time.sleep(0.01)\n"
    (model / "1" / "model.py").write_text(wait + DOUBLING)
    with loaded(model.parent) as plane:
        told: list[str] = []

        def load() -> None:
            try:
                plane.load("m")
            except LoadFailed as error:
                told.append(str(error))

        hold.touch()
        rewrite(model, "count: 1", "count: 2")
        loading = threading.Thread(target=load)
        loading.start()
        wait_until(lambda: len(started()) == 2, PATIENCE, "the second worker")
        assert ask(plane) == [2.0]
        plane.unload("m")
        loading.join(PATIENCE)
        assert "given up: it was unloaded before it was ready" in told[0]
        wait_until(lambda: not started(), PATIENCE, "the end of all workers")


def test_more_instances_than_the_machine_can_hold_are_refused_and_none_is_started(model: Path) -> None:
    with loaded(model.parent) as plane:
        before = processes(plane)
        for count in (100_000, 2**31 - 1):
            rewrite(model, "count: 1", f"count: {count}")
            with pytest.raises(JitneyError, match=f"'m' is to have {count} workers, .* has room for at most"):
                plane.load("m")
            rewrite(model, f"count: {count}", "count: 1")
        assert (processes(plane), ask(plane)) == (before, [2.0])
        (model / "1" / "helper.py").write_text("")  # with other files it is not the same version with another size
        rewrite(model, "count: 1", "count: 100000")
        with pytest.raises(InvalidConfig, match="has room for at most"):
            plane.load("m")
        assert (processes(plane), ask(plane)) == (before, [2.0])


def test_a_model_that_wants_too_many_workers_is_listed_with_the_reason(
    tmp_path: Path, started: Callable[[], list[psutil.Process]]
) -> None:
    doubling(tmp_path, "m", instances=100_000)
    with loaded(tmp_path) as plane:
        (entry,) = plane.index()
        assert entry.state == "UNAVAILABLE"
        assert "'m' is to have 100000 workers, but this machine has room for at most" in entry.reason
        assert not started()


def test_a_load_stops_where_memory_runs_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: Callable[[], list[psutil.Process]]
) -> None:
    monkeypatch.setattr("jitney.server.workers.capacity.shortage", lambda pid, loading: "no memory" if loading > 1 else "")
    doubling(tmp_path, "m", instances=3)
    with loaded(tmp_path) as plane:
        (entry,) = plane.index()
        assert (entry.state, "its process is not started: no memory" in entry.reason) == ("UNAVAILABLE", True)
        wait_until(lambda: not started(), PATIENCE, "the end of those that were started")


def test_a_first_load_that_fails_in_part_serves_the_rest(model: Path) -> None:
    add_version(model, "2", "raise RuntimeError('no weights')")
    with loaded(model.parent) as plane:
        assert ask(plane) == [2.0]
        assert index(plane) == [("m", "1", "READY"), ("m", "2", "UNAVAILABLE")]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"codec": "image_clasifier"}, "unknown codec 'image_clasifier', did you mean 'image_classifier'; expected one of "),
        ({"codec": "image_classifier", "resize": "big"}, "parameter 'resize' is 'big'; expected "),
        ({"codec": "image_classifier"}, "codec 'image_classifier' makes tensors of "),
    ],
)
def test_a_codec_that_cannot_work_fails_the_load(model: Path, parameters: dict[str, str], reason: str) -> None:
    with loaded(model.parent) as plane:
        assert ask(plane) == [2.0]
        lines = [f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}' for key, text in parameters.items()]
        config = model / "config.pbtxt"
        config.write_text("\n".join([config.read_text(), *lines]))
        with pytest.raises(InvalidConfig, match=reason):
            plane.load("m")
        assert ask(plane) == [2.0]
        plane.unload("m")
        with pytest.raises(InvalidConfig, match=reason):
            plane.load("m")
        assert not plane.model_ready("m")


def test_a_model_without_its_file_is_refused_before_a_worker_starts(model: Path) -> None:
    (model / "1" / "model.py").rename(model / "1" / "modle.py")
    with loaded(model.parent) as plane:
        (found,) = plane.index()
    assert found.state == "UNAVAILABLE"
    assert found.reason.startswith("unable to find '") and found.reason.endswith("in a folder which holds modle.py")


def test_a_model_that_nobody_has_leaves_no_trace(model: Path) -> None:
    with loaded(model.parent) as plane:
        with pytest.raises(ModelNotFound):
            plane.load("nope")
        plane.unload("nope")
        assert index(plane) == [("m", "1", "READY")]
        doubling(model.parent, "later")
        assert index(plane) == [("later", "", ""), ("m", "1", "READY")]


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Path]:
    for name in ("m", "n"):
        doubling(tmp_path, name)
    (tmp_path / "chain" / "1").mkdir(parents=True)
    (tmp_path / "chain" / "config.pbtxt").write_text(CHAIN)
    yield tmp_path


def test_steps_come_and_go_with_their_ensemble(chain: Path) -> None:
    with loaded(chain) as plane:
        for name in ("chain", "m", "n"):
            plane.unload(name)
        plane.load("n")
        plane.load("chain")
        assert ask(plane, "chain") == [4.0]
        plane.unload("chain", dependents=True)
        assert [plane.model_ready(name) for name in ("chain", "m", "n")] == [False, False, True]  # n was asked for


def test_an_ensemble_follows_its_steps(chain: Path) -> None:
    with loaded(chain) as plane:
        rewrite(chain / "n", "dims: [ 2 ]", "dims: [ -1 ]")
        plane.load("n")
        assert ask(plane, "chain") == [4.0]
        rewrite(chain / "n", "dims: [ -1 ]", "dims: [ 3 ]")
        plane.load("n")
        assert not plane.model_ready("chain")
        (entry,) = [entry for entry in plane.index() if entry.name == "chain"]
        assert re.search("in ensemble chain, ensemble tensor half_way: inconsistent shape", entry.reason)
        rewrite(chain / "n", "dims: [ 3 ]", "dims: [ 2 ]")
        plane.load("n")
        plane.load("chain")
        assert ask(plane, "chain") == [4.0]


def test_a_step_whose_version_is_replaced_at_this_moment_goes_to_its_successor(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(chain) as plane:
        find, replaced = plane.registry.deployment, [plane.registry.deployment("m")]
        (chain / "m" / "1" / "helper.py").write_text("")
        plane.load("m")
        replaced[0].close(PATIENCE)
        monkeypatch.setattr(
            plane.registry,
            "deployment",
            lambda name, version=None: replaced.pop() if name == "m" and replaced else find(name, version),
        )
        assert ask(plane, "chain") == ask(plane, "chain")
        assert not replaced


def test_an_ensemble_says_which_step_cannot_be_loaded(chain: Path) -> None:
    (chain / "n" / "1" / "model.py").write_text("raise RuntimeError('no weights')")
    told: list[tuple[str, str | None]] = []
    with loaded(chain) as plane:
        with pytest.raises(
            InvalidConfig, match=r"ensemble 'chain' depends on 'n' which has no loaded version: .*no weights"
        ):
            plane.load("chain")
        assert ("chain", "", "UNAVAILABLE") in index(plane)
        control = plane.model_control
        control.load_all(["chain"], lambda model, version, reason, seconds: told.append((model, reason)))
        assert {model for model, _ in told} == {"chain", "n"}


def test_a_step_with_several_responses_is_refused(chain: Path) -> None:
    rewrite(chain / "n", 'backend: "python"', 'backend: "python" model_transaction_policy { decoupled: true }')
    (chain / "n" / "1" / "model.py").write_text(
        DOUBLING.split("    def execute")[0]
        + """
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for _ in range(2):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", pb_utils.get_input_tensor_by_name(
                    request, "x").as_numpy())]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
    )
    with loaded(chain) as plane, pytest.raises(Unsupported, match="model 'n' gave more than one response"):
        ask(plane, "chain")
