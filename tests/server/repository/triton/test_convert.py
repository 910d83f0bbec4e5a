"""From the message to `ModelConfig`: labels, warm-up, batching, parameters."""

from __future__ import annotations

import msgspec
import pytest

from jitney.core.errors import InvalidConfig
from jitney.core.model_config import Batching, ModelConfig, QueuePolicy, WarmupInput
from jitney.tests.fakes.repository import Folder

LABELLED = 'output [ { name: "label" data_type: TYPE_STRING dims: [ 3 ] label_filename: "%s" } ]'
WARM = 'model_warmup [ { name: "w" inputs { key: "x" value { data_type: TYPE_FP32 dims: 2 input_data_file: "%s" } } } ]'


def test_labels_are_the_lines_of_their_file(folder: Folder) -> None:
    path = folder.python("m", LABELLED % "labels.txt")
    (path / "labels.txt").write_text("cat\n\nDüne\n", encoding="utf-8")
    assert folder.read("m").outputs[1].labels == ("cat", "", "Düne")


@pytest.mark.parametrize("name", ["absent.txt", "../other/labels.txt", "/etc/passwd", "1", "link.txt", "latin1.txt"])
def test_labels_that_cannot_be_read_name_the_file_and_line(folder: Folder, name: str) -> None:
    path = folder.python("m", LABELLED % name)
    folder.model("other", None, {"labels.txt": "secret"})
    (path / "link.txt").symlink_to("../other/labels.txt")
    (path / "latin1.txt").write_bytes("Düne".encode("latin-1"))
    with pytest.raises(InvalidConfig, match=r"config\.pbtxt:4: cannot read label_filename '" + name):
        folder.read("m")


def test_warm_up_data_lies_in_the_models_own_folder(folder: Folder) -> None:
    path = folder.python("m", WARM % "data/x")
    (path / "warmup" / "data").mkdir(parents=True)
    (path / "warmup" / "data" / "x").write_bytes(bytes(8))
    [warmup] = folder.read("m").warmup
    assert (warmup.name, warmup.count, warmup.batch_size) == ("w", 1, 0)
    assert warmup.inputs == (WarmupInput("x", "FP32", (2,), "file", str((path / "warmup/data/x").resolve())),)


@pytest.mark.parametrize("name", ["absent", "../config.pbtxt", "/etc/passwd"])
def test_other_warm_up_data_is_refused(folder: Folder, name: str) -> None:
    folder.python("m", WARM % name)
    with pytest.raises(InvalidConfig, match=r"config\.pbtxt:4: warm-up data of input 'x': "):
        folder.read("m")


def test_warm_up_inputs_have_a_source_and_a_stable_order(folder: Folder) -> None:
    entries = " ".join(
        f"inputs {{ key: '{name}' value {{ data_type: TYPE_FP32 dims: 2 {source}: true }} }}"
        for name, source in (("z", "zero_data"), ("x", "random_data"))
    )
    folder.python("m", f"input [ {{ name: 'z' data_type: TYPE_FP32 dims: 2 }} ] model_warmup [ {{ {entries} }} ]")
    assert [(each.name, each.source) for each in folder.read("m").warmup[0].inputs] == [("x", "random"), ("z", "zero")]


def test_batching_policies(folder: Folder) -> None:
    folder.python(
        "m",
        """
        max_batch_size: 8
        dynamic_batching {
          preferred_batch_size: [ 2, 8 ] max_queue_delay_microseconds: 500 priority_levels: 2 default_priority_level: 1
          default_queue_policy { max_queue_size: 3 default_timeout_microseconds: 7 allow_timeout_override: true }
          priority_queue_policy { key: 2 value { timeout_action: DELAY default_timeout_microseconds: 9 } }
        }""",
    )
    assert folder.read("m").batching == Batching(
        enabled=True,
        max_queue_delay_us=500,
        preferred_batch_size=(2, 8),
        priority_levels=2,
        default_priority_level=1,
        default_queue_policy=QueuePolicy(3, 7, True, "REJECT"),
        priority_queue_policy={2: QueuePolicy(0, 9, False, "DELAY")},
    )


def test_without_a_batch_axis_queue_policies_hold_and_nothing_is_put_together(folder: Folder) -> None:
    folder.python("m", "dynamic_batching { default_queue_policy { max_queue_size: 3 } }")
    batching = folder.read("m").batching
    assert not batching.enabled and batching.default_queue_policy.max_queue_size == 3


def test_parameters_codec_tags_and_execution(folder: Folder) -> None:
    folder.python(
        "m",
        """
        parameters { key: "codec" value { string_value: "image_classifier" } }
        parameters { key: "b" value { string_value: "2" } }
        metric_tags { key: "team" value: "vision" }
        optimization { graph { level: -1 } }
        model_transaction_policy { decoupled: true }""",
    )
    model = folder.read("m")
    assert model.parameters == {"b": "2", "codec": "image_classifier"} and model.codec == "image_classifier"
    assert model.metric_tags == {"team": "vision"} and model.optimization["graph"] == {"level": -1}
    assert model.decoupled and not model.response_cache
    assert (model.version, model.directory, model.version_directory) == (
        "1",
        str(folder.path / "m"),
        str(folder.path / "m" / "1"),
    )


def test_a_configuration_can_travel_to_a_worker(folder: Folder) -> None:
    folder.python("m", "max_batch_size: 4 dynamic_batching { } " + WARM.replace('input_data_file: "%s"', "zero_data: true"))
    model = folder.read("m")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(model), type=ModelConfig) == model
