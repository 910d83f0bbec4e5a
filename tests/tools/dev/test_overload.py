"""What the overload comparison takes for a claim that does not hold."""

from __future__ import annotations

from dataclasses import replace

from jitney.tools.dev.overload import BOUND_S, Row, Seen, problems, summary, table


def seen(goodput: float = 80.0, accepted: float = 0.2, refused: float = 0.005, **counts: int) -> Seen:
    found = counts or {"200": 100, "503": 50}
    return Seen(found, {"200": accepted, "503": refused}, goodput)


def rows() -> list[Row]:
    quick = Seen({"200": 10}, {"200": 0.01}, 5.0)
    return [
        Row("idle", Seen({}, {}, 0.0), quick, quick),
        Row("closed, 1x", seen(), quick, quick),
        Row("open, 10x", seen(78.0), quick, quick),
    ]


def test_where_all_holds_there_is_nothing_to_tell() -> None:
    assert problems(rows()) == []
    assert len(table(rows())) == 5


def test_each_claim_is_looked_at() -> None:
    idle, closed, opened = rows()
    slow = Seen({"200": 10}, {"200": 0.2}, 5.0)
    for changed, text in (
        (replace(opened, load=seen(70.0)), "goodput 88% of the peak"),
        (replace(opened, load=seen(accepted=BOUND_S + 0.06)), "accepted requests took 360 ms"),
        (replace(opened, load=seen(refused=0.02)), "refusals took 20.0 ms"),
        (replace(opened, name="closed, 10x", load=seen(refused=0.06)), "refusals took 60.0 ms"),
        (replace(opened, load=seen(**{"200": 1, "500": 1})), "answered with"),
        (replace(opened, others=slow), "health, management, metrics"),
        (replace(opened, second=slow), "the second model"),
    ):
        (problem,) = problems([idle, closed, changed])
        assert problem.startswith(f"{changed.name}: ") and text in problem


def test_a_summary() -> None:
    found = summary([("200", 0.1), ("200", 0.3), ("503", 0.01)], 2.0)
    assert found.counts == {"200": 2, "503": 1} and found.goodput == 1.0 and 0.1 < found.p99["200"] <= 0.3
