"""Thousands of calls at once, with cancels, deadlines and workers that die: each ends once, and nothing is left of it.

The scheduler is this process, so that it can be looked into; the front end is a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from jitney.server.frontends.frontend_process import FrontendProcess
from jitney.server.frontends.supervisor import FrontEnds
from jitney.server.grpc import schema
from jitney.server.grpc.listener import GrpcListener
from jitney.server.settings.grpc import GrpcSettings
from jitney.tests.fakes.frontends import House, opened_fronts
from jitney.tests.fakes.grpc import repository
from jitney.tests.fakes.leftovers import Inventory
from jitney.tests.fakes.plane import LoadedPlane, loaded
from jitney.tools.bench.served import wait_until

pytestmark = [pytest.mark.timeout(240)]

METHODS = schema.triton().methods["inference.GRPCInferenceService"]
REQUEST = schema.triton().message("inference.ModelInferRequest")
CALLS = 10_000
#: Calls under way at once.
CROWD = 200
PATIENCE = 30.0


class GrpcHouse:
    """A house whose gRPC front end is looked into."""

    def __init__(self, house: House) -> None:
        self.house, self.plane = house, house.plane
        (self.listener,) = [found for found in house.web.listeners if isinstance(found, GrpcListener)]
        self.address = str(self.listener.bound[0])

    @property
    def children(self) -> list[FrontendProcess]:
        assert isinstance(self.listener, FrontEnds)
        return [place.child for place in self.listener._places if place.child is not None]

    def wait_idle(self) -> None:
        deployments = self.plane.registry.deployments()
        counters = self.children[0]._spec.shared.counters
        wait_until(lambda: sum(child.session.open for child in self.children) == 0, PATIENCE, "the end of every request")
        wait_until(lambda: counters.waiting() == 0, PATIENCE, "the places of all requests")
        wait_until(lambda: all(d.arena is None or d.arena.used == 0 for d in deployments), PATIENCE, "the models' memory")
        wait_until(lambda: all(c._replies.used == 0 for c in self.children), PATIENCE, "the answers' memory")


@contextlib.contextmanager
def grpc_house(plane: LoadedPlane, **values: Any) -> Iterator[GrpcHouse]:
    with opened_fronts(plane, front_ends=1, grpc=GrpcSettings(port=0), **values) as found:
        yield GrpcHouse(found)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[LoadedPlane]:
    with loaded(repository(tmp_path)) as plane:
        yield plane


def tensors(model: str, array: np.ndarray[Any, Any], name: str, request_id: str) -> bytes:
    message = REQUEST(model_name=model, id=request_id)
    message.inputs.add(name=name, datatype={"f": "FP32", "i": "INT32"}[array.dtype.kind], shape=array.shape)
    message.raw_input_contents.append(array.tobytes())
    data: bytes = message.SerializeToString()
    return data


def double(value: float, rows: int, request_id: str) -> bytes:
    return tensors("double", np.full((rows, 2), value, np.float32), "x", request_id)


def count(n: int, ms: int, request_id: str) -> bytes:
    return tensors("count", np.array([n, ms], np.int32), "n", request_id)


class Crowd:
    """Clients of all kinds on one channel. `ends` counts how calls ended, one entry for each."""

    def __init__(self, channel: Any, seed: int) -> None:
        self.random = random.Random(seed)
        self.infer = channel.unary_unary(METHODS["ModelInfer"].path, None, METHODS["ModelInfer"].response.FromString)
        response = METHODS["ModelStreamInfer"].response
        self.stream = channel.stream_stream(METHODS["ModelStreamInfer"].path, None, response.FromString)
        self.ends: Counter[str] = Counter()
        self.seats = asyncio.Semaphore(CROWD)

    async def one(self, number: int) -> None:
        async with self.seats:
            kind = self.random.random()
            timeout = self.random.choice([None, None, None, 0.001, 0.05])
            cancel = self.random.choice([None, None, None, 0.0, 0.02])
            self.ends[await (self._unary if kind < 0.8 else self._stream)(str(number), timeout, cancel)] += 1

    async def _unary(self, request_id: str, timeout: float | None, cancel: float | None) -> str:
        value, rows = self.random.choice([1.0, 1.0, 1.0, -3.0]), self.random.choice([1, 2, 8])
        call = self.infer(double(value, rows, request_id), timeout=timeout)
        if cancel is not None:
            asyncio.get_running_loop().call_later(cancel, call.cancel)
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        except asyncio.CancelledError:
            return "CANCELLED"
        assert answer.id == request_id
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2 * value] * 2 * rows
        return "OK"

    async def _stream(self, request_id: str, timeout: float | None, cancel: float | None) -> str:
        wanted = self.random.choice([1, 2, 5])

        async def requests() -> AsyncIterator[bytes]:
            for number in range(wanted):
                yield double(1.0, 1, f"{request_id}/{number}")

        call = self.stream(requests(), timeout=timeout)
        if cancel is not None:
            asyncio.get_running_loop().call_later(cancel, call.cancel)
        seen: list[str] = []
        try:
            async for reply in call:
                seen.append(reply.infer_response.id)
                assert reply.error_message or reply.infer_response.raw_output_contents
        except grpc.aio.AioRpcError as error:
            return str(error.code().name)
        except asyncio.CancelledError:
            return "CANCELLED"
        assert seen == [f"{request_id}/{number}" for number in range(wanted)]  # each once, in order
        return "OK"


async def kill_workers(plane: LoadedPlane, pause: float) -> None:
    while True:
        await asyncio.sleep(pause)
        for worker in plane.registry.deployment("double", None).workers():
            if worker.pid > 0:  # one that starts has none yet, and 0 would be all of us
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)


async def storm(house: GrpcHouse, calls: int, kill_every: float | None) -> Counter[str]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(house.address, options=options) as channel:
        crowd = Crowd(channel, seed=calls)
        killing = asyncio.ensure_future(kill_workers(house.plane, kill_every)) if kill_every else None
        async with asyncio.timeout(180):
            await asyncio.gather(*(crowd.one(number) for number in range(calls)))
        if killing is not None:
            killing.cancel()
        return crowd.ends


@pytest.mark.slow
def test_every_call_ends_once_and_nothing_is_left(plane: LoadedPlane) -> None:
    with grpc_house(plane) as house:
        asyncio.run(storm(house, 500, None))  # what starts with the first requests has started
        house.wait_idle()
        (child,) = house.children
        before, held = Inventory(), (open_files(child.pid), threads(child.pid), resident(child.pid))
        ends = asyncio.run(storm(house, CALLS, kill_every=2.0))
        assert sum(ends.values()) == CALLS
        assert set(ends) <= {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE"}
        assert ends["OK"] > CALLS / 10
        assert ends["CANCELLED"] > CALLS / 20
        assert ends["DEADLINE_EXCEEDED"] > CALLS / 20
        house.wait_idle()
        assert house.children == [child]  # it has survived
        assert asyncio.run(storm(house, 200, None))["OK"] > 20
        house.wait_idle()
        wait_until(lambda: open_files(child.pid) <= held[0] + 2, PATIENCE, "the front end's files")
        assert threads(child.pid) <= held[1] + 2
        assert resident(child.pid) < held[2] + (100 << 20)
        assert len(before.new(kind="file")) <= 4
    gc.collect()


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208


def resident(pid: int) -> int:
    """Bytes of anonymous memory: what is shared with the scheduler does not count."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) * 1024


