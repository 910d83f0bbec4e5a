"""The repository that a real Triton was recorded with: the same configurations, the same refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig
from jitney.core.model_config import ModelConfig
from jitney.server.repository.triton.ensembles import connect, dependencies
from jitney.server.repository.triton.pbtxt import parse_config_json, to_json
from jitney.server.repository.triton.repository import TritonRepository

BROKEN = {
    "broken_cfg": ':1: Message type "inference.ModelConfig" has no field named "nonsense"',
    "broken_nover": "at least one version must be available under the version policy of model 'broken_nover'",
    "broken_pref": ":6: dynamic batching preferred size must be <= max batch size for broken_pref",
    "name_mismatch": ":1: unexpected directory name 'name_mismatch' for model 'other_name', directory name must equal model name",
}
#: Fields of newer Tritons that the recorded one (2.51) did not know.
NEWER = {"max_inflight_requests"}


@pytest.fixture(scope="module")
def repository(triton_kit: Path) -> Iterator[TritonRepository]:
    repository = TritonRepository([triton_kit / "model_repository"], gpus=[])
    yield repository
    repository.close()


@pytest.fixture(scope="module")
def models(repository: TritonRepository) -> dict[str, list[ModelConfig]]:
    return {name: repository.read(name) for name in repository.names() if name not in BROKEN}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_models_say_why(repository: TritonRepository, name: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        repository.read(name)
    assert BROKEN[name] in str(caught.value)


def recorded_configs(kit: Path) -> dict[str, dict[str, object]]:
    return {
        path.stem.removeprefix("config__model_"): json.loads(json.loads(path.read_text())["response"]["body"])
        for path in sorted((kit / "golden").glob("config__model_*.json"))
    }


def test_config_documents_are_those_recorded(triton_kit: Path, models: dict[str, list[ModelConfig]]) -> None:
    recorded = recorded_configs(triton_kit)
    assert len(recorded) >= 14
    for name, expected in recorded.items():
        model = models[name][-1]
        if model.backend == "ensemble":
            model = connect(model, [models[step][-1] for step, _ in dependencies(model)])
        document = without_newer(dict(model.config_json))
        assert document == expected, name
        assert list(document) == list(expected), name


def without_newer(document: object) -> object:
    if isinstance(document, dict):
        return {key: without_newer(value) for key, value in document.items() if key not in NEWER}
    return [without_newer(each) for each in document] if isinstance(document, list) else document


def test_config_documents_can_be_sent_back(triton_kit: Path) -> None:
    for name, document in recorded_configs(triton_kit).items():
        again = to_json(parse_config_json(json.dumps(document), name))
        assert without_newer(again) == document, name


def test_an_override_answers_as_recorded(triton_kit: Path, repository: TritonRepository) -> None:
    recording = json.loads((triton_kit / "golden" / "repository__load_config_override_then_config.json").read_text())
    expected = json.loads(recording["response"]["body"])
    given = {key: expected[key] for key in ("name", "backend", "max_batch_size", "input", "output")}
    [model] = repository.read("warm", config_json=json.dumps({**given, "instance_group": [{"kind": "kind_cpu"}]}))
    assert model.config_json == expected


def test_a_negative_batch_size_is_refused_as_recorded(triton_kit: Path, repository: TritonRepository) -> None:
    recording = json.loads((triton_kit / "golden" / "repository__load_config_failing.json").read_text())
    config = json.loads(recording["request"]["body"])["parameters"]["config"]
    with pytest.raises(InvalidConfig, match="'max_batch_size' must be non-negative value for warm"):
        repository.read("warm", config_json=config)


def test_models_become_what_they_say(models: dict[str, list[ModelConfig]]) -> None:
    assert [model.version for model in models["versions"]] == ["1", "3"]
    assert {model.backend for versions in models.values() for model in versions} == {"python", "ensemble"}
    queue = models["batch_timeout"][0].batching
    assert (queue.enabled, queue.default_queue_policy.default_timeout_us) == (True, 30_000)
    assert queue.default_queue_policy.allow_timeout_override and queue.default_queue_policy.timeout_action == "REJECT"
    assert models["burst_timeout_delay"][0].batching.default_queue_policy.timeout_action == "DELAY"
    assert models["batch_pref24_delay500"][0].batching.preferred_batch_size == (2, 6)
    assert models["batch_delay0"][0].batching.preferred_batch_size == ()
    assert models["batch_prio"][0].batching.priority_levels == 3
    assert models["batch_order"][0].batching.preserve_ordering
    assert not models["batch_none"][0].batching.enabled
    assert models["batch_ragged"][0].inputs[0].ragged
    assert [spec.optional for spec in models["optional_in"][0].inputs] == [False, True]
    assert models["reshape"][0].inputs[0].reshape == (2, 2)
    assert len(models["torch_cnn"][0].outputs[0].labels) == 10
    assert models["decoupled"][0].decoupled and models["cached"][0].response_cache
    assert models["batch_two_inst"][0].min_workers == 2
    assert models["reqinfo"][0].parameters == {"k": "v"}
    assert [spec.datatype for spec in models["all_types"][0].inputs][-2:] == ["FP64", "BYTES"]
    [warmup] = models["warm"][0].warmup
    assert (warmup.name, warmup.batch_size, warmup.count, warmup.inputs[0].source) == ("w", 2, 3, "zero")


def test_the_recorded_ensemble_fits_its_steps(models: dict[str, list[ModelConfig]]) -> None:
    [ensemble] = models["ens"]
    assert dependencies(ensemble) == [("identity_fp32", ""), ("errors", "")]
    assert not connect(ensemble, [models["identity_fp32"][0], models["errors"][0]]).decoupled
