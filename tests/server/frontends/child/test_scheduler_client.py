"""Both ends of a front end's socket in one process: requests, answers, memory, models that change, and nonsense."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jitney.core import holding
from jitney.core.call import Call, size
from jitney.core.errors import (
    Cancelled,
    Draining,
    HoldsTooMuch,
    InvalidRequest,
    InvalidTensor,
    JitneyError,
    ModelFailed,
    ModelNotFound,
    QueueFull,
)
from jitney.core.model_config import ModelConfig, TensorSpec
from jitney.core.request import Failure, Part, Request, Response
from jitney.core.tensor import Tensor
from jitney.server.frontends import pending_reply, send_queue, wire
from jitney.server.frontends.child.remote_dataplane import RemoteDataPlane
from jitney.server.frontends.child.scheduler_client import SchedulerClient
from jitney.server.frontends.messages import (
    DOWNWARD,
    UPWARD,
    CallAnswer,
    Cancel,
    Freed,
    FrontPart,
    FrontRequest,
    Submit,
    encode,
    pack,
)
from jitney.server.frontends.queries import SharedServices
from jitney.server.frontends.send_queue import SendQueue
from jitney.server.frontends.session import FrontendSession
from jitney.server.frontends.shared_counters import SharedCounters
from jitney.server.http.kserve.shm import ClientRegions
from jitney.server.ipc.arena import Arena
from jitney.server.ipc.frame import HEADER, FrameReader, PeerClosed
from jitney.server.ipc.frame_reading import Reading
from jitney.server.ipc.io_context import IoContext
from jitney.server.ipc.memory import Region
from jitney.server.metrics import Metrics
from jitney.server.serving.dataplane import DataPlane
from jitney.server.serving.registry import Registry
from jitney.tests.fakes.plane import answers
from jitney.tools.bench.served import wait_until

LIMIT = 10.0
NBYTES = 64 << 20
X, Y = TensorSpec("x", "FP32", (-1,)), TensorSpec("y", "FP32", (-1,))


class FakeDeployment:
    """A served version whose calls a test answers."""

    def __init__(self, name: str = "m", backend: Any = "onnxruntime", **config: Any) -> None:
        self.config = ModelConfig(name, "1", backend, inputs=(X,), outputs=(Y,), max_batch_size=8, **config)
        self.calls: list[Call] = []
        self.data: list[bytes] = []
        self.refusal: Exception | None = None
        self.rests: list[bool] = []

    def submit(self, request: Request, **options: Any) -> Call:
        if self.refusal is not None:
            raise self.refusal
        call = Call(request, self.config, on_answer=options["on_answer"])
        call.encode = options.get("encode")
        self.data.append(
            b"".join(bytes(data) for data in (*(t.data for t in request.tensors), *(p.data for p in request.parts)))
        )
        call.times.dispatched, call.times.compute_infer = call.times.arrived + 1, 7
        self.calls.append(call)
        return call

    def rest(self, call: Call, rests: bool) -> None:
        self.rests.append(rests)

    def refuse_without_workers(self) -> None: ...

    def refuse_if_full(self) -> None: ...

    @property
    def codec(self) -> Any:
        from jitney.codecs import create

        return create(self.config)


class Site:
    """`plane` is the front end's, `deployment` the scheduler's."""

    def __init__(self) -> None:
        self.sockets = socket.socketpair()
        front, scheduler = self.sockets
        self.registry, self.counters = Registry(), SharedCounters.create(1)
        self.registry.on_change = lambda: self.counters.changed("models")
        self.deployment = self.serve(FakeDeployment())
        requests = Region.create("requests", NBYTES)
        self.requests, self.replies = Arena(NBYTES, requests), Arena(NBYTES)
        self.io = IoContext(), IoContext()  # of either process
        shared = SharedServices(DataPlane(self.registry), Metrics(), None, ClientRegions(), self.counters, self.io[1])
        self.send_queues = (
            SendQueue(front, "front", lambda: None, self.io[0].coalescer),
            SendQueue(scheduler, "session", lambda: None, self.io[1].coalescer),
        )
        self.session = FrontendSession(
            shared, self.send_queues[1], requests, self.replies, lambda: None, lambda number: None
        )
        self.lost: list[str] = []
        self.link = SchedulerClient(
            front,
            FrameReader(front, 1),
            self.send_queues[0],
            self.requests,
            self.replies.region,
            lambda _: None,
            self.lost.append,
            self.io[0],
        )
        self.plane = RemoteDataPlane(self.link, self.counters)
        self.ended: list[Exception] = []
        take = lambda payload: self.session.take(UPWARD.decode(payload))  # noqa: E731
        reading = Reading(scheduler, FrameReader(scheduler, 1), take, self.io[1].reactors)
        self.threads = [threading.Thread(target=self._run, args=(reading,), daemon=True), self.link._thread]
        self.send_queues[1].start()
        self.threads[0].start()
        self.link.start()

    def _run(self, reading: Reading) -> None:
        try:
            reading.run()
        except Exception as error:  # noqa: BLE001 - looked at by the test
            self.ended.append(error)

    def serve(self, deployment: FakeDeployment) -> FakeDeployment:
        self.registry.put(deployment)  # type: ignore[arg-type]
        return deployment

    def call(self, number: int = 0, deployment: FakeDeployment | None = None) -> Call:
        """The scheduler's call, when it is there."""
        calls = (deployment or self.deployment).calls
        wait_until(lambda: len(calls) > number, LIMIT, "the request")
        return calls[number]

    def close(self) -> None:
        for sock in self.sockets:
            sock.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join(LIMIT)
        for queue in self.send_queues:
            queue.close()
        for sock in self.sockets:
            sock.close()
        self.requests.close()
        self.replies.close()
        self.counters.close()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def request(width: int = 2, value: float = 1.0) -> Request:
    return Request("me", [Tensor.from_numpy("x", np.full((1, width), value, np.float32))])


