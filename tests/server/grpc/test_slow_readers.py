"""Streams of which a model answers faster than they are read: whole, within the server's memory, and at nobody else's cost."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

from jitney.server.grpc import schema
from jitney.tests.fakes.grpc import X, given, grpc_serving, repository
from jitney.tests.fakes.serving import write_model
from jitney.tests.fakes.torchserve_server import archive, running
from jitney.tests.server.grpc.test_load import resident
from jitney.tests.server.grpc.test_serving import front_ends
from jitney.tests.server.grpc.torchserve.test_services import PREDICT, grpc_ports
from jitney.tools.bench.served import wait_until

MIB = 1 << 20
PATIENCE = 60.0
#: What each of two processes may hold is a fifth of what a stream has.
PARTS, FLOATS = 5000, 2000
PROPERTIES = {"max_request_size": 4 * MIB, "max_response_size": 4 * MIB, "max_held_bytes": 16 * MIB}
#: Answers `n` times with as many floats, each of which is the answer's number. Tells in a file how many it has given.
FLOOD = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            n = int(pb_utils.get_input_tensor_by_name(request, "n").as_numpy()[0])
            sender = request.get_response_sender()
            for i in range(n):
                if request.is_cancelled():
                    break
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.full(FLOATS, i, np.float32))]))
                with open(os.path.join(os.path.dirname(__file__), "given"), "w") as file:
                    file.write(str(i + 1))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
""".replace("FLOATS", str(FLOATS))
FLOOD_CONFIG = """
backend: "python"
input [ { name: "n" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
model_transaction_policy { decoupled: true }
"""
#: The same over TorchServe's protocol.
HANDLER = """
from ts.protocol.otf_message_handler import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    for i in range(int(data[0]["data"])):
        send_intermediate_predict_response([b"%08d" % i * BYTES], context.request_ids, "ok", 200, context)
    return [b"last"]
""".replace("BYTES", str(FLOATS * 4 // 8))


class Stream:
    """A call of ModelStreamInfer that asks `flood` once."""

    def __init__(self, channel: grpc.Channel, parts: int = PARTS) -> None:
        found = schema.triton().methods["inference.GRPCInferenceService"]["ModelStreamInfer"]
        call = channel.stream_stream(found.path, found.request.SerializeToString, found.response.FromString)
        request = found.request(model_name="flood")
        request.inputs.add(name="n", datatype="INT32", shape=[1])
        request.raw_input_contents.append(np.array([parts], np.int32).tobytes())
        self.call = call(itertools.chain([request]), timeout=PATIENCE)

    def read(self, parts: int) -> Iterator[int]:
        """The numbers of the next parts."""
        for answer in itertools.islice(self.call, parts):
            assert not answer.error_message, answer.error_message
            (raw,) = answer.infer_response.raw_output_contents
            numbers = np.frombuffer(raw, np.float32)
            assert len(numbers) == FLOATS and (numbers == numbers[0]).all()
            yield int(numbers[0])


class Floods:
    """A server with the model `flood`, and others."""

    def __init__(self, folder: Path, site: Any) -> None:
        self._given, self.site = folder / "flood" / "1" / "given", site
        (self.front_end,) = front_ends(site.server)
        self.before = self.resident

    @property
    def given(self) -> int:
        """Parts that the model has given lately."""
        return int(self._given.read_text() or 0) if self._given.exists() else 0

    @property
    def resident(self) -> tuple[int, int]:
        """Of the front end, and of the main process."""
        return resident(self.front_end), resident(psutil.Process(self.front_end).ppid())

    def wait_until_it_rests(self) -> int:
        """Returns how many parts the model has given when it gives no more."""
        seen = [0]

        def stands_still() -> bool:
            threading.Event().wait(0.3)  # it gives thousands in a second
            seen.append(self.given)
            return 0 < seen[-1] == seen[-2]

        wait_until(stands_still, PATIENCE, "the model's rest")
        return seen[-1]


@pytest.fixture(scope="module")
def floods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Floods]:
    folder = repository(tmp_path_factory.mktemp("models"))
    write_model(folder, "flood", FLOOD_CONFIG, FLOOD)
    properties = "".join(f"{name}={value}\n" for name, value in PROPERTIES.items())
    with grpc_serving(folder, properties=properties) as site:
        yield Floods(folder, site)


@pytest.fixture
def channel(floods: Floods) -> Iterator[grpc.Channel]:
    """A connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(floods.site.address, options) as channel:
        yield channel


def test_a_slow_reader_gets_all_that_the_model_answers(floods: Floods, channel: grpc.Channel) -> None:
    stream = Stream(channel)
    assert floods.wait_until_it_rests() < PARTS // 2
    front_end, main = (now - before for now, before in zip(floods.resident, floods.before, strict=True))
    assert front_end < 12 * MIB and main < 24 * MIB
    with triton.InferenceServerClient(floods.site.address) as client:
        assert client.infer("double", [given()]).as_numpy("y").tolist() == (X * 2).tolist()
    assert list(stream.read(PARTS)) == list(range(PARTS))
    assert next(iter(stream.call), None) is None and floods.given == PARTS


def test_a_model_that_rests_goes_on_for_the_next_client_and_when_the_first_one_leaves(
    floods: Floods, channel: grpc.Channel
) -> None:
    first = Stream(channel, 1_000_000_000)
    assert list(first.read(1)) == [0]
    before = floods.wait_until_it_rests()
    with grpc.insecure_channel(floods.site.address, [("grpc.use_local_subchannel_pool", 1)]) as other:
        second = Stream(other, 10)  # has to wait for the worker
        wait_until(lambda: floods.given > before, PATIENCE, "the model's next answers")
        assert list(second.read(10)) == list(range(10))
    first.call.cancel()
    third = Stream(channel, 1_000_000_000)
    assert list(third.read(1)) == [0]
    floods.wait_until_it_rests()
    third.call.cancel()
    assert list(Stream(channel, 3).read(3)) == [0, 1, 2]


def test_the_same_over_torchserves_protocol(tmp_path: Path) -> None:
    archive(tmp_path / "store", "flood", HANDLER)
    ports = grpc_ports()
    more: Any = {"load_models": "flood.mar", "default_workers_per_model": "1", **{k: str(v) for k, v in PROPERTIES.items()}}
    with running(tmp_path, **more, **ports), grpc.insecure_channel(f"127.0.0.1:{ports['grpc_inference_port']}") as channel:
        found = schema.torchserve().methods[PREDICT]["StreamPredictions"]
        call = channel.unary_stream(found.path, found.request.SerializeToString, found.response.FromString)
        answers = call(found.request(model_name="flood", input={"data": b"%d" % PARTS}), timeout=PATIENCE)
        first = next(answers).prediction
        threading.Event().wait(1.0)
        rest = [answer.prediction for answer in answers]
    assert [int(part[:8]) for part in (first, *rest[:-1])] == list(range(PARTS)) and rest[-1] == b"last"
