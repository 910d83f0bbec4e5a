from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from jitney.core.model_config import Batching, HandlerSpec, InstanceGroup, ModelConfig, QueuePolicy, TensorSpec
from jitney.core.request import Failure, Instance
from jitney.server.ipc.frame import MAX_PAYLOAD, BadFrame, PeerClosed
from jitney.server.ipc.messages import Message, WirePart, WireRequest, WireResponse, WireTensor
from jitney.server.workers.channel import KINDS, MessageChannel, ServerChannel
from jitney.server.workers.messages import (
    Cancel,
    Copied,
    Event,
    Execute,
    HostCall,
    HostCancel,
    HostReply,
    Left,
    Load,
    Loaded,
    Recall,
    Recalled,
    Rest,
    Results,
    Stop,
)
from jitney.tests.fakes.drip import DripSocket

CONFIG = ModelConfig(
    "m",
    "1",
    "handler",
    max_batch_size=8,
    inputs=(TensorSpec("x", "FP32", (-1, 3)),),
    batching=Batching(enabled=True, priority_queue_policy={1: QueuePolicy(5)}),
    instance_groups=(InstanceGroup("g", 2, "KIND_GPU", (0, 1)),),
    handler=HandlerSpec("h.py:handle", {"model": {"a": [1, None]}}, {"x": {"y": 1.5}}),
    parameters={"a": "b"},
)
REQUEST = WireRequest(
    "id", [WireTensor("x", "FP32", (1, 2), bytearray(8))], [WirePart("p", "t/p", (64, 9))], {"a": "b"}, {"n": 1}, ("y",), 1
)
RESPONSE = WireResponse([], bytearray(b"body"), 200, "OK", {}, {"f": 0.5, "b": True, "s": ""}, Failure("bad"), False)
MESSAGES = [
    Load(CONFIG, Instance("m_0_0", "KIND_GPU", 1, 4), 1 << 34, 1 << 30, "a:b"),
    Execute(7, [msgspec.Raw(msgspec.msgpack.encode(REQUEST))]),
    Cancel(7, 3),
    HostReply(3, RESPONSE, {"a": [1, None]}, None, False),
    Stop(),
    Copied(3),
    Loaded("reason", "traceback", True),
    Results(7, [(0, msgspec.Raw(msgspec.msgpack.encode(RESPONSE)))], True, True, 1, 2, 3),
    HostCall(1, "infer", "other", "2", REQUEST, {"a": 1}),
    HostCancel(1),
    Event("metric", {"name": "x", "value": 1.5}),
    Left(70),
    Rest(True),
    Recall(7),
    Recalled(7),
]


def message_of(channel: MessageChannel) -> Any:
    """The next message; which kind of message it is, each test knows."""
    return channel.receive()


def send_all(channel: MessageChannel, messages: Iterable[Message]) -> None:
    for message in messages:
        channel.send(message)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def plain(message: Any) -> bytes:
    return msgspec.msgpack.encode(message)


def test_every_kind_has_a_message_here() -> None:
    assert {type(message) for message in MESSAGES} == set(KINDS)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(pair: tuple[socket.socket, socket.socket], message: Any) -> None:
    MessageChannel(pair[0]).send(message)
    received = MessageChannel(pair[1]).receive()
    assert type(received) is type(message)
    assert plain(received) == plain(message)


def test_load_carries_the_whole_configuration(pair: tuple[socket.socket, socket.socket]) -> None:
    MessageChannel(pair[0]).send(MESSAGES[0])
    assert message_of(MessageChannel(pair[1])).config == CONFIG


def test_inline_data_is_writable(pair: tuple[socket.socket, socket.socket]) -> None:
    MessageChannel(pair[0]).send(HostReply(1, RESPONSE))
    assert isinstance(message_of(MessageChannel(pair[1])).response.body, bytearray)


