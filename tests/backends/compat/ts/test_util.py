"""Helpers that handlers import from ts."""

from __future__ import annotations

import copy
import json
import pickle
import types
from pathlib import Path
from typing import Any

import pytest

from jitney.backends.compat.ts.context import Context, RequestProcessor
from jitney.backends.compat.ts.handler_utils.utils import import_class, send_intermediate_predict_response
from jitney.backends.compat.ts.utils.util import (
    CLEANUP_REGEX,
    PredictionException,
    check_valid_pt2_backend,
    get_yaml_config,
    list_classes_from_module,
    load_label_mapping,
    map_class_to_label,
)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"0": "cat", "1": "dog"}, {"0": "cat", "1": "dog"}),
        ({"0": ["n01", "cat"]}, {"0": "cat"}),
        ({"object_type_names": ["a", "b"]}, {"0": "a", "1": "b"}),
    ],
)
def test_label_files(tmp_path: Path, document: dict[str, Any], expected: dict[str, str]) -> None:
    (tmp_path / "f.json").write_text(json.dumps(document))
    assert load_label_mapping(str(tmp_path / "f.json")) == expected


@pytest.mark.parametrize("document", [[1], {"0": 1}, {"0": []}])
def test_bad_label_files(tmp_path: Path, document: Any) -> None:
    (tmp_path / "f.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"f\.json"):
        load_label_mapping(str(tmp_path / "f.json"))


def test_missing_label_file(tmp_path: Path) -> None:
    assert load_label_mapping(str(tmp_path / "none.json")) is None


def test_map_class_to_label() -> None:
    mapping = {"0": "cat", "1": "dog"}
    assert map_class_to_label([[0.9, 0.1]], mapping, [[1, 0]]) == [{"dog": 0.9, "cat": 0.1}]
    assert map_class_to_label([[0.9], [0.8]], None, [[3], [4]]) == [{"3": 0.9}, {"4": 0.8}]
    assert map_class_to_label([[0.9, 0.1, 0.0]], mapping) == [{"cat": 0.9, "dog": 0.1, "2": 0.0}]
    with pytest.raises(TypeError, match="list of lists"):
        map_class_to_label([0.1, 0.2])  # type: ignore[list-item]


def test_small_helpers(tmp_path: Path) -> None:
    assert CLEANUP_REGEX.sub("", "<b>x</b>") == "x"
    assert check_valid_pt2_backend("inductor")
    assert not check_valid_pt2_backend("nonsense")
    (tmp_path / "c.yaml").write_text("a: {b: 1}")
    assert get_yaml_config(str(tmp_path / "c.yaml")) == {"a": {"b": 1}}
    assert import_class("Path", "pathlib").__name__ == "Path"
    assert import_class("collections.OrderedDict").__name__ == "OrderedDict"
    assert import_class("path.join", "os").__name__ == "join"
    with pytest.raises(ImportError, match="names no module"):
        import_class("Path")
    with pytest.raises(ImportError, match="module pathlib has no class Nowhere"):
        import_class("pathlib.Nowhere")
    error = PredictionException("no", 422)
    assert (error.message, error.error_code, PredictionException("x").error_code) == ("no", 422, 500)
    assert str(error) == "no : 422"


def test_list_classes_from_module() -> None:
    module = types.ModuleType("m")
    own = type("Own", (dict,), {"__module__": "m"})
    vars(module).update(Own=own, Other=type("Other", (), {"__module__": "m"}), Imported=Context)
    assert list_classes_from_module(module) == [module.Other, own]
    assert list_classes_from_module(module, dict) == [own]


def test_context_members() -> None:
    context = Context("m", "/dir", {"model": {}}, 4, 1, "0.12.0", False, "metrics", {"a": 1})
    assert context.system_properties == {
        "model_dir": "/dir",
        "gpu_id": 1,
        "batch_size": 4,
        "server_name": "MMS",
        "server_version": "0.12.0",
        "limit_max_image_pixels": False,
    }
    assert (context.model_name, context.manifest, context.metrics) == ("m", {"model": {}}, "metrics")
    assert (context.model_yaml_config, Context("m", "", None, 1, None, "").model_yaml_config) == ({"a": 1}, {})
    context.request_ids = {0: "a", 1: "b"}
    context.request_processor = [RequestProcessor({"X": "1", "ts_request_sequence_id": "s"}), RequestProcessor({})]
    assert (context.get_request_id(), context.get_request_id(1)) == ("a", "b")
    assert (context.get_request_header(0, "X"), context.get_request_header(0, "x")) == ("1", None)
    assert context.get_all_request_header(1) == {}
    assert (context.get_sequence_id(0), context.get_sequence_id(1)) == ("s", None)
    context.set_response_content_type(1, "a/b")
    context.set_response_content_type(1, None)
    context.set_response_header(1, "k", "v")
    assert (context.get_response_content_type(1), context.get_response_content_type(0)) == ("a/b", None)
    assert context.get_response_headers(1) == {"content-type": "a/b", "k": "v"}
    context.set_all_response_status(202, "All")
    context.set_response_status(404, idx=1)
    assert (context.get_response_status(0), context.get_response_status(1)) == ((202, "All"), (404, ""))
    with context._only(1):
        assert (context.get_request_id(0), len(context.request_processor)) == ("b", 1)
    assert len(context.request_processor) == 2


def test_headers_are_made_when_a_handler_asks_for_them() -> None:
    made = []
    processor = RequestProcessor(lambda: made.append(1) or {"a": "b"})
    assert processor.get_response_status_code() == 200
    assert made == []
    assert processor.get_request_property("a") == "b"
    processor.get_request_properties()["c"] = "d"
    assert (processor.get_request_properties(), made) == ({"a": "b", "c": "d"}, [1])


def test_a_processor_can_be_copied_and_pickled() -> None:
    processor = RequestProcessor(lambda: {"a": "b"})
    processor.report_status(404, "Gone")
    processor.add_response_property("k", "v")
    for twin in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        twin.add_response_property("k", "w")
        assert twin.get_request_properties() == {"a": "b"}
        assert (twin.get_response_status_code(), twin.get_response_status_phrase()) == (404, "Gone")
    assert processor.get_response_headers() == {"k": "v"}


def test_a_processor_keeps_headers_of_its_own() -> None:
    given = {"a": "b"}
    RequestProcessor(given).get_request_properties()["c"] = "d"
    assert given == {"a": "b"}


def test_streaming_needs_a_running_batch() -> None:
    context = Context("m", "", None, 1, None, "")
    with pytest.raises(RuntimeError, match="while a batch is being handled"):
        send_intermediate_predict_response(["a"], {0: "x"}, "ok", 200, context)
    sent = []
    context._send = lambda *arguments: sent.append(arguments)
    send_intermediate_predict_response(["a"], {0: "x"}, "ok", 200, context)
    assert sent == [(["a"], "ok", 200)]
    with pytest.raises(ValueError, match="2 intermediate responses for 1 requests"):
        send_intermediate_predict_response(["a", "b"], {0: "x"}, "ok", 200, context)
