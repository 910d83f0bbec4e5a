"""The comparison of what clients of HTTP feel beside gRPC and beside HTTP."""

from __future__ import annotations

import pytest

from jitney.tools.dev.beside_grpc import KINDS, LOADS, Seen, main, table


def test_ratios_are_of_one_round_and_medians_of_all() -> None:
    rounds = []
    for slow in (1.0, 10.0, 100.0):  # the machine, from round to round
        times = {"alone": 1.0, "gRPC": 3.0, "HTTP": 2.0}
        rounds.append(
            {
                (kind, load): Seen(100 / slow / times[load], slow * times[load], 2 * slow * times[load], 1.0)
                for kind in KINDS
                for load in LOADS
            }
        )
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rounds)[2:]]
    assert [line[:2] for line in lines] == [[kind, load] for kind in KINDS for load in LOADS]
    assert lines[1] == ["open", "gRPC", "3", "30000.00 ms", "60000.00 ms", "1.00", "0.67", "1.50", "1.50"]
    assert lines[2][-3:] == ["1", "1", "1"]


@pytest.mark.slow
def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds=1", "--seconds=0.3", "--rate=40", "--calibrations=0"]) == 0
    printed = capsys.readouterr().out
    assert "a call over gRPC costs as much CPU as" in printed
    assert printed.count("\n| open | ") == printed.count("\n| closed | ") == 3