def test_one_byte_at_a_time(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = DripSocket(pair[0]), DripSocket(pair[1])
    with sender, receiver:
        writing = threading.Thread(target=send_all, args=(MessageChannel(sender), MESSAGES))
        writing.start()
        channel = MessageChannel(receiver)
        for message in MESSAGES:
            assert plain(channel.receive()) == plain(message)
        writing.join()


def test_frames_of_all_sizes_arrive_whole_and_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    sizes = [0, 1, 65_000, 65_530, 65_531, 65_536, 70_000, 3, 1_000_000, 5, 200_000, 1] * 2
    events = [Event(str(n), {"data": random.Random(n).randbytes(size)}) for n, size in enumerate(sizes)]
    sender = MessageChannel(pair[0])
    writing = threading.Thread(target=send_all, args=(sender, events))
    writing.start()
    receiver = MessageChannel(pair[1])
    for event in events:
        received = message_of(receiver)
        assert (received.kind, received.payload) == (event.kind, event.payload)
    writing.join()


def test_many_threads_send_without_mixing(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = MessageChannel(pair[0]), MessageChannel(pair[1])

    def send(mark: int) -> None:
        for n in range(50):
            sender.send(Event(str(mark), {"data": bytes([mark]) * (n * 997)}))

    threads = [threading.Thread(target=send, args=(mark,)) for mark in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        event = message_of(receiver)
        assert set(event.payload["data"]) <= {int(event.kind)}
    for thread in threads:
        thread.join()


def test_the_end_of_the_peer(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(PeerClosed, match=r"^closed$"):
        MessageChannel(pair[1]).receive()


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 10])
def test_the_end_in_the_middle_of_a_frame(pair: tuple[socket.socket, socket.socket], cut: int) -> None:
    payload = plain(Cancel(1, 2000))
    frame = struct.pack("<IB", 100, KINDS.index(Cancel)) + payload + bytes(100)
    pair[0].sendall(frame[:cut])
    pair[0].close()
    with pytest.raises(PeerClosed, match="middle of a frame"):
        MessageChannel(pair[1]).receive()


def test_a_reset_is_an_end_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        with client, pytest.raises(PeerClosed):
            MessageChannel(client).receive()


def test_too_long_is_refused_by_both_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BadFrame, match="over the limit"):
        MessageChannel(pair[0]).send(Event("x", {"data": bytes(MAX_PAYLOAD)}))
    pair[0].sendall(struct.pack("<IB", MAX_PAYLOAD + 1, 0))
    with pytest.raises(BadFrame, match="over the limit"):
        MessageChannel(pair[1]).receive()


def test_after_a_refused_message_the_channel_is_as_before(pair: tuple[socket.socket, socket.socket]) -> None:
    sender = MessageChannel(pair[0])
    with pytest.raises(TypeError):
        sender.send(Event("x", {"data": object()}))
    with pytest.raises(UnicodeEncodeError):
        sender.send(Event("\ud800", {}))
    with pytest.raises(OverflowError):
        sender.send(Event("x", {"n": 1 << 70}))
    sender.send(Event("fine", {}))
    assert message_of(MessageChannel(pair[1])).kind == "fine"


def test_held_messages_arrive_in_front_of_the_next_one_and_not_before(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = MessageChannel(pair[0]), MessageChannel(pair[1])
    sender.send(Event("before", {"data": bytes(1000)}))
    sender.hold(Event("first", {}))
    sender.hold(Event("second", {"data": bytes(2000)}))
    assert message_of(receiver).kind == "before"
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)
    pair[1].setblocking(True)
    sender.send(Cancel(1, 2))
    sender.send(Cancel(1, 3))
    received = [receiver.receive() for _ in range(4)]
    assert [getattr(message, "kind", None) for message in received] == ["first", "second", None, None]
    assert received[2:] == [Cancel(1, 2), Cancel(1, 3)]


@pytest.mark.parametrize("refused", [Event("x", {"data": object()}), Event("x", {"data": bytes(MAX_PAYLOAD)})])
def test_a_refused_message_leaves_those_that_are_held(pair: tuple[socket.socket, socket.socket], refused: Event) -> None:
    sender, receiver = MessageChannel(pair[0]), MessageChannel(pair[1])
    sender.hold(Event("held", {}))
    for attempt in (sender.hold, sender.send):
        with pytest.raises((TypeError, BadFrame)):
            attempt(refused)
    sender.send(Cancel(1, 2))
    assert receiver.receive() == Event("held", {})
    assert receiver.receive() == Cancel(1, 2)


def test_unknown_kinds_and_wrong_payloads_are_named(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(struct.pack("<IB", 0, len(KINDS)))
    with pytest.raises(BadFrame, match="unknown kind"):
        MessageChannel(pair[1]).receive()
    payload = msgspec.msgpack.encode(["not a number", 1])
    pair[0].sendall(struct.pack("<IB", len(payload), KINDS.index(Cancel)) + payload)
    channel = MessageChannel(pair[1])
    channel._start = channel._end = 0
    with pytest.raises(BadFrame, match="Cancel cannot be understood"):
        channel.receive()


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_garbage_ends_in_a_clear_error(garbage: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(garbage)
        ours.close()
        channel = MessageChannel(theirs)
        with pytest.raises((BadFrame, PeerClosed)):
            while True:
                channel.receive()


@given(st.integers(0, len(MESSAGES) - 1), st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_frame_is_a_message_or_a_clear_error(number: int, data: DataObject) -> None:
    message = MESSAGES[number]
    payload = bytearray(plain(message))
    for _ in range(data.draw(st.integers(1, 4))):
        if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack("<IB", len(payload), KINDS.index(type(message))) + payload)
        ours.close()
        channel = MessageChannel(theirs)
        try:
            assert type(channel.receive()) is type(message)
        except BadFrame:
            pass
        with pytest.raises(PeerClosed):
            channel.receive()


# -- without waiting -------------------------------------------------------------------------------------------------------


def test_what_is_not_here_yet_is_not_waited_for(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = MessageChannel(pair[0]), MessageChannel(pair[1])
    assert receiver.take() is None
    for message in MESSAGES:
        sender.send(message)
    for message in MESSAGES:
        assert plain(receiver.take()) == plain(message)
    assert receiver.take() is None and not receiver.is_long


def test_a_message_that_comes_in_pieces_is_taken_when_it_is_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    MessageChannel(pair[0]).send(MESSAGES[1])
    data, receiver = pair[1].recv(1 << 16), MessageChannel(pair[1])
    for at in range(len(data) - 1):
        pair[0].send(data[at : at + 1])
        assert receiver.take() is None
    pair[0].send(data[-1:])
    assert plain(receiver.take()) == plain(MESSAGES[1])


def test_taking_and_receiving_may_alternate(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = MessageChannel(pair[0]), MessageChannel(pair[1])
    for number in range(2000):
        sender.send(Execute(number, [msgspec.Raw(msgspec.msgpack.encode(b"x" * (number % 700)))]))
        message = receiver.take() if number % 3 else receiver.receive()
        assert isinstance(message, Execute) and message.batch == number


def test_a_long_message_is_left_to_whoever_may_wait(pair: tuple[socket.socket, socket.socket]) -> None:
    long = Execute(1, [msgspec.Raw(msgspec.msgpack.encode(b"x" * 300_000))])
    sending = threading.Thread(target=MessageChannel(pair[0]).send, args=(long,))
    sending.start()
    receiver = MessageChannel(pair[1])
    while not receiver.is_long:
        assert receiver.take() is None
    assert receiver.take() is None
    assert plain(receiver.receive()) == plain(long)
    sending.join()


def test_little_is_read_at_once_unless_a_message_is_longer(pair: tuple[socket.socket, socket.socket]) -> None:
    """Who takes messages serves others too, and is to be done with what it holds after a moment."""
    sender, receiver = MessageChannel(pair[0]), MessageChannel(pair[1])
    long = Execute(1, [msgspec.Raw(msgspec.msgpack.encode(b"x" * 30_000))])
    for _ in range(1000):
        sender.hold(MESSAGES[-1])
    sender.send(long)
    held = 1
    assert plain(receiver.take()) == plain(MESSAGES[-1])
    while receiver.holds_frame:
        assert plain(receiver.take()) == plain(MESSAGES[-1])
        held += 1
    assert held < 700
    for _ in range(1000 - held):
        assert plain(receiver.take()) == plain(MESSAGES[-1])
    assert plain(receiver.take()) == plain(long)


def test_what_was_read_with_another_message_is_known_to_be_here(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = MessageChannel(pair[0]), MessageChannel(pair[1])
    sender.hold(MESSAGES[-1])
    sender.send(MESSAGES[2])
    assert not receiver.holds_frame
    assert (plain(receiver.receive()), receiver.holds_frame) == (plain(MESSAGES[-1]), True)
    assert (plain(receiver.receive()), receiver.holds_frame) == (plain(MESSAGES[2]), False)


def test_an_end_and_nonsense_are_noticed_without_waiting(pair: tuple[socket.socket, socket.socket]) -> None:
    receiver = MessageChannel(pair[1])
    pair[0].send(struct.pack("<IB", 1, len(KINDS)))
    with pytest.raises(BadFrame, match="unknown kind"):
        receiver.take()
    pair[0].close()
    with pytest.raises(PeerClosed):
        MessageChannel(pair[1]).take()


def test_what_the_socket_does_not_take_is_left_to_whoever_flushes(pair: tuple[socket.socket, socket.socket]) -> None:
    sender, receiver = ServerChannel(pair[0]), MessageChannel(pair[1])
    then: list[bool] = []
    long = Event("long", {"data": bytes(5 << 20)})
    assert sender.post(Cancel(1, 1), then.append) and sender.sent() == []
    assert not sender.post(long, then.append) and not sender.post(Cancel(1, 2), then.append)
    assert sender.sent() is None
    flushing = threading.Thread(target=sender.flush, args=(10.0,))
    flushing.start()
    assert [receiver.receive() for _ in range(3)] == [Cancel(1, 1), long, Cancel(1, 2)]
    flushing.join()
    assert sender.sent() == [then.append] * 2 and sender.sent() == []
    assert sender.post(Cancel(1, 3))
    assert receiver.receive() == Cancel(1, 3)


def test_who_flushes_does_not_wait_for_ever(pair: tuple[socket.socket, socket.socket]) -> None:
    sender = ServerChannel(pair[0])
    then: list[bool] = []
    sender.flush(0.0)
    sender.post(Event("long", {"data": bytes(5 << 20)}), then.append)
    with pytest.raises(BlockingIOError):
        sender.flush(0.01)
    pair[1].close()
    with pytest.raises(ConnectionError):
        sender.flush(10.0)
    assert sender.give_up() == [then.append]
    with pytest.raises(ConnectionError, match="nothing more"):
        sender.post(Cancel(1, 1))
    pair[0].close()
    with pytest.raises(ConnectionError, match="closed"):
        sender.flush(10.0)
