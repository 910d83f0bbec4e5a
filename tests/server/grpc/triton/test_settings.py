"""Trace and log settings as messages have them. Texts are Triton's."""

from __future__ import annotations

from typing import Any

import pytest

from jitney.core.errors import InvalidRequest
from jitney.server.grpc.triton.settings import read_log, read_trace, write_log, write_trace


def trace(**settings: Any) -> Any:
    return read_trace({name: {"value": values} for name, values in settings.items()})


def test_trace_settings() -> None:
    assert trace(trace_rate=["9"], trace_count=["-1"], log_frequency=[]) == {
        "trace_rate": "9",
        "trace_count": "-1",
        "log_frequency": None,
    }
    assert trace(trace_level=["TIMESTAMPS", "TENSORS"]) == {"trace_level": ["TIMESTAMPS", "TENSORS"]}
    assert trace(trace_level=["OFF"]) == {"trace_level": ["OFF"]}
    assert trace(trace_level=[]) == {"trace_level": None}
    assert trace(trace_level=["LOTS"], unknown=["x"]) == {}
    assert trace(trace_rate=[" 12 per second"]) == {"trace_rate": "12"}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"trace_rate": ["often"]}, "Unable to parse 'trace_rate', got: often"),
        ({"trace_rate": ["1", "2"]}, "expect only 1 value for 'trace_rate'"),
        (
            {"trace_rate": ["3000000000"]},
            r"Unable to parse 'trace_rate', value is out of range \[ 0, 4294967295 \], got: 3000000000",
        ),
        ({"trace_count": ["-2"]}, "Unable to parse 'trace_count'. Expecting value >= -1, got: -2"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "Expect only one trace level 'OFF' is specified"),
    ],
)
def test_trace_settings_that_are_refused(settings: Any, text: Any) -> None:
    with pytest.raises(InvalidRequest, match=text):
        trace(**settings)


def test_log_settings() -> None:
    given = {"log_info": {"bool_param": False}, "log_verbose_level": {"uint32_param": 2}, "what": {"bool_param": True}}
    assert read_log(given) == {"log_info": False, "log_verbose_level": 2}
    with pytest.raises(InvalidRequest, match="expect boolean for 'log_info'"):
        read_log({"log_info": {"string_param": "yes"}})
    with pytest.raises(InvalidRequest, match="expect int32 for 'log_verbose_level'"):
        read_log({"log_verbose_level": {"bool_param": True}})


def test_settings_as_answers() -> None:
    assert write_trace({"trace_level": ["OFF"], "trace_rate": "1000"}) == {
        "settings": {"trace_level": {"value": ["OFF"]}, "trace_rate": {"value": ["1000"]}}
    }
    assert write_log({"log_file": "", "log_info": True}) == {
        "settings": {"log_file": {"string_param": ""}, "log_info": {"bool_param": True}}
    }
