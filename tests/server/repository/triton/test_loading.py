"""The parameters that say when a model's workers start, and the defaults of those that say nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton.loading import Loading
from jitney.tests.fakes.repository import Folder
from jitney.tests.server.repository.triton.test_limits import parameter


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_models_own_words_count_more_than_the_servers(folder: Folder) -> None:
    folder.python("plain")
    folder.python("own", parameter("load", "on_demand") + parameter("idle_timeout_s", "2.5"))
    folder.python("always", parameter("load", "at_start") + parameter("idle_timeout_s", "0"))
    found = {
        (name, everything.on_demand): (config.on_demand, config.idle_timeout_s)
        for name in ("plain", "own", "always")
        for everything in (Loading(), Loading(True, 60.0))
        for config in [folder.read(name, load=everything)]
    }
    assert found == {
        ("plain", False): (False, 0.0),
        ("plain", True): (True, 60.0),
        ("own", False): (True, 2.5),
        ("own", True): (True, 2.5),
        ("always", False): (False, 0.0),
        ("always", True): (False, 0.0),
    }


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("load", "later", "is 'later': expected at_start or on_demand"),
        ("load", "", "is '': expected at_start or on_demand"),
        ("idle_timeout_s", "soon", r"expected a number of seconds from 0 \(until memory runs short\)"),
        ("idle_timeout_s", "-1", "expected a number of seconds from 0"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(folder: Folder, name: str, value: str, expected: str) -> None:
    folder.python("m", parameter(name, value))
    with pytest.raises(InvalidConfig, match=rf"config.pbtxt:\d+.*parameter '{name}' of model 'm' .*{expected}"):
        folder.read("m")


def test_an_ensemble_has_no_workers_to_start(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.model(
        "e",
        parameter("load", "on_demand")
        + """platform: "ensemble" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 2 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
ensemble_scheduling { step [ { model_name: "m" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } ] }
""",
        {"1/.keep": ""},
    )
    with caplog.at_level(logging.WARNING):
        assert not folder.read("e", load=Loading(True)).on_demand
    assert "ensemble 'e': parameter load has no effect" in caplog.text
