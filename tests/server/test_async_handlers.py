"""Handlers with TorchServe's `asyncCommunication`, in a real server: requests are tasks of one event loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jitney.tests.fakes.torchserve_server import Site, archive, running

HANDLER = """
import asyncio

class Slow:
    async def initialize(self, context):
        self.first = asyncio.Event()

    async def handle(self, data, context):
        text = (data[0].get("body") or data[0].get("data")).decode()
        if text == "wait":
            await self.first.wait()
        elif text == "go":
            self.first.set()
        elif text == "bad":
            raise ValueError("as asked")
        elif text == "exit":
            raise SystemExit(3)
        elif text == "cancelled":
            raise asyncio.CancelledError
        else:
            await asyncio.sleep(float(text))
        return [text]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    yaml = folder / "model-config.yaml"
    yaml.write_text("minWorkers: 1\nmaxWorkers: 1\nasyncCommunication: true\nresponseTimeout: 1\n")
    archive(folder / "store", "slow", HANDLER, entry="", config_file=str(yaml))
    with running(folder, ("--ncs", "--models", "slow.mar"), disable_token_authorization="true") as found:
        yield found


def test_one_worker_has_many_requests_under_way(site: Site) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: site.predict("slow", b"0.5").body, range(16)))
    assert answers == [b"0.5"] * 16
    assert time.monotonic() - began < 4  # 8 s one after the other


def test_a_request_that_came_later_ends_the_wait_of_one_that_came_first(site: Site) -> None:
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(site.predict, "slow", b"wait")
        time.sleep(0.1)
        assert site.predict("slow", b"bad").status == 503
        assert site.predict("slow", b"go").body == b"go"
        assert waits.result(20).body == b"wait"


def test_what_ends_a_task_ends_no_other(site: Site) -> None:
    for text in (b"exit", b"cancelled", b"bad"):
        assert site.predict("slow", text).status == 503
    assert site.predict("slow", b"0.01").body == b"0.01"


def test_there_is_no_response_timeout(site: Site) -> None:
    """As in TorchServe, whose asynchronous workers have none."""
    answer = site.predict("slow", b"2")
    assert (answer.status, answer.body) == (200, b"2")
