"""Registering, scaling, choosing and removing versions two hundred times while 32 clients ask: no answer is wrong or lost."""

import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest

from jitney.server.settings.addresses import Address
from jitney.tests.fakes.raw_http import Connection
from jitney.tests.fakes.torchserve_server import Site, archive, running
from jitney.tools.bench.served import wait_until

CLIENTS, ROUNDS = 32, 200
#: Seconds between two requests of a client: some 600 requests a second in all, which leaves the workers time to start.
PAUSE = 0.05
#: Answers with its version and the request's own body.
MARKED = """
def handle(data, context):
    if data is None:
        return None
    version = context.manifest["model"]["modelVersion"]
    return [version + " " + bytes(row.get("body") or b"").decode() for row in data]
"""


class Clients:
    """Threads that ask for the default version and for version 1.0 in turn, each on a connection of its own."""

    def __init__(self, address: Address) -> None:
        self.address, self.stop = address, threading.Event()
        self.answered: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in self._threads), "a client still waits for its answer"

    def _run(self, number: int) -> None:
        count = 0
        with Connection(self.address, timeout=20) as connection:
            while not self.stop.wait(PAUSE):
                count += 1
                path, mark = ("marked/1.0" if count % 3 == 0 else "marked"), f"{number}-{count}"
                head = f"POST /predictions/{path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(mark)}\r\n\r\n{mark}"
                try:
                    connection.send(head.encode())
                    answer = connection.read()
                except (OSError, EOFError) as error:
                    self._note("", f"{path}: {error!r}")
                    return
                version, _, body = answer.body.decode().partition(" ")
                right = (
                    answer.status == 200 and body == mark and version in (("1.0",) if path.endswith("0") else ("1.0", "2.0"))
                )
                self._note(version, "" if right else f"{path}: {answer.status} {answer.body!r}")

    def _note(self, version: str, wrong: str) -> None:
        with self._lock:
            self.answered[version] += 1
            if wrong:
                self.wrong.append(wrong)


def footprint(site: Site) -> tuple[int, int, int]:
    """Processes, descriptors of the server, folders of unpacked archives."""
    server = psutil.Process(site.server.process.pid)
    folders = sum(1 for root in (site.folder / "tmp").glob("jitney-models-*") for item in root.iterdir() if item.is_dir())
    return len(server.children(recursive=True)), server.num_fds(), folders


def one_round(site: Site, number: int) -> None:
    """Every fifth round starts workers, of a second version that the clients then see; the others change the books only."""
    steps = [
        ("POST", "/models?url=marked_v2.mar&initial_workers=0", 200),
        ("PUT", "/models/marked/1.0?min_worker=1&max_worker=2&synchronous=true", 200),
        ("PUT", "/models/marked/1.0/set-default", 200),
    ]
    if number % 5 == 0:
        steps = [
            ("POST", "/models?url=marked_v2.mar&initial_workers=1&batch_size=4", 200),
            ("PUT", "/models/marked/2.0/set-default", 200),
            ("PUT", "/models/marked/1.0?min_worker=2&synchronous=true", 200),
            ("PUT", "/models/marked/1.0?min_worker=1&synchronous=true", 200),
            ("DELETE", "/models/marked/2.0", 403),
            ("PUT", "/models/marked/1.0/set-default", 200),
        ]
    for method, path, expected in [*steps, ("DELETE", "/models/marked/2.0", 200)]:
        status, answer = site.manage(method, path)
        assert status == expected, (number, method, path, answer)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_answer_is_wrong_or_lost_while_versions_come_and_go(tmp_path: Path) -> None:
    store = tmp_path / "store"
    archive(store, "marked", MARKED)
    archive(store, "marked", MARKED, "2.0", file="marked_v2")
    with running(tmp_path, load_models="marked.mar", default_workers_per_model="1", disable_system_metrics="true") as site:
        assert site.predict("marked", b"first").body == b"1.0 first"
        one_round(site, 0)
        before = footprint(site)
        clients = Clients(site.addresses["inference"])
        clients.start()
        try:
            for number in range(ROUNDS):
                one_round(site, number)
        finally:
            clients.join()
        assert clients.wrong == []
        assert clients.answered["1.0"] > 100 and clients.answered["2.0"] > 10, clients.answered
        assert site.manage("GET", "/models/marked/all")[1][0]["jobQueueStatus"]["pendingRequests"] == 0
        wait_until(lambda: footprint(site) <= before, 20, f"{before} processes, descriptors and folders")
    assert list((tmp_path / "tmp").iterdir()) == []
