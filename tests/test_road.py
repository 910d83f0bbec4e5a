"""The files that one request crosses are those that docs/design.md lists, so that a newcomer can read along."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from jitney.server.http.app import Services
from jitney.server.metrics import Metrics
from jitney.server.web import Web
from jitney.tests.fakes.frontends import plane_of, settings
from jitney.tests.fakes.raw_http import Connection

ROOT = Path(__file__).resolve().parents[1]
HANDLER = "def handle(data, context):\n    return [bytes(row['body']) for row in data] if data else None\n"
REQUEST = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
MANIFEST = {"runtime": "python", "model": {"modelName": "m", "handler": "h.py:handle", "modelVersion": "1.0"}}


class Trace:
    """Notes the project's files whose functions are called, in every thread that starts after it, while `on`."""

    def __init__(self) -> None:
        self.on, self.seen = False, set[str]()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if self.on and event == "call":
            self.seen.add(frame.f_code.co_filename)

    def files(self, room: str) -> set[str]:
        found = {Path(file) for file in self.seen}
        return {str(path.relative_to(ROOT)) for path in found if path.is_relative_to(ROOT / room)}


@contextmanager
def traced() -> Iterator[Trace]:
    trace = Trace()
    threading.setprofile(trace)
    try:
        yield trace
    finally:
        threading.setprofile(None)
        sys.setprofile(None)


def archive(store: Path) -> None:
    store.mkdir()
    with zipfile.ZipFile(store / "m.mar", "w") as made:
        made.writestr("h.py", HANDLER)
        made.writestr("MAR-INF/MANIFEST.json", json.dumps(MANIFEST))


def test_a_prediction_crosses_the_files_that_the_page_lists(tmp_path: Path) -> None:
    archive(tmp_path / "store")
    (tmp_path / "models").mkdir()
    with traced() as trace, plane_of(tmp_path / "models", tmp_path / "store") as plane:
        services = Services(
            plane, plane.control, Metrics(plane.registry.deployments), settings(front_ends=1), None, plane.io
        )
        web = Web(services)
        web.start()
        try:
            connection = Connection(web.address("inference"))  # which sends head and body in one piece
            for turn in range(4):  # the first makes the plan
                if turn == 3:
                    time.sleep(1.05)  # so that the Date header is another one
                    trace.on = True
                connection.send(REQUEST)
                assert connection.read().body == b"hello"
            time.sleep(0.05)  # what is counted after the answer has left
            trace.on = False
            connection.sock.close()
        finally:
            web.close(5)
    page = (ROOT / "docs" / "design.md").read_text()
    listed = re.findall(r"^    (server/\S+\.py)  ", page, re.MULTILINE)
    assert sorted(listed) == sorted(trace.files("server"))