def response(width: int = 2, **more: Any) -> Response:
    return Response([Tensor.from_numpy("y", np.arange(width, dtype=np.float32).reshape(1, width))], **more)


@pytest.mark.parametrize("width", [2, 2048, 2049, 1_000_000])
def test_a_request_and_its_answer_arrive_and_leave_no_memory_behind(site: Site, width: int) -> None:
    call = site.plane.infer("m", None, request(width))
    there = site.call()
    assert site.deployment.data == [np.ones(width, np.float32).tobytes()]
    assert (there.request.id, there.request.rows, there.request.tensors[0].shape) == ("me", 1, (1, width))
    there.answer(response(width, parameters={"p": 1}))
    answer = call.result(LIMIT)
    np.testing.assert_array_equal(answer.tensors[0].numpy(), np.arange(width, dtype=np.float32).reshape(1, width))
    assert answer.parameters == {"p": 1} and call.done
    assert call.times.compute_infer == 7 and call.times.dispatched == there.times.dispatched
    assert (site.link.open, site.session.open, site.requests.used) == (0, 0, 0)
    wait_until(lambda: site.replies.used == 0, LIMIT, "the memory of the answer")


def test_requests_are_kept_apart_and_streams_in_order(site: Site) -> None:
    site.serve(FakeDeployment("words", "handler"))
    words = site.registry.deployment("words")
    calls = [site.plane.predict("words", None, Request(parts=[Part("body", b"%d" % n)])) for n in range(4)]
    there = [site.call(n, words) for n in range(4)]  # type: ignore[arg-type]
    for n in reversed(range(4)):
        for piece in range(50):
            there[n].answer(Response(body=b"%d.%d" % (n, piece) * (1 + 5000 * (piece % 2)), final=piece == 49))
    for n, call in enumerate(calls):
        bodies = [bytes(answer.body or b"") for answer in call.stream(LIMIT)]
        assert bodies == [b"%d.%d" % (n, piece) * (1 + 5000 * (piece % 2)) for piece in range(50)]
    wait_until(lambda: site.replies.used == 0, LIMIT, "the memory of the answers")


def test_a_stream_goes_on_after_an_error_in_it(site: Site) -> None:
    call = site.plane.infer("m", None, request())
    failure = Failure("not this one", "UNAVAILABLE", by_model=True)
    there = site.call()
    for part in (Response(error=failure, final=False), response(final=False), response()):
        there.answer(part)
    assert [part.error for part in call.stream(LIMIT)] == [failure, None, None]


