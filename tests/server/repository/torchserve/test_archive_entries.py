"""Which entries an archive may have, whatever format it is in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitney.core.errors import InvalidArchive
from jitney.server.repository.torchserve.archive_entries import (
    MAX_COMPONENT,
    MAX_DEPTH,
    RATIO_MATTERS_FROM,
    Entry,
    Limits,
    check,
    entry_parts,
)

ARCHIVE = Path("a.mar")


def entry(name: str, size: int = 1) -> Entry:
    return Entry(name, entry_parts("a.mar", name), size, name.endswith("/"))


@given(st.text(max_size=40))
def test_an_accepted_name_only_leads_downwards(name: str) -> None:
    try:
        parts = entry_parts("a.mar", name)
    except InvalidArchive:
        return
    target = os.path.normpath("/".join(("/base", *parts)))
    assert target == "/base" or target.startswith("/base/")
    assert "\0" not in target


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a/" * MAX_DEPTH + "b", "nested more than 32 folders deep"),
        ("b" * (MAX_COMPONENT + 1), "a component of more than 255 bytes"),
        ("\ud800", "a name that is not UTF-8"),
    ],
)
def test_names_that_no_file_could_have_are_refused(name: str, reason: str) -> None:
    with pytest.raises(InvalidArchive, match=reason):
        entry_parts("a.mar", name)


@pytest.mark.parametrize(
    ("names", "limits", "reason"),
    [
        (["a", "b"], Limits(max_entries=1), "2 entries, expected at most 1 entries"),
        (["a", "b"], Limits(max_bytes=1), "unpacks to more than 1 bytes"),
        (["a", "A"], Limits(), "'A' is there twice"),
        (["a/b", "a"], Limits(), "'a' is a file and a folder"),
        (["."], Limits(), "has no name"),
    ],
)
def test_what_entries_are_together_is_refused(names: list[str], limits: Limits, reason: str) -> None:
    with pytest.raises(InvalidArchive, match=reason):
        check(ARCHIVE, [entry(name) for name in names], 1, limits)


def test_a_ratio_counts_once_there_is_much() -> None:
    check(ARCHIVE, [entry("a", RATIO_MATTERS_FROM)], 1, Limits())
    check(ARCHIVE, [entry("a", RATIO_MATTERS_FROM + 100)], RATIO_MATTERS_FROM, Limits())
    with pytest.raises(InvalidArchive, match="over 100 for one"):
        check(ARCHIVE, [entry("a", RATIO_MATTERS_FROM + 100)], 1000, Limits())


def test_folders_may_be_named_more_than_once() -> None:
    check(ARCHIVE, [entry("a/"), entry("a/"), entry("a/b"), entry("a/c")], 1, Limits())
