"""A closed-loop load generator in a process of its own: N kept-alive connections, each sends its next request on an answer.

One thread and a selector, requests serialised once, answers parsed only as far as their length: cheap enough that the server,
not this client, is what is measured. `python -m jitney.tools.bench.load` prints one JSON object; `measure` runs that.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

#: A connection that has had no answer for this long ends the run: something hangs.
STALL_SECONDS = 60.0


@dataclass
class Result:
    """What a run saw. Latencies in milliseconds; `statuses` counts answers by HTTP status, "closed" = no answer at all."""

    requests: int
    seconds: float
    p50: float
    p99: float
    mean: float
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0


class Connection:
    """One kept-alive connection with at most one request under way."""

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = request
        self.began = 0.0
        self.received = bytearray()
        self.expected = -1

    def send(self) -> None:
        self.received.clear()
        self.expected = -1
        self.began = time.perf_counter()
        self.socket.sendall(self.request)

    def receive(self) -> str | None:
        """The answer's status once it is complete, "closed" if the server hung up, None while more must come."""
        data = self.socket.recv(262144)
        if not data:
            return "closed"
        self.received += data
        if self.expected < 0:
            head_end = self.received.find(b"\r\n\r\n")
            if head_end < 0:
                return None
            self.expected = head_end + 4 + _content_length(bytes(self.received[:head_end]))
        return self.received[9:12].decode() if len(self.received) >= self.expected else None


def _content_length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at < 0:
        raise ValueError(f"an answer without Content-Length: {head[:200]!r}")
    return int(lower[at + 15 :].split(b"\r\n", 1)[0])


def http_request(url: str, body: bytes, headers: dict[str, str]) -> tuple[tuple[str, int], bytes]:
    """The address to connect to and the bytes of a POST request."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    lines = [f"POST {parts.path} HTTP/1.1", f"Host: {host}:{port}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return (host, port), ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def run(url: str, body: bytes, headers: dict[str, str], connections: int, seconds: float, warmup: float) -> Result:
    """Loads `url` for `warmup` + `seconds`; what is answered after the warm-up and in time counts, whenever it was asked.

    (Were it to be asked in that time too, a turn of every connection would be missing from the rate.)
    """
    address, request = http_request(url, body, headers)
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        connection = Connection(address, request)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send()
    started = time.perf_counter() + warmup
    end = started + seconds
    latencies: list[float] = []
    statuses: Counter[str] = Counter()
    while (now := time.perf_counter()) < end:
        ready = selector.select(STALL_SECONDS)
        if not ready:
            raise TimeoutError(f"no answer for {STALL_SECONDS:g} s")
        for key, _ in ready:
            connection = key.data
            status = connection.receive()
            if status is None:
                continue
            now = time.perf_counter()
            if now >= started:
                latencies.append(now - connection.began)
                statuses[status] += 1
            if status == "closed":
                selector.unregister(connection.socket)
                connection.socket.close()
                connection = Connection(address, request)
                selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send()
    for key in list(selector.get_map().values()):
        key.data.socket.close()
    selector.close()
    return _result(latencies, seconds, statuses)


def _result(latencies: list[float], seconds: float, statuses: Counter[str]) -> Result:
    if not latencies:
        return Result(0, seconds, 0.0, 0.0, 0.0, dict(statuses))
    ordered = sorted(1e3 * latency for latency in latencies)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return Result(len(ordered), seconds, ordered[len(ordered) // 2], p99, sum(ordered) / len(ordered), dict(statuses))


def measure(url: str, body: Path, headers: dict[str, str], connections: int, seconds: float, warmup: float = 1.0) -> Result:
    """`run` in a process of its own, so that it shares nothing with the caller but the machine."""
    command = [sys.executable, "-m", "jitney.tools.bench.load", url, str(body), "-c", str(connections), "-s", str(seconds)]
    command += ["-w", str(warmup)]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + warmup + 2 * STALL_SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()[-500:]}")
    return Result(**json.loads(done.stdout))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m jitney.tools.bench.load", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("body", type=Path, help="file whose content is posted")
    parser.add_argument("-c", "--connections", type=int, default=1)
    parser.add_argument("-s", "--seconds", type=float, default=5.0)
    parser.add_argument("-w", "--warmup", type=float, default=1.0, help="seconds before counting begins")
    parser.add_argument("-H", "--header", action="append", default=[], help="'Name: value'")
    options = parser.parse_args(argv)
    headers = dict(header.split(": ", 1) for header in options.header)
    result = run(options.url, options.body.read_bytes(), headers, options.connections, options.seconds, options.warmup)
    print(json.dumps(asdict(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
