"""Clients that ask again when they are answered, in simulated time."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jitney.tools.bench.simulate import SimulatedServer
from jitney.tools.bench.simulate_clients import Clients, main

SERVER = SimulatedServer(32, 0.003, 0.0002, host=0.0006, gap=0.00055)
PAGE = Path(__file__).resolve().parents[3] / "docs" / "batching.md"


def served(clients: int, waits: bool, think: float = 0.0002, server: SimulatedServer = SERVER) -> Clients:
    simulated = Clients(server, clients, 0.00003, think, waits)
    simulated.run(5000)
    return simulated


def test_a_lone_client_has_its_batch_for_itself() -> None:
    simulated = served(1, True)
    assert simulated.latencies == pytest.approx([0.00055 + 0.0006 + 0.0032 + 0.00003] * 5000)


@pytest.mark.parametrize("clients", [2, 8, 32])
def test_groups_that_would_take_turns_become_one(clients: int) -> None:
    apart, together = served(clients, False), served(clients, True)
    assert np.mean(apart.sizes[-100:]) == pytest.approx(clients / 2, rel=0.05)
    assert np.mean(together.sizes[-100:]) == pytest.approx(clients, rel=0.05)
    assert together.now < 0.87 * apart.now


@pytest.mark.parametrize("clients", [2, 5, 8, 16, 32, 48, 64])
@pytest.mark.parametrize("think", [0.0005, 0.001, 0.002, 0.01])
def test_waiting_costs_nothing_whatever_clients_do(clients: int, think: float) -> None:
    for server in (SERVER, SimulatedServer(32, 0.02, 0.001, gap=0.0005), SimulatedServer(8, 0.0025, 0.00005, gap=0.0005)):
        apart, together = (served(clients, waits, think, server) for waits in (False, True))
        assert together.now < 1.03 * apart.now
        assert np.mean(together.latencies) < 1.03 * np.mean(apart.latencies)


def test_the_page_has_the_figures_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clients", "8", "--requests", "20000"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    (row,) = re.findall(r"^\| 8 \| ([\d,]+), ([\d.]+) / .* \| ([\d,]+), ([\d.]+) / .* \|$", PAGE.read_text(), re.MULTILINE)
    shown = [float(text.replace(",", "")) for text in row]
    assert shown == pytest.approx([float(lines[n][-at]) for n in (0, 1) for at in (4, 3)], rel=0.02)


def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--clients", "0"])
    assert "--clients, --requests and --max-batch must be at least 1" in capsys.readouterr().err
