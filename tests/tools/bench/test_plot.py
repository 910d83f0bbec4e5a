"""The SVG charts: well formed, on the paper, in scale."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from jitney.tools.bench.plot import HEIGHT, WIDTH, Panel, svg

SVG = "{http://www.w3.org/2000/svg}"
SERIES = {"a<b": [(0.0, 1.0), (50.0, 10.0), (100.0, 100.0)], "c": [(0.0, 30.0), (100.0, 30.0)]}


def points(line: ET.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def test_each_panel_has_each_of_its_series() -> None:
    root = ET.fromstring(svg([Panel("one", "x", "y", SERIES), Panel("two", "x", "y", {"c": SERIES["c"]})]))
    groups = root.findall(f"{SVG}g")
    assert [len(group.findall(f"{SVG}polyline")) for group in groups] == [2, 1]
    assert int(root.attrib["width"]) == 2 * WIDTH
    legend = [text.text for text in root.findall(f"{SVG}text")]
    assert legend == ["a<b", "c"]
    colours = [group.findall(f"{SVG}polyline")[-1].attrib["stroke"] for group in groups]
    assert colours[0] == colours[1]


def test_a_long_legend_has_several_rows() -> None:
    root = ET.fromstring(svg([Panel("one", "x", "y", {f"a long name {n}": [(0.0, 1.0)] for n in range(7)})]))
    places = [(float(text.attrib["x"]), float(text.attrib["y"])) for text in root.findall(f"{SVG}text")]
    assert len({y for _, y in places}) > 1 and len(set(places)) == 7
    assert max(x for x, _ in places) + 6 * len("a long name 0") < WIDTH
    assert max(y for _, y in places) < float(root.attrib["height"])


@pytest.mark.parametrize("log", [False, True])
def test_points_are_in_scale_and_inside(log: bool) -> None:
    root = ET.fromstring(svg([Panel("one", "x", "y", SERIES, log=log)]))
    first = points(next(root.iter(f"{SVG}polyline")))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in first)
    assert first[1][0] - first[0][0] == pytest.approx(first[2][0] - first[1][0], abs=0.11)
    up, further = first[0][1] - first[1][1], first[1][1] - first[2][1]
    assert further == pytest.approx(up if log else 10 * up, rel=0.05)


def test_small_values_get_an_axis_of_their_own_size() -> None:
    root = ET.fromstring(svg([Panel("small", "x", "y", {"a": [(0.1, 0.002), (0.2, 0.0031)]})]))
    ys = [y for _, y in points(next(root.iter(f"{SVG}polyline")))]
    assert ys[0] - ys[1] > 20


@pytest.mark.parametrize("series", [{}, {"a": []}])
def test_nothing_to_draw_is_refused(series: dict[str, list[tuple[float, float]]]) -> None:
    with pytest.raises(ValueError, match="at least one series"):
        svg([Panel("empty", "x", "y", series)])


def test_a_logarithm_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="above 0"):
        svg([Panel("log", "x", "y", {"a": [(0.0, 0.0)]}, log=True)])
