"""`make docs`: strict, without a network, and what it makes fetches nothing either. Skipped where mkdocs is not installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jitney.tests.fakes.pages import ROOT, site_pages

#: Attributes with which a page fetches something, and what a stylesheet fetches.
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*\bhref=[\"']?(?:https?:)?//"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: make docs installs it")
    folder = tmp_path_factory.mktemp("site")
    nowhere = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_it_has_every_page(site: Path) -> None:
    wanted = {str(page.relative_to(ROOT / "docs").with_suffix(".html")) for page in site_pages()}
    assert wanted <= {str(path.relative_to(site)) for path in site.rglob("*.html")}


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    found = {str(path.relative_to(site)): _FETCHED.findall(path.read_text()) for path in site.rglob("*.html")}
    assert {name: hits for name, hits in found.items() if hits} == {}
    styles = {str(path): re.findall(r"url\([\"']?https?://", path.read_text()) for path in site.rglob("*.css")}
    assert not any(styles.values())


def test_it_can_be_searched_without_a_server(site: Path) -> None:
    assert "max_held_bytes" in (site / "search/search_index.js").read_text()
    page = (site / "index.html").read_text()
    assert "assets/vendor/iframe-worker.js" in page and (site / "assets/vendor/iframe-worker.js").is_file()


def test_a_browser_searches_it_as_files_and_asks_nobody(site: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: make page-test")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    asked, complaints = list[str](), list[str]()
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site / "index.html").as_uri())
        page.fill("input.md-search__input", "max_held_bytes")
        page.wait_for_selector(".md-search-result__item")
        assert "max_held_bytes" in page.inner_text(".md-search-result__item >> nth=0")
        browser.close()
    assert complaints == []
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}


def test_its_settings_fetch_nothing() -> None:
    found = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    assert found["theme"]["font"] is False and found["strict"] is True
    assert "repo_url" not in found  # a page would ask that host for figures
