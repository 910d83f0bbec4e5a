from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jitney.core.model_config import HandlerSpec, ModelConfig
from jitney.server.repository.torchserve.archive import Manifest
from jitney.server.repository.torchserve.fast_path import fast_path, handler_alone

CONFIG = ModelConfig("m", "1.0", "handler", max_batch_size=3, handler=HandlerSpec("image_classifier"))
SCRIPTED = Manifest("m", handler="image_classifier", serialized_file="net.pt")
EAGER = replace(SCRIPTED, serialized_file="w.pth", model_file="net.py")
FILES = {"MAR-INF", "net.pt", "index_to_name.json"}
SOURCES = {"MAR-INF", "w.pth", "net.py", "parts.py"}


def test_a_scripted_classifier_runs_as_torchscript() -> None:
    config = fast_path(CONFIG, SCRIPTED, FILES, {})
    assert config is not None
    assert (config.backend, config.codec, config.filename) == ("torchscript", "image_classifier", "net.pt")
    (spec,), (out,) = config.inputs, config.outputs
    assert (spec.name, spec.datatype, spec.dims) == ("INPUT__0", "FP32", (3, 224, 224))
    assert (out.name, out.datatype, out.dims) == ("OUTPUT__0", "FP32", (-1,))
    assert config.max_batch_size == 3 and config.handler == CONFIG.handler


def test_a_classifier_with_source_runs_as_eager() -> None:
    config = fast_path(CONFIG, EAGER, SOURCES, {})
    assert config is not None
    assert (config.backend, config.codec, config.filename) == ("eager", "image_classifier", "net.py")


def asked(**changes: Any) -> ModelConfig:
    assert CONFIG.handler is not None
    return replace(CONFIG, handler=replace(CONFIG.handler, **changes))


@pytest.mark.parametrize(
    ("config", "manifest", "files"),
    [
        (asked(entry="my_handler.py"), SCRIPTED, FILES),
        (asked(entry="image_classifier:handle"), SCRIPTED, FILES),
        (asked(entry="base_handler"), SCRIPTED, FILES),
        (asked(entry="dali_image_classifier"), SCRIPTED, FILES),
        (CONFIG, SCRIPTED, FILES | {"image_classifier.py"}),
        (CONFIG, SCRIPTED, FILES | {"image_classifier"}),
        (asked(envelope="kserve"), SCRIPTED, FILES),
        (CONFIG, replace(SCRIPTED, requirements_file="requirements.txt"), FILES),
        (asked(yaml={"pt2": "inductor"}), SCRIPTED, FILES),
        (asked(yaml={"pt2": {"compile": {"enable": True}}}), SCRIPTED, FILES),
        (asked(yaml={"micro_batching": {"micro_batch_size": 2}}), SCRIPTED, FILES),
        (asked(yaml={"handler": {"profile": True}}), SCRIPTED, FILES),
        (asked(yaml={"asyncCommunication": True}), SCRIPTED, FILES),
        (asked(yaml={"continuousBatching": True}), SCRIPTED, FILES),
        (CONFIG, replace(SCRIPTED, serialized_file="net.onnx"), FILES | {"net.onnx"}),
        (CONFIG, replace(SCRIPTED, serialized_file="net.pth"), FILES | {"net.pth"}),
        (CONFIG, replace(SCRIPTED, serialized_file=""), FILES),
        (CONFIG, SCRIPTED, FILES - {"net.pt"}),
        (CONFIG, EAGER, SOURCES - {"net.py"}),
        (CONFIG, EAGER, SOURCES - {"w.pth"}),
        (CONFIG, EAGER, SOURCES | {"other.pt"}),
        (replace(CONFIG, handler=None), SCRIPTED, FILES),
    ],
)
def test_everything_else_runs_its_handler(config: ModelConfig, manifest: Manifest, files: set[str]) -> None:
    assert fast_path(config, manifest, files, {}) is None


@pytest.mark.parametrize(
    "yaml", [{"handler": {"answer": 42}}, {"minWorkers": 1}, {"pt2": None}, {"handler": {"profile": False}}]
)
def test_what_changes_nothing_about_the_work_keeps_the_path(yaml: dict[str, Any]) -> None:
    assert fast_path(asked(yaml=yaml), SCRIPTED, FILES, {}) is not None


def test_a_profiler_that_the_environment_asks_for_needs_the_handler() -> None:
    assert fast_path(CONFIG, SCRIPTED, FILES, {"ENABLE_TORCH_PROFILER": "1"}) is None
    assert fast_path(CONFIG, SCRIPTED, FILES, {"ENABLE_TORCH_PROFILER": ""}) is not None


def test_the_handler_alone_is_what_the_fast_path_replaced() -> None:
    config = fast_path(CONFIG, SCRIPTED, FILES, {})
    assert config is not None
    alone = handler_alone(config)
    assert (alone.backend, alone.codec, alone.filename, alone.inputs, alone.handler) == (
        "handler",
        "json",
        "",
        (),
        CONFIG.handler,
    )
    assert (alone.max_batch_size, alone.batching.enabled, alone.min_workers, alone.max_workers) == (1, False, 1, 1)
