"""What a front end and the scheduler tell each other. Arrays of plain values in msgpack; nothing is ever pickled.

    front end -> scheduler                                scheduler -> front end
    Ready      it answers requests from now on            Hello       the settings; the first message
    Submit     one request for a model                    CallAnswer  one response, or why there is none
    Cancel     its client has gone                        Stale       a request was prepared for a model that has changed
    Freed      answers in shared memory that were read    QueryReply  the answer to a Query
    Query      something that it keeps until it changes   Flush       send what was counted
    Counted,   what the metrics count                     Drain       stop accepting, finish, end
    Requested, Answered
    Logged     one line of its log                        Traces      which requests are traced from now on
    Traced     a traced request that is over
    Taken      parts of a stream that its client has taken
    Flushed    all that was counted is sent

Each side sends frames of several messages (`pack`). `Data` is either the bytes themselves or a place `(offset, nbytes)`: of a
request in the front end's request memory, of a response in its reply memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ...core.call import Times
from ...core.model_config import ModelConfig
from ...core.request import Failure, Parameter
from ...core.tensor import Buffer
from ..http.middleware.tokens import Key
from ..ipc.frame import HEADER, MAX_PAYLOAD, BadFrame
from ..settings.settings import Settings
from ..tracing.record import TraceRecord
from ..tracing.sampling import Rule

if TYPE_CHECKING:
    Data = Buffer | tuple[int, int]
else:
    Data = memoryview | tuple[int, int]  # what is decoded: a view of the frame, which lives as long as the view

#: The largest message; a frame holds one at least.
MAX_MESSAGE = MAX_PAYLOAD // 2
#: A frame is not made longer than this by further messages.
FULL_FRAME = 1 << 20


def _plain(value: Any) -> Any:
    """What stands for a value that msgspec does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_plain)
_ARRAY = b"\xdd"  # msgpack's array with a length of 32 bits


class Plain(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Base of what messages are made of: fields in order, no names."""


class FrontTensor(Plain):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Data


class FrontPart(Plain):
    name: str
    content_type: str
    data: Data


class FrontRequest(Plain):
    id: str
    tensors: list[FrontTensor]
    parts: list[FrontPart]
    headers: dict[str, str]
    parameters: dict[str, Parameter]
    outputs: tuple[str, ...]
    rows: int


class FrontResponse(Plain):
    tensors: list[FrontTensor]
    body: Data | None
    status: int
    reason: str
    headers: dict[str, str]
    parameters: dict[str, Parameter]
    error: Failure | None
    final: bool


class FrontError(Plain):
    """An error as its class's name, its arguments and its attributes."""

    kind: str
    arguments: list[Any]
    attributes: dict[str, Any]


class FrontTimes(Plain):
    """Of `call.Times`, what the scheduler knows; CLOCK_MONOTONIC is the same in all processes."""

    dispatched: int
    compute_input: int
    compute_infer: int
    compute_output: int
    batch_rows: int = 0


class RegionFile(Plain):
    """A registered region of system shared memory, as an open file of the scheduler; `device` and `inode` tell it from others."""

    key: str
    offset: int
    byte_size: int
    fd: int
    device: int
    inode: int


# --- front end -> scheduler


class Ready(Plain, tag=1):
    pass


class Submit(Plain, tag=2):
    """`epoch`: the state of the registry for which the request is decoded and checked; None = the scheduler is to do that."""

    number: int
    verb: Literal["infer", "predict"]
    model: str
    version: str | None
    epoch: int | None
    request: FrontRequest
    priority: int = 0
    timeout_us: int = 0


class Cancel(Plain, tag=3):
    number: int


class Freed(Plain, tag=4):
    offsets: list[int]


class Query(Plain, tag=5):
    """`what` and its arguments: "config" (model, version or ""), "keys" (), "region" (name)."""

    number: int
    what: Literal["config", "keys", "region"]
    arguments: tuple[str, ...] = ()


class Counted(Plain, tag=6):
    """HTTP answers with this status."""

    status: int
    count: int


class Requested(Plain, tag=7):
    model: str
    version: str | None


class Answered(Plain, tag=8):
    """A model's answer was rendered at `now` (monotonic nanoseconds, as the others)."""

    model: str
    version: str | None
    now: int
    arrived: int
    answered: int
    times: FrontTimes


class Logged(Plain, tag=9):
    logger: str
    level: int
    text: str
    thread: str
    created: float
    fields: dict[str, Any] = {}
    exception: str = ""


class Flushed(Plain, tag=10):
    number: int


class Traced(Plain, tag=11):
    record: TraceRecord


class Taken(Plain, tag=12):
    """So many parts more of this request's stream."""

    number: int
    parts: int


# --- scheduler -> front end


class Hello(Plain, tag=1):
    """`pem`: the certificate that was made at the start, if any. `levels`: logger -> level; None = it is disabled. `fronts`: how
    many front ends there are, of all kinds."""

    settings: Settings
    ports: tuple[Literal["inference", "management", "metrics"], ...]
    index: int
    request_bytes: int
    reply_bytes: int
    levels: dict[str, int | None]
    pem: bytes = b""
    asks_keys: bool = False
    fronts: int = 1
    traces: dict[str, Rule] = {}


class CallAnswer(Plain, tag=2):
    """`config` comes with the first answer to a request that the scheduler prepared, `steps` with the last one of an ensemble."""

    number: int
    response: FrontResponse | None = None
    error: FrontError | None = None
    times: FrontTimes | None = None
    config: ModelConfig | None = None
    steps: list[tuple[str, str, Times]] | None = None


class Stale(Plain, tag=3):
    number: int


class QueryReply(Plain, tag=4):
    """The field that the question was about, or an error."""

    number: int
    config: ModelConfig | None = None
    keys: dict[Literal["inference", "management"], Key] | None = None
    region: RegionFile | None = None
    error: FrontError | None = None


class Flush(Plain, tag=5):
    number: int


class Drain(Plain, tag=6):
    """At most so many seconds."""

    seconds: float


class Traces(Plain, tag=7):
    rules: dict[str, Rule]


Upward = Ready | Submit | Cancel | Freed | Query | Counted | Requested | Answered | Logged | Flushed | Traced | Taken
Downward = Hello | CallAnswer | Stale | QueryReply | Flush | Drain | Traces
UPWARD: msgspec.msgpack.Decoder[list[Upward]] = msgspec.msgpack.Decoder(list[Upward])
DOWNWARD: msgspec.msgpack.Decoder[list[Downward]] = msgspec.msgpack.Decoder(list[Downward])


def encode(message: Upward | Downward) -> bytes:
    """One message; TypeError, ValueError or OverflowError where it cannot be encoded, BadFrame where it is too large."""
    data = _ENCODER.encode(message)
    if len(data) > MAX_MESSAGE:
        raise BadFrame(f"{type(message).__name__} of {len(data)} bytes is over the limit of {MAX_MESSAGE}")
    return data


def pack(messages: Sequence[bytes]) -> bytes:
    """A frame of encoded messages."""
    length = 5 + sum(map(len, messages))
    return b"".join((HEADER.pack(length, 0), _ARRAY, len(messages).to_bytes(4, "big"), *messages))
