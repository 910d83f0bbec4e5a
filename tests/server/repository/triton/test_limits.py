"""The parameters that limit how long a model's workers may take, and the defaults of those that say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton.limits import Limits
from jitney.tests.fakes.repository import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def parameter(name: str, value: str) -> str:
    return f'parameters {{ key: "{name}" value {{ string_value: "{value}" }} }}\n'


def test_without_a_word_nothing_is_limited(folder: Folder) -> None:
    folder.python("m")
    config = folder.read("m")
    assert (config.response_timeout_s, config.startup_timeout_s) == (0, 0)


def test_the_server_s_limits_are_for_models_that_say_nothing(folder: Folder) -> None:
    folder.python("m")
    folder.python("own", parameter("response_timeout", "2.5") + parameter("startup_timeout", "0"))
    limits = Limits(120, 1200)
    config = folder.read("m", limits=limits)
    assert (config.response_timeout_s, config.startup_timeout_s) == (120, 1200)
    config = folder.read("own", limits=limits)
    assert (config.response_timeout_s, config.startup_timeout_s) == (2.5, 0)


@pytest.mark.parametrize("name", ["response_timeout", "startup_timeout"])
@pytest.mark.parametrize("value", ["-1", "soon", "", "nan", "inf"])
def test_what_is_no_number_of_seconds_is_refused_by_name_and_line(folder: Folder, name: str, value: str) -> None:
    folder.python("m", parameter(name, value))
    with pytest.raises(InvalidConfig, match=rf"config\.pbtxt:4: parameter '{name}' of model 'm' is '{value}': expected"):
        folder.read("m")


def test_a_model_says_how_many_batches_a_worker_may_hold(folder: Folder) -> None:
    folder.python("m")
    folder.python("own", parameter("max_in_flight", "3"))
    assert [folder.read(name).max_in_flight for name in ("m", "own")] == [0, 3]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "", "65537"])
def test_what_is_no_number_of_batches_is_refused_by_name_and_line(folder: Folder, value: str) -> None:
    folder.python("m", parameter("max_in_flight", value))
    with pytest.raises(
        InvalidConfig, match=rf"config\.pbtxt:4: parameter 'max_in_flight' of model 'm' is '{value}': expected"
    ):
        folder.read("m")


DECOUPLED = "model_transaction_policy { decoupled: true }\n"


@pytest.mark.parametrize(
    ("more", "runs_again"),
    [("", False), (parameter("retry_after_crash", "true"), True), (parameter("retry_after_crash", "false"), False)],
)
def test_what_a_python_model_does_is_not_done_twice_unless_it_says_so(folder: Folder, more: str, runs_again: bool) -> None:
    folder.python("m", more)
    assert folder.read("m").retry_after_crash is runs_again


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (parameter("retry_after_crash", "maybe"), "'maybe': expected true or false"),
        (parameter("retry_after_crash", "true") + DECOUPLED, "'true': expected false, a stream of answers cannot go on"),
        (
            parameter("retry_after_crash", "true") + "sequence_batching { }",
            "'true': expected false, a sequence cannot go on",
        ),
    ],
)
def test_what_cannot_be_run_again_is_refused_by_name_and_line(folder: Folder, more: str, expected: str) -> None:
    folder.python("m", more)
    with pytest.raises(InvalidConfig, match=rf"config\.pbtxt:4: parameter 'retry_after_crash' of model 'm' is {expected}"):
        folder.read("m")


def test_an_ensemble_has_no_workers_to_limit(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    tensors = (
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ] output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]'
    )
    step = 'step { model_name: "m" model_version: -1 input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }'
    text = f'platform: "ensemble" {tensors} ensemble_scheduling {{ {step} }} {parameter("response_timeout", "3")}'
    folder.model("e", text, {"1/.keep": ""})
    assert folder.read("e", limits=Limits(120, 1200)).response_timeout_s == 0
    assert "parameter response_timeout has no effect, set it for the models of its steps" in caplog.text
