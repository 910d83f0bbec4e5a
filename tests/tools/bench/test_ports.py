from __future__ import annotations

import multiprocessing
import socket
from pathlib import Path

import pytest

from jitney.tools.bench import ports


def take(path: Path, count: int) -> list[int]:
    mine = ports.Ports(path)
    return [mine.next() for _ in range(count)]


@pytest.fixture
def two_ports(monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """All the ports that there are, in this test."""
    first = ports.free_port()
    while not _is_free(first + 1):
        first = ports.free_port()
    monkeypatch.setattr(ports, "FIRST", first)
    monkeypatch.setattr(ports, "first_ephemeral", lambda: first + 2)
    return first, first + 1


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_no_port_is_of_those_that_the_kernel_gives_to_connections(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as connection:
        given_by_the_kernel = connection.getsockname()[1]
    taken = take(tmp_path / "locks", 50)
    assert len(set(taken)) == 50
    assert min(taken) >= ports.FIRST
    assert max(taken) < ports.first_ephemeral() <= given_by_the_kernel


def test_a_port_on_which_somebody_listens_is_not_given(tmp_path: Path, two_ports: tuple[int, int]) -> None:
    with socket.create_server(("127.0.0.1", two_ports[0])):
        assert take(tmp_path / "locks", 1) == [two_ports[1]]


def test_a_port_is_given_to_one_process_at_a_time(tmp_path: Path, two_ports: tuple[int, int]) -> None:
    path = tmp_path / "locks"
    mine = ports.Ports(path)
    given = mine.next()
    with multiprocessing.get_context("fork").Pool(1) as other:
        theirs = other.apply(take, (path, 1))
        assert {given, *theirs} == set(two_ports)
        with pytest.raises(ports.PortsTaken, match="end servers"):
            mine.next()
    with multiprocessing.get_context("fork").Pool(1) as later:
        assert later.apply(take, (path, 1)) == theirs, "the process that had it has ended"
