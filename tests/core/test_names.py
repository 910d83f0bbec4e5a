"""Names and relative paths: what passes stays below its base, whatever was tried."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidArchive, InvalidConfig, InvalidRequest
from jitney.core.names import MAX_NAME, inside, is_safe_name, relative_path, safe_name

NASTY = st.text(alphabet="ab/.\\\0 \n-~%é", max_size=20)


@pytest.mark.parametrize("name", ["resnet50", "Llama-3.1-8B", "_x", "model.identity", "a", "v1.0+cu12", "a" * MAX_NAME])
def test_names_in_use_pass(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "...", ".git", "a/b", "../a", "a b", "a\0", "a\n", "-x", "é", "a" * (MAX_NAME + 1), "a\\b", "%2e"],
)
def test_bad_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid name"):
        safe_name(name)


def test_the_caller_chooses_the_error() -> None:
    with pytest.raises(InvalidArchive):
        safe_name("..", InvalidArchive)
    with pytest.raises(InvalidArchive):
        relative_path("/etc/passwd", InvalidArchive)


@given(st.one_of(NASTY, st.text(max_size=200)))
def test_a_safe_name_is_one_plain_path_component(name: str) -> None:
    if is_safe_name(name):
        assert Path("/base", name).parts == ("/", "base", name)
        assert os.path.normpath(f"/base/{name}") == f"/base/{name}"
        assert not set(name) & set("/\\\0 \n") and len(name.encode()) <= MAX_NAME


@pytest.mark.parametrize("path", ["", ".", "..", "/", "/etc/passwd", "a/../../b", "a//b", "a/", "./a", "a\0b", "1/../x"])
def test_paths_that_are_not_plainly_relative_are_refused(path: str) -> None:
    with pytest.raises(InvalidConfig, match="invalid path"):
        relative_path(path)


@given(NASTY)
def test_inside_never_leaves_the_base(path: str) -> None:
    base = Path("/nonexistent/base")
    try:
        target = inside(base, path)
    except InvalidConfig:
        return
    assert base in target.parents


def test_links_may_not_lead_out(tmp_path: Path) -> None:
    base = tmp_path / "base"
    (base / "real").mkdir(parents=True)
    (base / "out").symlink_to(tmp_path)
    (base / "in").symlink_to(base / "real")
    assert inside(base, "in/file") == (base / "real" / "file").resolve()
    for path in ("out/file", "out"):
        with pytest.raises(InvalidConfig, match="invalid path"):
            inside(base, path)


def test_the_base_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert inside(tmp_path / "link", "a/b") == (tmp_path / "real" / "a" / "b").resolve()
