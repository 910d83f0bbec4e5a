"""Every link of every page leads somewhere, on GitHub and on the site; every page of the site is in its navigation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import yaml

from jitney.tests.fakes.pages import ROOT, anchors, links, pages, prose, site_pages

DOCS = ROOT / "docs"


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", pages(), ids=_name)
def test_links_lead_somewhere(page: Path) -> None:
    wrong = []
    for link in links(page):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@pytest.mark.parametrize("page", site_pages(), ids=_name)
def test_a_page_of_the_site_links_to_nothing_outside_of_it(page: Path) -> None:
    """The site has docs/ alone; what else the repository has is named, not linked."""
    inside = [link for link in links(page) if not link.startswith(("http", "mailto:", "#"))]
    assert [link for link in inside if not (page.parent / link.partition("#")[0]).resolve().is_relative_to(DOCS)] == []


@pytest.mark.parametrize("page", site_pages(), ids=_name)
def test_another_page_is_linked_where_it_is_named(page: Path) -> None:
    assert [word for word in prose(page).split() if word.strip("(),.;:").startswith("docs/") and ".md" in word] == []


def _navigation(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            yield from _navigation(value) if isinstance(value, list) else [value]


def test_every_page_is_in_the_navigation_once() -> None:
    found = list(_navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert sorted(found) == sorted(str(page.relative_to(DOCS)) for page in site_pages())
    assert len(set(found)) == len(found)