def test_a_stream_that_its_front_end_does_not_come_to_reading_waits_and_the_front_end_goes_on(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model may give more than it can read, on a machine that has other things to do. A small stream goes on too."""
    monkeypatch.setattr(send_queue, "MAX_BACKLOG", 8 << 20)
    monkeypatch.setattr(holding.process, "limit", 64 << 20)
    goes_on, given = threading.Event(), list[Response | JitneyError]()

    def block(_: Response | JitneyError) -> None:
        goes_on.wait(LIMIT)

    blocking = site.plane.infer("m", None, request(), on_answer=block)
    small = site.plane.infer("m", None, request())
    much = site.plane.infer("m", None, request(), on_answer=given.append)
    there = [site.call(n) for n in range(3)]
    there[0].answer(response(final=False))  # the front end's reading thread has something to do now
    try:
        for _ in range(5000):  # 25 MB
            there[2].answer(response(1000, final=False))
            assert site.send_queues[1].backlog < 2 << 20
        there[2].answer(response())
        assert site.deployment.rests[0] and len(given) < 5000
        there[1].answer(response(final=False))
        there[1].answer(response())
        there[0].answer(response())
    finally:
        goes_on.set()
    assert len(list(small.stream(LIMIT))) == 2
    wait_until(lambda: much.done and blocking.done, LIMIT, "the ends")
    assert len(given) == 5001 and not site.deployment.rests[-1]
    assert not site.lost and not site.ended


class Slow:
    """A client of a stream that takes parts of so many floats each when it is told to."""

    def __init__(self, site: Site, number: int = 0) -> None:
        self.given: list[Response | JitneyError] = []
        self.call = site.plane.infer("m", None, request(), on_answer=self.given.append)
        assert self.call.window is not None
        self.window, self.window.by_client = self.call.window, True
        self.there, self.taken = site.call(number), 0

    def take_all(self) -> None:
        """What is here."""
        for part in self.given[self.taken :]:
            self.taken += 1
            self.window.took(size(part))


def waiting() -> int:
    """Bytes of parts that wait in the scheduler."""
    return pending_reply._ALL.held


def test_parts_wait_in_the_scheduler_until_the_client_takes_those_before(site: Site) -> None:
    slow = Slow(site)
    sent = [response(1000, final=False, parameters={"n": n}) for n in range(1000)]  # 5 MB
    for part in (*sent, response()):
        slow.there.answer(part)
    assert site.plane.infer("m", None, request()) and site.call(1).answer(response())  # others do not wait
    wait_until(lambda: len(slow.given) == 209, LIMIT, "the window")  # each counts 4000 bytes and PART
    assert waiting() == (1000 - 209) * (4000 + holding.PART) and not site.deployment.rests
    while not slow.call.done:
        slow.take_all()
    assert [part.parameters for part in slow.given] == [part.parameters for part in (*sent, response())]  # type: ignore[union-attr]
    assert waiting() == 0 and site.session.open == 0


def test_a_client_that_leaves_while_parts_wait_frees_them_and_is_answered_once(site: Site) -> None:
    """Also where the model is done with it, so that its end is among what waits."""
    for number, end in enumerate([[], [response()]]):
        slow = Slow(site, number)
        for part in [*[response(1000, final=False)] * 1000, *end]:
            slow.there.answer(part)
        wait_until(lambda: len(slow.given) == 209, LIMIT, "the window")  # noqa: B023
        slow.call.cancel()
        wait_until(lambda: site.session.open == site.link.open == 0, LIMIT, "the end")
        assert slow.there.done and waiting() == 0
    assert not site.lost and not site.ended


def test_where_there_is_no_room_the_stream_ends_of_which_most_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holding.process, "limit", 32 << 20)
    large, small = Slow(site, 0), Slow(site, 1)
    for _ in range(2500):
        large.there.answer(response(1000, final=False))
    large.there.answer(response())
    while not isinstance(large.given[-1], JitneyError):
        small.there.answer(response(1000, final=False))
        assert waiting() < 17 << 20
    assert isinstance(large.given[-1], HoldsTooMuch) and not small.there.done
    small.there.answer(response())
    while not small.call.done:
        small.take_all()
    assert isinstance(small.given[-1], Response)
    wait_until(lambda: site.session.open == 0 and waiting() == 0, LIMIT, "the ends")


def test_a_front_end_that_goes_leaves_nothing_that_waits(site: Site) -> None:
    slow = Slow(site)
    for _ in range(1000):
        slow.there.answer(response(1000, final=False))
    site.session.close()
    assert slow.there.done and waiting() == 0


def test_a_model_is_asked_to_rest_and_to_go_on_each_time_that_it_matters(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_reply, "MANY", 2 << 20)
    slow = Slow(site)
    for times in (1, 2):
        while len(site.deployment.rests) < 2 * times - 1:
            slow.there.answer(response(1000, final=False))
        while len(site.deployment.rests) < 2 * times:
            slow.take_all()
    assert site.deployment.rests == [True, False] * 2
    while len(site.deployment.rests) < 7:  # it does not rest, and is asked again
        slow.there.answer(response(1000, final=False))
    assert site.deployment.rests[4:] == [True] * 3 and waiting() > 4 << 20


def test_no_part_of_a_stream_costs_more_than_is_counted_for_it() -> None:
    """Of which a model may give a million that nobody has read yet."""
    arena, part = Arena(1 << 20), response(1, final=False)
    message, _ = wire.response_to_wire(part, arena)
    frame = pack([encode(CallAnswer(1, message))] * 30)[HEADER.size :]
    kept = []
    tracemalloc.start()
    try:
        for _ in range(100):
            kept += [wire.response_from_wire(told.response, arena.view) for told in DOWNWARD.decode(bytearray(frame))]  # type: ignore[union-attr, arg-type]
        each = tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()
        arena.close()
    assert holding.PART / 2 < each < holding.PART


def test_refusals_and_failures_are_the_errors_that_they_are(site: Site) -> None:
    with pytest.raises(ModelNotFound):
        site.plane.config("nothing")
    with pytest.raises(InvalidTensor):
        site.plane.infer("m", None, Request(tensors=[Tensor("y", "FP32", (1, 1), b"0000")]))
    failed = site.plane.infer("m", None, request())
    site.call().answer(Response(error=Failure("it broke", "UNAVAILABLE", 418, True, "trace\nKeyError: 1")))
    with pytest.raises(ModelFailed, match="it broke") as found:
        failed.result(LIMIT)
    assert (found.value.code, found.value.status, found.value.reason) == ("UNAVAILABLE", 418, "KeyError: 1")
    site.deployment.refusal = QueueFull("full")
    with pytest.raises(QueueFull, match="full"):
        site.plane.infer("m", None, request(5000)).result(LIMIT)
    site.deployment.refusal = ValueError("a defect")
    with pytest.raises(Exception, match="internal error"):
        site.plane.infer("m", None, request(5000)).result(LIMIT)
    site.deployment.refusal = None
    with pytest.raises(InvalidRequest, match="cannot be handed to a worker"):
        site.plane.infer("m", None, Request(tensors=request(5000).tensors, parameters={"p": 2**70}))
    assert (site.link.open, site.session.open, site.requests.used) == (0, 0, 0)


def test_an_answer_that_cannot_be_sent_ends_its_request(site: Site) -> None:
    call = site.plane.infer("m", None, request())
    site.call().answer(response(5000, parameters={"p": 2**70}))
    with pytest.raises(Exception, match="cannot be handed to a front end"):
        call.result(LIMIT)
    assert (site.link.open, site.session.open) == (0, 0)
    wait_until(lambda: site.replies.used == 0, LIMIT, "the memory of the answer")


def test_a_cancelled_request_is_cancelled_there_and_frees_its_memory(site: Site) -> None:
    call = site.plane.infer("m", None, request(5000))
    there = site.call()
    withdrawn = threading.Event()
    there.withdraw = withdrawn.set
    assert call.cancel()
    assert withdrawn.wait(LIMIT) and isinstance(there.error, Cancelled)
    wait_until(lambda: (site.link.open, site.session.open, site.requests.used) == (0, 0, 0), LIMIT, "the request's end")
    assert not there.answer(response())


def test_when_the_front_end_goes_what_it_asked_is_cancelled(site: Site) -> None:
    site.plane.infer("m", None, request())
    there = site.call()
    site.session.close()
    assert isinstance(there.error, Cancelled) and site.session.open == 0


def test_what_was_prepared_for_another_state_of_the_models_is_prepared_again(site: Site) -> None:
    """The front end looked just before the change, and its request arrives just after."""
    epoch = site.counters.epoch
    old = site.plane.config("m")
    later = site.serve(FakeDeployment(parameters={"new": "1"}))
    site.counters.epoch = lambda what: epoch(what) - 1  # type: ignore[method-assign]
    site.plane._known = (epoch("models") - 1, site.plane._known[1])
    known = site.plane._find("m", None)
    assert known.config == old

    def look(what: Any) -> int:
        front = threading.current_thread() is threading.main_thread()
        return epoch(what) - 1 if front else epoch(what)

    site.counters.epoch = look  # type: ignore[method-assign]
    call = site.plane.infer("m", None, request(5000))
    there = site.call(0, later)
    assert later.data == [np.ones(5000, np.float32).tobytes()] and not site.deployment.calls
    there.answer(response())
    assert call.result(LIMIT).tensors[0].shape == (1, 2)
    assert call.config == later.config, "the front end is told who answers"
    predicted = site.plane.predict("m", None, Request(parts=[Part("body", b"[[1, 2]]", "application/json")]))
    there = site.call(1, later)
    there.answer(response())
    assert [bytes(answer.body or b"") for answer in answers(predicted, LIMIT)] == [b"[[0.0,1.0]]"]
    assert (site.link.open, site.session.open, site.requests.used) == (0, 0, 0)


def test_a_version_that_is_just_being_replaced_hands_over_to_its_successor(site: Site) -> None:
    site.deployment.refusal = Draining("stopping")
    later = FakeDeployment()

    def drain(request: Request, **_: Any) -> Call:
        site.registry.put(later)  # type: ignore[arg-type]
        raise Draining("stopping")

    site.deployment.submit = drain  # type: ignore[method-assign]
    call = site.plane.infer("m", None, request())
    site.call(0, later).answer(response())
    assert call.result(LIMIT).final


def test_the_reactors_own_thread_may_ask_and_wait(site: Site) -> None:
    """It is the one that reads the answers."""
    served: list[Any] = []

    class Held:
        def watch(self, fd: int, serve: Any, lost: Any) -> bool:
            if fd != site.sockets[0].fileno():
                return False
            served.append((fd, serve, lost))
            return True

    held = Held()
    site.io[0].reactors.offer(held)
    site.plane.config("m")
    wait_until(lambda: len(served) >= 1, LIMIT, "the loan of the socket")
    for n in range(3):
        site.serve(FakeDeployment(f"m{n}"))
        assert site.plane.config(f"m{n}").name == f"m{n}"
    for _, _, lost in served:
        lost()
    site.io[0].reactors.withdraw(held)


@pytest.mark.parametrize("place", [(NBYTES, 1), (NBYTES - 1, 2), (0, NBYTES + 1), (-1, 1), (2**62, 2**62), (0, -1)], ids=str)
def test_a_place_outside_of_the_memory_ends_the_front_end(site: Site, place: tuple[int, int]) -> None:
    wild = FrontRequest("", [], [FrontPart("body", "", place)], {}, {}, (), 1)
    site.send_queues[0].put(Submit(1, "predict", "m", None, 0, wild))
    wait_until(lambda: site.ended, LIMIT, "the end")
    assert isinstance(site.ended[0], ValueError) and not site.deployment.calls


def test_memory_that_is_given_back_twice_ends_the_front_end(site: Site) -> None:
    site.send_queues[0].put(Freed([64]))
    wait_until(lambda: site.ended, LIMIT, "the end")
    assert isinstance(site.ended[0], ValueError)


def test_a_number_that_is_taken_ends_the_front_end_and_an_unknown_one_is_nothing(site: Site) -> None:
    site.send_queues[0].put(Cancel(99))
    plain = FrontRequest("", [], [FrontPart("body", "", b"x")], {}, {}, (), 1)
    for _ in range(2):
        site.send_queues[0].put(Submit(5, "predict", "m", None, site.counters.epoch("models"), plain))
    wait_until(lambda: site.ended, LIMIT, "the end")
    assert isinstance(site.ended[0], ValueError) and len(site.deployment.calls) == 1


def test_bytes_that_are_no_message_end_the_front_end(site: Site) -> None:
    site.sockets[0].sendall(b"\x05\0\0\0\0" + b"\xdd\0\0\0\1" + b"\x05\0\0\0\x09hello")
    wait_until(lambda: site.ended, LIMIT, "the end")
    assert not isinstance(site.ended[0], PeerClosed)


def test_a_front_end_hears_of_the_schedulers_end(site: Site) -> None:
    site.sockets[1].shutdown(socket.SHUT_RDWR)
    wait_until(lambda: site.lost == [""], LIMIT, "the news")
