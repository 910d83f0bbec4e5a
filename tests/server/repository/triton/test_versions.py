"""Which folders are versions, and which of them a policy serves."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidConfig
from jitney.server.repository.triton.pbtxt import parse_config
from jitney.server.repository.triton.versions import served, version_directories


def policy(text: str) -> object:
    return parse_config(text, "c").version_policy


def test_only_positive_numbers_without_leading_zeros_are_versions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("1", "2", "10", "0", "03", "v4", "-5", "6a", "٧", "1.0", "99999999999999999999"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("a file")
    with caplog.at_level(logging.WARNING):
        assert list(version_directories(tmp_path)) == [1, 2, 10]
    assert sorted(Path(record.getMessage().split(":")[0]).name for record in caplog.records) == ["0", "03"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [11]),
        ("version_policy { latest { num_versions: 1 } }", [11]),
        ("version_policy { latest { num_versions: 2 } }", [3, 11]),
        ("version_policy { latest { num_versions: 9 } }", [1, 3, 11]),
        ("version_policy { all { } }", [1, 3, 11]),
        ("version_policy { specific { versions: [ 3, 1, 1 ] } }", [1, 3]),
    ],
)
def test_the_policy_chooses(text: str, expected: list[int]) -> None:
    assert served(policy(text), [3, 11, 1], "m") == expected


def test_listed_versions_that_are_absent_are_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert served(policy("version_policy { specific { versions: [ 1, 7 ] } }"), [1, 2], "m") == [1]
    assert "model 'm': version 7 is in its version_policy and not in its folder" in caplog.text


@pytest.mark.parametrize(
    ("text", "available", "reason"),
    [
        ("", [], "the versions none, version_policy asks for"),
        ("version_policy { all { } }", [], "the versions none"),
        ("version_policy { latest { } }", [1], "the versions 1, version_policy asks for the latest 0"),
        ("version_policy { specific { } }", [1], "version_policy asks for none"),
        ("version_policy { specific { versions: [ 2, 4 ] } }", [3, 1], "the versions 1, 3, version_policy asks for 2, 4"),
    ],
)
def test_nothing_to_serve_is_an_error(text: str, available: list[int], reason: str) -> None:
    wanted = f"at least one version must be available under the version policy of model 'm': .*{reason}"
    with pytest.raises(InvalidConfig, match=wanted):
        served(policy(text), available, "m")


@given(st.sets(st.integers(1, 2**63 - 1), min_size=1), st.integers(1, 9))
def test_latest_serves_the_numerically_highest(available: set[int], count: int) -> None:
    chosen = served(policy(f"version_policy {{ latest {{ num_versions: {count} }} }}"), list(available), "m")
    assert chosen == sorted(available)[-count:]
