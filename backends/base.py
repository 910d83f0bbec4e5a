"""Backend: what runs a model. Who calls what, when, and where.

All of this happens in a worker process, on its main thread, for one model instance:

    load(model)                  once, before the worker reports ready; raises to refuse (the text reaches the operator)
    begin(requests, respond)     once for each batch; never concurrently with itself. It is `execute`, unless the backend can
                                 queue a batch's work on a device: then it begins the next one before it ends the last one
    unload()                     once, when the worker is asked to stop; not called when it is killed

`execute` calls `respond(index, response)` for each request of the batch. A response with `final=True` ends that request;
earlier ones with `final=False` are sent at once (streaming). Where the model `overlaps` (decoupled ones, handlers that are
asynchronous or batch continuously) a backend may keep `respond` and call it after `execute` returned, from any thread, while
the next batches are executed; a batch is over when every request had its final response. An exception out of `execute` fails
exactly the requests that had none yet. Tensors and parts of the requests are views of shared memory that are valid until their
request's final response.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..core.request import Instance, Request, Respond, Response

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig


class Host(Protocol):
    """What a worker process offers its backend besides batches. Any thread of the worker may call it."""

    def emit(self, kind: str, payload: Mapping[str, Any], held: bool = False) -> None:
        """Sends an event to the server, `payload` being plain data: kind "metric" for handlers' and models' own metrics.

        With `held` it travels together with an answer, which must be about to follow.
        """

    def infer(self, model: str, version: str, request: Request) -> Iterator[Response]:
        """Runs another model of this server and yields its responses (Triton's BLS); `version` "" = the served default."""

    def lose(self, error: DeviceLost) -> NoReturn:
        """Ends the process, as raising the error out of `execute` does: for code that runs after it."""

    def control(self, verb: str, model: str, arguments: Mapping[str, Any]) -> Any:
        """Asks the server to load or unload a model, or whether it is ready: verbs "load", "unload", "is_ready"."""


class DeviceLost(RuntimeError):
    """The device cannot be used any more by this process (a device-side assert, an illegal access).

    A backend raises it out of `execute`; the worker fails what it holds and ends, so that a fresh one takes its place.
    """


class Launched(ABC):
    """A batch whose work is queued on a device."""

    @abstractmethod
    def is_over(self) -> bool:
        """Whether the device is done with it, so that `end` would not wait."""

    @abstractmethod
    def end(self) -> None:
        """Waits for the device and answers the requests that are open; raises as `execute` does. Called once."""


class Backend(ABC):
    """One loaded model instance. See the module's page for the order of calls. `host` is set before `load`.

    `durations` are nanoseconds of the batch that was ended last: preparing inputs, running the model, preparing outputs; zeros
    where the backend cannot tell them apart.
    """

    host: Host
    durations: tuple[int, int, int] = (0, 0, 0)

    @abstractmethod
    def load(self, model: ModelConfig, instance: Instance) -> None:
        """Loads the model and brings it to the device; raises with a sentence that names the file and the reason."""

    @abstractmethod
    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        """Runs one batch and answers each of its requests."""

    def begin(self, requests: Sequence[Request], respond: Respond) -> Launched | None:
        """Executes one batch, or queues it and returns what ends it.

        At most one batch that was begun earlier is not ended yet. They are ended in the order in which they were begun.
        """
        self.execute(requests, respond)
        return None

    def unload(self) -> None:  # noqa: B027 - optional hook
        """Releases what `load` took, where the end of the process does not."""
