"""What a server and its worker process tell each other. Arrays of plain values in msgpack; nothing is ever pickled.

    server -> worker                                      worker -> server
    Load       what to load, sizes of the memory          Loaded      it is ready, or why it is not
    Execute    one batch                                  Results     some or all answers of the batch
    Cancel     this request's client has gone             HostCall    the model wants something of the server
    HostReply  an answer to a HostCall                    HostCancel  it wants no more of it
    Copied     answers have left the reply memory         Copied      it needs to know which
    Rest       no parts of streams for now, or again
    Recall     a batch is to come back                    Recalled    it does: it was not begun, and will not be
    Stop       finish and end                             Event       a metric, ...
    Join       a shared process: one worker more          Left        a worker of a shared process ends

`Data` is either the bytes themselves (small, or of no batch) or a place `(offset, nbytes)`: of a request in the arena, of a
response in the worker's reply memory. Requests and responses are encoded one by one (`Raw`), so that one which cannot be
encoded or understood fails alone.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ...core.model_config import ModelConfig
from ...core.request import Failure, Instance
from ..ipc.messages import Message, WireRequest, WireResponse

# --- server -> worker


class Load(Message):
    """`factory` names what makes the backend, `module:function`; empty = `backends.factory:create`."""

    config: ModelConfig
    instance: Instance
    arena_bytes: int
    reply_bytes: int
    factory: str = ""


class Execute(Message):
    """One batch; it is executed after those that were sent before. `copied`: as in `Copied`, which this saves."""

    batch: int
    requests: list[msgspec.Raw]
    copied: int = 0


class Cancel(Message):
    batch: int
    index: int


class Recall(Message):
    """The batch is wanted back, since others have become free while it waits. Where it has begun nothing follows."""

    batch: int


class HostReply(Message):
    """One response of an `infer`, or the value of a `control`; `error` where that failed as a whole."""

    call: int
    response: WireResponse | None = None
    value: Any = None
    error: Failure | None = None
    final: bool = True


class Copied(Message):
    """How many of this worker's `Results` with answers in the reply memory have been copied out of it, since it started.

    A worker that has no room left asks by sending one itself.
    """

    count: int = 0


class Rest(Message):
    """Whether the parts of streams are to wait in the worker, since no client reads them as fast as they come."""

    rests: bool


class Stop(Message):
    pass


class Join(Message):
    """To a shared process, with the descriptors of the worker's socket, arena and reply memory. `place` on the board is its."""

    place: int
    name: str


# --- worker -> server


class Loaded(Message):
    """`reason` is empty when the model is loaded; `detail` is a traceback for the log."""

    reason: str = ""
    detail: str = ""
    out_of_memory: bool = False


class Results(Message):
    """Answers, each with its request's index in the batch. Times in nanoseconds.

    returned  `execute` has returned: the next batch is being executed
    done      ... and each request has its final answer
    placed    bytes of the answers that lie in the reply memory
    """

    batch: int
    responses: list[tuple[int, msgspec.Raw]]
    done: bool
    returned: bool = True
    input_ns: int = 0
    infer_ns: int = 0
    output_ns: int = 0
    placed: int = 0


class Recalled(Message):
    batch: int


class HostCall(Message):
    """`verb` is "infer", or one of `Host.control`'s."""

    call: int
    verb: str
    model: str
    version: str = ""
    request: WireRequest | None = None
    arguments: dict[str, Any] = {}  # noqa: RUF012 - msgspec gives each message its own


class HostCancel(Message):
    call: int


class Event(Message):
    kind: str
    payload: dict[str, Any]


class Left(Message):
    """The worker's last word, where its process goes on: `code` as a process of its own would end with (`process.exits`)."""

    code: int
