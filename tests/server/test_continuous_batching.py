"""TorchServe's `continuousBatching` in a real server: requests join between rounds, answers are streamed piece by piece."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jitney.tests.fakes.torchserve_server import Site, archive, running

#: Steps of 20 ms; a request says how many it wants. Written like TorchServe's `stream_handler`.
HANDLER = """
import json
import time
from ts.torch_handler.base_handler import BaseHandler

class Steps(BaseHandler):
    def initialize(self, ctx):
        ctx.cache = {}
        self.initialized = True

    def preprocess(self, requests):
        assert len(requests) <= self.context.system_properties["batch_size"]
        prefill, decode = [], []
        for req_id, row in zip(self.context.request_ids.values(), requests):
            if req_id not in self.context.cache:
                asked = row.get("data") or row.get("body")
                if isinstance(asked, (bytes, bytearray)):
                    asked = json.loads(asked)
                self.context.cache[req_id] = {"left": asked["steps"], "fail": asked.get("fail"), "hang": asked.get("hang"),
                                              "quiet": asked.get("quiet")}
                prefill.append(req_id)
            else:
                decode.append(req_id)
        return prefill, decode

    def inference(self, batch):
        prefill, decode = batch
        time.sleep(0.02)
        results = {}
        for req_id in prefill + decode:
            state = self.context.cache[req_id]
            state["left"] -= 1
            if state["fail"]:
                self.context.cache.clear()
                raise ValueError("as asked")
            if state["hang"]:
                time.sleep(60)
            results[req_id] = {"left": state["left"], "together": len(prefill + decode), "known": len(self.context.cache)}
        return [self.shown(req_id, results[req_id]) for req_id in self.context.request_ids.values()]

    def shown(self, req_id, result):
        return "" if self.context.cache[req_id]["quiet"] and result["left"] else result

    def postprocess(self, results):
        self.context.stopping_criteria = [self.is_over(req_id) for req_id in self.context.request_ids.values()]
        for at in range(len(results)):
            self.context.set_response_content_type(at, "application/json")
        return results

    def is_over(self, req_id):
        def over(result):
            if not result or result["left"]:
                return False
            del self.context.cache[req_id]
            return True
        return over

    def describe_handle(self):
        return {"requests": len(self.context.cache)}
"""

YAML = "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 3\nmaxBatchDelay: 5000\ncontinuousBatching: true\nresponseTimeout: 2\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder: Path = tmp_path_factory.mktemp("site")
    yaml = folder / "model-config.yaml"
    yaml.write_text(YAML)
    archive(folder / "store", "steps", HANDLER, entry="", config_file=str(yaml))
    with running(folder, ("--ncs", "--models", "steps.mar"), disable_token_authorization="true") as found:
        yield found


def begin(site: Site, steps: int, **more: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A request whose answer has begun."""
    address = site.addresses["inference"]
    connection = http.client.HTTPConnection(address.host, address.port, timeout=60)
    connection.request("POST", "/predictions/steps", json.dumps({"steps": steps, **more}))
    return connection, connection.getresponse()


def pieces(body: bytes) -> list[dict[str, Any]]:
    """The JSON objects of a streamed answer, one after the other."""
    found, text, decoder = [], body.decode(), json.JSONDecoder()
    while text:
        piece, end = decoder.raw_decode(text)
        found.append(piece)
        text = text[end:]
    return found


def test_requests_join_between_rounds_up_to_the_batch_size(site: Site) -> None:
    with ThreadPoolExecutor(5) as pool:
        answers = list(
            pool.map(lambda steps: site.predict("steps", json.dumps({"steps": steps}).encode()), (20, 12, 9, 8, 7))
        )
    assert [answer.status for answer in answers] == [200] * 5
    told = [pieces(answer.body) for answer in answers]
    assert [[piece["left"] for piece in each] for each in told] == [list(range(n))[::-1] for n in (20, 12, 9, 8, 7)]
    assert {piece["together"] for each in told for piece in each} >= {1, 3}
    assert max(piece["known"] for each in told for piece in each) <= 3


def test_an_answer_is_streamed_as_it_comes(site: Site) -> None:
    connection, answer = begin(site, 50)
    assert (answer.status, answer.getheader("transfer-encoding"), answer.getheader("ts_stream_next")) == (
        200,
        "chunked",
        "true",
    )
    assert answer.getheader("content-type") == "application/json"
    began = time.monotonic()
    assert b'"left": 49' in answer.read1()
    assert time.monotonic() - began < 0.5  # one second for all of them
    answer.read()
    connection.close()


def test_an_empty_piece_does_not_end_the_answer(site: Site) -> None:
    connection, answer = begin(site, 5, quiet=True)
    assert (answer.status, answer.getheader("transfer-encoding")) == (200, "chunked")
    assert [piece["left"] for piece in pieces(answer.read())] == [0]
    connection.close()


def test_an_answer_of_one_piece_is_a_plain_one(site: Site) -> None:
    connection, answer = begin(site, 1)
    assert (answer.status, answer.getheader("transfer-encoding"), answer.getheader("ts_stream_next")) == (200, None, "false")
    assert json.loads(answer.read())["left"] == 0
    connection.close()


def test_a_request_whose_client_has_gone_makes_room(site: Site) -> None:
    for _ in range(3):
        connection, answer = begin(site, 10_000)
        answer.read1()
        answer.close()
        connection.close()
    began = time.monotonic()
    assert site.predict("steps", b'{"steps": 2}').status == 200
    assert time.monotonic() - began < 20  # else 200 s


def test_describing_the_model_takes_one_round(site: Site) -> None:
    status, (described,) = site.manage("GET", "/models/steps?customized=true")
    assert (status, described["continuousBatching"], described["batchSize"]) == (200, True, 3)
    assert "requests" in described["customizedMetadata"]
    assert site.predict("steps", b'{"steps": 1}').status == 200


def test_a_round_that_fails_takes_only_those_in_flight(site: Site) -> None:
    connection, answer = begin(site, 1000)
    assert site.predict("steps", b'{"steps": 1, "fail": true}').status == 503
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    connection.close()
    assert site.predict("steps", b'{"steps": 1}').status == 200


def test_a_round_that_hangs_is_ended_with_its_worker(site: Site) -> None:
    began = time.monotonic()
    assert site.predict("steps", b'{"steps": 2, "hang": true}').status == 500
    assert 1.9 < time.monotonic() - began < 15
    assert site.predict("steps", b'{"steps": 1}').status == 200