async def until(condition: Any, what: str) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what
        await asyncio.sleep(0.02)


def test_a_deadline_and_a_cancel_take_requests_out_of_the_queue(plane: LoadedPlane) -> None:
    async def run(house: GrpcHouse) -> None:
        deployment = plane.registry.deployment("double", None)
        async with grpc.aio.insecure_channel(house.address) as channel:
            infer = channel.unary_unary(METHODS["ModelInfer"].path)
            busy = [infer(double(-900.0, 8, str(i))) for i in range(2)]
            await until(lambda: deployment.queued() == 1, "one runs, one waits")
            late, cancelled = infer(double(1.0, 8, "late"), timeout=0.3), infer(double(1.0, 8, "cancelled"))
            await until(lambda: deployment.queued() == 3, "all wait")
            cancelled.cancel()
            await until(lambda: deployment.queued() <= 2, "the cancelled one has left the queue")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await late
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            await until(lambda: deployment.queued() <= 1, "the late one has left the queue")
            await asyncio.gather(*busy)
        assert plane.statistics("double")[0].inference_count == 16

    with grpc_house(plane) as house:
        asyncio.run(run(house))
        house.wait_idle()


def test_a_cancelled_stream_reaches_the_model(plane: LoadedPlane) -> None:
    async def run(house: GrpcHouse) -> None:
        async with grpc.aio.insecure_channel(house.address) as channel:
            stream = channel.stream_stream(METHODS["ModelStreamInfer"].path)
            call = stream()
            await call.write(count(100_000, 5, "long"))
            await call.read()
            call.cancel()
            again = stream()  # the model has one instance: it answers once it has let go of the first request
            await again.write(count(1, 0, "short"))
            await again.done_writing()
            async with asyncio.timeout(PATIENCE):
                reply = METHODS["ModelStreamInfer"].response.FromString(await again.read())
            assert reply.infer_response.id == "short"

    with grpc_house(plane) as house:
        asyncio.run(run(house))
        house.wait_idle()


def test_a_stream_that_nobody_reads_has_its_requests_wait(plane: LoadedPlane) -> None:
    wanted = 5000

    async def run(house: GrpcHouse) -> None:
        (child,) = house.children
        # A small window, so that answers wait in the server and not in the client.
        options = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(house.address, options=options) as channel:
            call = channel.stream_stream(
                METHODS["ModelStreamInfer"].path, None, METHODS["ModelStreamInfer"].response.FromString
            )()
            before = resident(child.pid)
            for number in range(wanted):
                await call.write(double(1.0, 8, str(number)))
            await call.done_writing()
            await until(lambda: child.session.open == 0, "the end of the requests that were let in")
            assert plane.statistics("double")[0].inference_count <= 8 * 500
            assert resident(child.pid) < before + (30 << 20)
            infer = channel.unary_unary(METHODS["ModelInfer"].path)
            await infer(double(1.0, 1, "other"), timeout=PATIENCE)  # others go on
            async with asyncio.timeout(60):
                seen = [reply.infer_response.id async for reply in call]
            assert seen == [str(number) for number in range(wanted)]

    with grpc_house(plane) as house:
        asyncio.run(run(house))
        house.wait_idle()


def test_as_many_calls_wait_as_may(plane: LoadedPlane) -> None:
    async def run(house: GrpcHouse) -> None:
        async with grpc.aio.insecure_channel(house.address) as channel:
            infer = channel.unary_unary(METHODS["ModelInfer"].path)
            asked = [asyncio.ensure_future(infer(double(-200.0, 8, str(i))).code()) for i in range(12)]
            codes = Counter(await asyncio.gather(*asked))
            assert codes == {grpc.StatusCode.OK: 4, grpc.StatusCode.UNAVAILABLE: 8}

    with grpc_house(plane, max_waiting=4) as house:
        asyncio.run(run(house))
        house.wait_idle()
