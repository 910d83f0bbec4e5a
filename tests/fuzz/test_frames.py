"""What workers and front ends send: a frame that is damaged is a message or a clear error, and is never waited for in vain."""

from __future__ import annotations

import socket
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from jitney.server.frontends.messages import DOWNWARD, UPWARD
from jitney.server.ipc.frame import HEADER, BadFrame, FrameReader, PeerClosed
from jitney.server.workers.channel import MessageChannel

from .mutations import mutated

PLAIN: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**40), st.floats(), st.text(max_size=4), st.binary(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ("Ready", "Submit", "Cancel", "Freed", "Query", "Counted", "Logged", "Flushed", "CallAnswer", "Stale", "Drain")
)
#: Lists of messages as both sides of a front end send them: each is a list that begins with its kind.
PACKED = st.builds(
    msgspec.msgpack.encode,
    st.lists(st.builds(lambda name, rest: [name, *rest], NAMES, st.lists(PLAIN, max_size=4)), max_size=3),
)
FRAMES = st.builds(
    lambda kind, data: HEADER.pack(len(data), kind) + data, st.integers(0, 12), st.builds(msgspec.msgpack.encode, PLAIN)
)


@given(mutated(st.lists(FRAMES, max_size=3).map(b"".join)))
def test_frames(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.sendall(data)
        theirs.close()
        reader = FrameReader(ours, 3)
        try:
            while True:
                kind, payload = reader.read_frame()
                assert kind < 3 and len(payload) <= len(data)
        except (PeerClosed, BadFrame):
            pass


@given(mutated(st.lists(FRAMES, max_size=3).map(b"".join)))
def test_messages_of_workers(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.sendall(data)
        theirs.close()
        channel = MessageChannel(ours)
        try:
            while True:
                channel.receive()
        except (PeerClosed, BadFrame):
            pass


@given(mutated(PACKED))
def test_messages_of_front_ends(data: bytes) -> None:
    for decoder in (UPWARD, DOWNWARD):
        try:
            decoder.decode(data)
        except (BadFrame, msgspec.MsgspecError, UnicodeDecodeError, ValueError):
            pass
