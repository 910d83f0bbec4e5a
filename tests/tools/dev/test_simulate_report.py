"""The report of the simulation, from the command to the files."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from jitney.tools.dev.simulate_report import LOADS, main


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_report_has_tables_and_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "report"
    assert main([str(folder), "--requests", "300", "--policies", "zero", "ts:100"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["bursts.svg", "diurnal.svg", "poisson.svg", "report.md"]
    for plot in folder.glob("*.svg"):
        lines = [element for element in ET.parse(plot).iter() if element.tag.endswith("polyline")]
        assert len(lines) == 2 * 3
    text = (folder / "report.md").read_text()
    rows = [cells(line) for line in text.splitlines() if line.startswith("| 20%")]
    assert len(rows) == 3
    zero, served = (float(cell.strip("*").split(" / ")[0].strip("*")) for cell in rows[0][2:4])
    assert 5 < zero < 6 < served
    assert text.count("\n| ") >= 3 * len(LOADS)
    assert "wrote" in capsys.readouterr().err


def test_one_trace_alone(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--requests", "200", "--trace", "bursts", "--policies", "zero"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bursts.svg", "report.md"]


def test_what_does_not_fit_together_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--devices", "2"])
    assert "2 devices need as many workers at least, got 1" in capsys.readouterr().err
