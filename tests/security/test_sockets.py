"""Holes 1, 4, 19: what listens after a start, and where."""

from __future__ import annotations

import contextlib

import psutil

from jitney.tests.security.conftest import Everything


def listening(server: Everything) -> set[tuple[str, int]]:
    """Host and port of every socket that any process of the server listens on, or takes datagrams at."""
    found = set()
    for process in server.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="inet"):
                if connection.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                    found.add((connection.laddr.ip.removeprefix("::ffff:"), connection.laddr.port))
    return found


def test_every_socket_is_an_announced_one_on_loopback(server: Everything) -> None:
    """With front ends, workers and gRPC of both originals: no process speaks TCP to another."""
    expected = {("127.0.0.1", address.port) for address in server.site.addresses.values()}
    expected |= {("127.0.0.1", port) for port in server.grpc_ports.values()}
    assert listening(server) == expected
    assert len(server.processes()) >= 7  # the server, two front ends, gRPC's, three workers


def test_connections_between_its_processes_are_no_tcp(server: Everything) -> None:
    server.site.predict("echo", b"abc")
    for process in server.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            made = [c for c in process.net_connections(kind="inet") if c.status == psutil.CONN_ESTABLISHED]
            assert not made, (process.cmdline(), made)
