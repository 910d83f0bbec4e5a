"""The generated parts of docs/ are what the code says, and the code says something of everything."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jitney.server.repository.triton.fields import REFUSED, WITHOUT_MEANING
from jitney.server.repository.triton.honoured import HONOURED, TENSORRT_ONLY
from jitney.server.settings.keys import KEYS
from jitney.tools.dev import build_reference
from jitney.tools.dev.reference import metrics, model_config, routes, settings

ROOT = Path(__file__).resolve().parents[3]
PAGES = {path: path.read_text() for path in sorted((ROOT / "docs").rglob("*.md"))}


def test_no_page_is_stale() -> None:
    stale = [path.name for path in build_reference.stale()]
    assert not stale, f"{', '.join(stale)}: `make reference` writes them anew"


def test_every_part_stands_in_one_page() -> None:
    text = "\n".join(PAGES.values())
    assert {name: text.count(f"<!-- generated: {name} -->") for name in build_reference.PARTS} == dict.fromkeys(
        build_reference.PARTS, 1
    )


def test_a_page_that_was_edited_by_hand_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "docs" / "metrics.md"
    page.parent.mkdir()
    page.write_text(PAGES[ROOT / "docs/metrics.md"].replace("jitney_queue_depth`", "jitney_queue_length`"))
    monkeypatch.setattr(build_reference, "DOCS", page.parent)
    assert build_reference.main(["--check"]) == 1
    assert build_reference.main([]) == 0
    assert build_reference.main(["--check"]) == 0
    assert "`jitney_queue_depth`" in page.read_text()


def test_every_setting_says_what_it_means_and_what_it_takes() -> None:
    named = [name for name, key in KEYS.items() if not key.meaningless]
    assert [name for name in named if not settings.meanings().get(name)] == []
    assert set(settings.meanings()) >= set(named)
    assert settings.expected(KEYS["http_threads"]) == "an integer from 1 to 4096"
    assert settings.expected(KEYS["shape_change"]) == "one of lane, flush"
    assert settings.flags()["inference_address"] == ["--http-address", "--http-port"]
    assert set(settings.flags()["model_store"]) == {"--model-store"}


def test_every_field_of_the_schema_is_in_one_table() -> None:
    tables = (REFUSED, WITHOUT_MEANING, HONOURED, TENSORRT_ONLY)
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names))
    fields = list(model_config.leaves())
    assert len(fields) > 100
    used = {model_config.entry_of(field)[0] for field in fields}  # a KeyError names a field that is in none
    assert {name for name in names if not name.startswith("parameters.")} == used


def test_every_route_and_nothing_else_is_described() -> None:
    for port, app in routes._applications():
        assert set(routes.paths(app)) == set(routes.PATTERNS[port]), port
    assert routes.kserve().count("\n") == len(routes.KSERVE) + 1


def test_every_metric_that_torchserve_declares_is_described() -> None:
    declared = yaml.safe_load((ROOT / "backends/compat/ts/configs/metrics.yaml").read_text())
    names = [entry["name"] for group in declared.values() for kind in group.values() for entry in kind]
    assert sorted(names) == sorted(metrics.TORCHSERVE)
