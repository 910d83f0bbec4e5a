"""Loading, reloading and unloading models of a repository, with real workers and clients that do not notice."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig, LoadFailed, ModelFailed, ModelNotFound, ModelNotReady, Unavailable
from jitney.server.lifecycle import model_control
from jitney.server.serving.dataplane import DataPlane
from jitney.tests.fakes.plane import DOUBLING, LoadedPlane, doubling, first, loaded, rows
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0


def rewrite(folder: Path, factor: int) -> None:
    """Lets the model multiply by something else: a change that a reload must pick up."""
    (folder / "1" / "model.py").write_text(DOUBLING.replace("2 * x", f"{factor} * x"))


def ask(plane: DataPlane, model: str = "m") -> float:
    return first(plane.infer(model, None, rows(1.0)).result(PATIENCE))[0]


def test_a_reload_under_load_loses_nothing(tmp_path: Path) -> None:
    doubling(tmp_path, "m", "dynamic_batching { }")
    seen: set[float] = set()
    errors: list[BaseException] = []
    stop = threading.Event()

    def client(plane: DataPlane) -> None:
        try:
            while not stop.is_set():
                seen.add(ask(plane))
        except BaseException as error:  # noqa: BLE001 - reported by the test
            errors.append(error)

    with loaded(tmp_path) as plane:
        clients = [threading.Thread(target=client, args=(plane,)) for _ in range(4)]
        for thread in clients:
            thread.start()
        for factor in (3, 4, 5):
            rewrite(tmp_path / "m", factor)
            plane.load("m")
            assert ask(plane) == factor
            wait_until(lambda factor=factor: errors or factor in seen, 30, "the clients to get the new version's answers")
        stop.set()
        for thread in clients:
            thread.join()
        assert not errors
        assert seen == {2.0, 3.0, 4.0, 5.0}


def test_a_reload_that_fails_keeps_what_serves(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    with loaded(tmp_path) as plane:
        (tmp_path / "m" / "1" / "model.py").write_text("raise RuntimeError('half written')")
        with pytest.raises(LoadFailed, match="half written"):
            plane.load("m")
        assert ask(plane) == 2.0
        assert [(entry.version, entry.state) for entry in plane.index()] == [("1", "READY")]


def test_an_unloaded_model_is_listed_and_can_come_back(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    with loaded(tmp_path) as plane:
        plane.unload("m")
        with pytest.raises(ModelNotReady, match="unloaded"):
            ask(plane)
        assert [(entry.state, entry.reason) for entry in plane.index()] == [("UNAVAILABLE", "unloaded")]
        plane.load("m")
        assert ask(plane) == 2.0


def test_without_explicit_control_the_api_loads_nothing(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    with loaded(tmp_path, mode="none") as plane, pytest.raises(Unavailable, match="not allowed"):
        plane.load("m")


def test_a_version_policy_decides_which_versions_serve(tmp_path: Path) -> None:
    doubling(tmp_path, "m", "version_policy { all { } }")
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / "model.py").write_text(DOUBLING.replace("2 * x", "20 * x"))
    with loaded(tmp_path) as plane:
        assert plane.versions("m") == ["1", "2"]
        assert ask(plane) == 20.0
        assert first(plane.infer("m", "1", rows(1.0)).result(PATIENCE)) == [2.0]


ENSEMBLE = """platform: "ensemble" max_batch_size: 8
input [ { name: "IN" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "OUT" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [
  { model_name: "m" model_version: -1 input_map { key: "x" value: "IN" } output_map { key: "y" value: "half_way" } },
  { model_name: "%s" model_version: -1 input_map { key: "x" value: "half_way" } output_map { key: "y" value: "OUT" } }
] }
"""


def ensemble(folder: Path, name: str, second: str) -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(ENSEMBLE % second)


def test_an_ensemble_runs_its_steps_and_names_itself_in_their_errors(tmp_path: Path) -> None:
    doubling(tmp_path, "m", "dynamic_batching { }")
    ensemble(tmp_path, "a_chain", "m")
    with loaded(tmp_path) as plane:
        call = plane.infer("a_chain", None, rows(3.0, name="IN"))
        assert first(call.result(PATIENCE)) == [12.0]
        with pytest.raises(ModelFailed, match="poisoned") as caught:
            plane.infer("a_chain", None, rows(-1.0, name="IN")).result(PATIENCE)
        assert caught.value.context == "in ensemble 'a_chain', "
        assert plane.statistics("a_chain")[0].success.count == 2
        plane.unload("m")
        assert not plane.model_ready("a_chain")


def test_ensembles_that_need_each_other_are_refused(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    ensemble(tmp_path, "one", "two")
    ensemble(tmp_path, "two", "one")
    with loaded(tmp_path) as plane:
        assert not plane.model_ready("one")
        with pytest.raises(InvalidConfig, match="circle"):
            plane.load("one")
        assert ask(plane) == 2.0


def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    source = 'raise ModuleNotFoundError("No module named \'torch\'", name="torch")'
    (tmp_path / "m" / "1" / "model.py").write_text(source)
    with loaded(tmp_path) as plane:
        (found,) = plane.index()
    assert "No module named 'torch'; install it with: pip install 'jitney[torch]'" in found.reason


def test_a_load_in_another_mode_says_which_mode_it_needs(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    with loaded(tmp_path) as plane:
        plane.model_control.mode = "none"
        for control in (plane.load, plane.unload):
            with pytest.raises(Unavailable, match=r"the control mode is 'none'; .* --model-control-mode=explicit"):
                control("m")


def test_a_misspelt_model_is_told_with_those_that_there_are(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    told: list[tuple[str, str | None]] = []
    with loaded(tmp_path) as plane:
        plane.model_control.load_all(["n"], lambda model, version, reason, seconds: told.append((model, reason)))
    assert told == [("n", "model 'n' is not found; the model repository has: m")]


def test_a_model_whose_turn_has_not_come_is_said_to_be_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_control, "LOAD_THREADS", 1)
    with loaded(tmp_path) as plane:
        doubling(tmp_path, "m")
        doubling(tmp_path, "n")
        (tmp_path / "empty").mkdir()
        seen: list[str] = []

        def report(model: str, version: str, reason: str | None, seconds: float) -> None:
            if model == "m":
                with pytest.raises(ModelNotReady) as caught:
                    plane.config("n")
                seen.append(str(caught.value))

        plane.model_control.load_all(["nosuch", "m", "n", "empty"], report)
        assert seen == ["model 'n' is not ready: it is being loaded"]
        index = [(entry.name, entry.version, entry.state) for entry in plane.index()]
        assert index == [("empty", "", "UNAVAILABLE"), ("m", "1", "READY"), ("n", "1", "READY")]


def test_a_plain_load_keeps_an_uploaded_configuration_and_drops_uploaded_files(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    tensors = {"data_type": "TYPE_FP32", "dims": [2]}
    given = {
        "backend": "python",
        "max_batch_size": 8,
        "input": [{"name": "x", **tensors}],
        "output": [{"name": "y", **tensors}],
    }
    uploaded = {"4/model.py": DOUBLING.replace("2 * x", "7 * x").encode()}
    with loaded(tmp_path) as plane:
        control = plane.model_control
        control.load("m", json.dumps({**given, "max_batch_size": 3}))
        control.load("m")
        assert plane.registry.deployment("m").config.max_batch_size == 3
        control.load("m", json.dumps(given), uploaded)
        assert (ask(plane), plane.registry.deployment("m").config.version) == (7.0, "4")
        for _ in range(2):
            control.load("m")
            assert (ask(plane), plane.registry.deployment("m").config.version) == (2.0, "1")
        control.load("new", json.dumps(given), uploaded)
        with pytest.raises(ModelNotFound):
            control.load("new")
        assert ask(plane, "new") == 7.0


def resized(rows_at_most: int) -> str:
    """The configuration of the doubling model with another batch size, as a load over the API brings it."""
    tensors = {"data_type": "TYPE_FP32", "dims": [2]}
    named = {"input": [{"name": "x", **tensors}], "output": [{"name": "y", **tensors}]}
    return json.dumps({"backend": "python", "max_batch_size": rows_at_most, **named})


def ensemble_of_ensemble(folder: Path, name: str, second: str) -> None:
    """The model `m`, then another ensemble."""
    ensemble(folder, name, second)
    text = (ENSEMBLE % second).replace('"x" value: "half_way"', '"IN" value: "half_way"')
    (folder / name / "config.pbtxt").write_text(text.replace('"y" value: "OUT"', '"OUT" value: "OUT"'))


def listed(plane: LoadedPlane, model: str) -> list[tuple[str, str]]:
    return [(entry.version, entry.state) for entry in plane.index() if entry.name == model]


def test_an_ensemble_comes_back_when_its_step_fits_again(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    ensemble(tmp_path, "chain", "m")
    with loaded(tmp_path) as plane:
        plane.load("m", resized(3))
        assert listed(plane, "chain") == [("1", "UNAVAILABLE")]
        plane.load("m", resized(8))
        assert listed(plane, "chain") == [("1", "READY")]
        assert first(plane.infer("chain", None, rows(3.0, name="IN")).result(PATIENCE)) == [12.0]
        plane.unload("chain")
        plane.load("m", resized(3))
        with pytest.raises(InvalidConfig, match="contains model m which only allows maximum batch size to be 3"):
            plane.load("chain")
        assert listed(plane, "chain") == [("1", "UNAVAILABLE")]
        plane.load("m", resized(8))
        assert listed(plane, "chain") == [("1", "READY")]


def test_an_ensemble_comes_back_only_where_it_is_wanted(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    ensemble(tmp_path, "chain", "m")
    with loaded(tmp_path) as plane:
        plane.load("m", resized(3))
        plane.unload("chain")
        plane.load("m", resized(8))
        assert listed(plane, "chain") == [("1", "UNAVAILABLE")]


def test_an_ensemble_is_loaded_with_the_step_that_it_lacked(tmp_path: Path) -> None:
    doubling(tmp_path, "m")
    ensemble(tmp_path, "inner", "m")
    ensemble_of_ensemble(tmp_path, "outer", "inner")
    (tmp_path / "m" / "1" / "model.py").write_text("raise RuntimeError('broken')")
    with loaded(tmp_path) as plane:
        assert {entry.state for entry in plane.index()} == {"UNAVAILABLE"}
        rewrite(tmp_path / "m", 2)
        plane.load("m")
        assert {entry.state for entry in plane.index()} == {"READY"}
        assert first(plane.infer("outer", None, rows(3.0, name="IN")).result(PATIENCE)) == [24.0]


@pytest.mark.parametrize("wanted", ["inner", "outer"])
def test_loading_an_ensemble_loads_the_steps_that_were_unloaded(tmp_path: Path, wanted: str) -> None:
    doubling(tmp_path, "m")
    ensemble(tmp_path, "inner", "m")
    ensemble_of_ensemble(tmp_path, "outer", "inner")
    with loaded(tmp_path) as plane:
        plane.unload("m")
        assert not plane.model_ready(wanted)
        assert wanted not in {entry.name for entry in plane.index(ready_only=True)}
        assert listed(plane, wanted) == [("1", "UNAVAILABLE")]
        plane.load(wanted)
        assert listed(plane, wanted) == [("1", "READY")]
        assert plane.model_ready("m")
        assert plane.model_ready(wanted)


def test_a_refused_load_is_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    doubling(tmp_path, "m")
    with loaded(tmp_path) as plane:
        with pytest.raises(InvalidConfig):
            plane.load("m", "{")
        (told,) = [
            record.getMessage() for record in caplog.records if record.name == "jitney.server.lifecycle.model_control"
        ]
        assert told.startswith("model 'm' could not be loaded: config of the load request for 'm': not valid JSON")
        assert ask(plane) == 2.0
