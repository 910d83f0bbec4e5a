"""The report behind docs/scale.md, with few requests: it has its sections, tables and plots."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from jitney.tools.dev import scale_report


def test_sections_become_tables_and_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale_report, "DAY", 40.0)
    monkeypatch.setattr(scale_report, "LOADS", (0.2, 0.5, 0.8))
    sections = ["fill", "queues", "rules", "slow", "failures", "signals"]
    assert scale_report.main([str(tmp_path), *sections, "--requests", "600"]) == 0
    page = (tmp_path / "report.md").read_text()
    for section in sections:
        rows = page.partition(f"## {section}\n\n")[2].partition("\n\n")[0].splitlines()
        assert len(rows) > 3
        assert len({row.count("|") for row in rows}) == 1
    for name in ("fill", "rules", "signals"):
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_fewest_replicas_keep_the_limit_and_fewer_do_not() -> None:
    replicas, got = scale_report.fewest(scale_report.SMALL, 10_000, 0.015, "round_robin", 1, 5000, 1)
    assert got.p99 <= 0.015
    assert 3 <= replicas <= 5


def test_a_section_that_does_not_exist_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scale_report.main([str(tmp_path), "costs"])
    assert "costs" in capsys.readouterr().err
