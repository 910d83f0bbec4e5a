from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest

from jitney.tools.bench.ports import FIRST, Ports, PortsTaken, first_ephemeral, free_port

#: A process of its own: what is forked off would begin with the ports and locks of this one.
OTHER = multiprocessing.get_context("spawn")


def take(path: Path, candidates: Iterable[int]) -> int:
    return Ports(path, candidates).next()


@pytest.fixture
def two_ports() -> tuple[int, int]:
    """Two on which nobody listens, and which nobody else is given in this test run."""
    return free_port(), free_port()


def test_no_port_is_of_those_that_the_kernel_gives_to_connections() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        given_by_the_kernel = connection.getsockname()[1]
    taken = [free_port() for _ in range(50)]
    assert len(set(taken)) == 50
    assert min(taken) >= FIRST
    assert max(taken) < first_ephemeral() <= given_by_the_kernel


def test_a_port_on_which_somebody_listens_is_not_given(tmp_path: Path, two_ports: tuple[int, int]) -> None:
    with socket.create_server(("127.0.0.1", two_ports[0])):
        assert take(tmp_path / "locks", two_ports) == two_ports[1]


def test_a_port_is_given_to_one_process_at_a_time(tmp_path: Path, two_ports: tuple[int, int]) -> None:
    path = tmp_path / "locks"
    mine = Ports(path, two_ports)
    given = mine.next()
    with OTHER.Pool(1) as other:
        theirs = other.apply(take, (path, two_ports))
        assert {given, theirs} == set(two_ports)
        with pytest.raises(PortsTaken, match="end servers"):
            mine.next()
    with OTHER.Pool(1) as later:
        assert later.apply(take, (path, two_ports)) == theirs, "the process that had it has ended"
