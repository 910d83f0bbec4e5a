"""`RemoteDataPlane`: the data plane's verbs in a front end. It decodes and checks requests; queues and workers are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ....codecs import Codec
from ....codecs import create as create_codec
from ....core.call import Call
from ....core.errors import JitneyError, Unavailable
from ....core.model_config import ModelConfig
from ....core.request import Request, Response
from ...serving.validation import validate
from ..shared_counters import SharedCounters
from .scheduler_client import SchedulerClient, SubmitArgs

OnAnswer = Callable[[Response | JitneyError], None]
#: Names that are remembered, models that there are not among them.
MAX_KNOWN = 4096


@dataclass
class Known:
    """A version that served when the registry had changed `epoch` times."""

    config: ModelConfig
    epoch: int

    @cached_property
    def codec(self) -> Codec:
        return create_codec(self.config)


class RemoteDataPlane:
    """What the inference routes need of `dataplane.DataPlane`, with the same meaning. Thread-safe.

    A refusal may be raised at once or come as the call's answer.
    """

    def __init__(self, link: SchedulerClient, counters: SharedCounters) -> None:
        self._link, self._counters = link, counters
        self._known: tuple[int, dict[tuple[str, str | None], Known | JitneyError]] = (0, {})

    @property
    def state(self) -> int:
        """As the registry of the scheduler has it."""
        return self._counters.epoch("models")

    def config(self, model: str, version: str | None = None) -> ModelConfig:
        """The configuration of a served version."""
        return self._find(model, version).config

    def infer(
        self, model: str, version: str | None, request: Request, *, priority: int = 0, timeout_us: int = 0,
        on_answer: OnAnswer | None = None,
    ) -> Call:  # fmt: skip
        """Checks a request's tensors and sends it."""
        known = self._find(model, version)
        request.rows = validate(known.config, request)
        call = Call(request, known.config, on_answer=on_answer)
        self._link.submit(call, SubmitArgs("infer", model, version, request, priority, timeout_us), known.epoch)
        return call

    def refuse_if_full(self, model: str, version: str | None) -> None:
        """The scheduler alone knows its queues: it refuses when it gets the request."""

    def predict(self, model: str, version: str | None, request: Request, on_answer: OnAnswer | None = None) -> Call:
        """Sends a TorchServe-style request: as it is for a handler, through the model's codec (in this thread) otherwise."""
        known = self._find(model, version)
        submitted = SubmitArgs("predict", model, version, request)
        call = Call(request, known.config, on_answer=on_answer)
        epoch: int | None = known.epoch
        if known.config.backend == "handler":
            pass
        elif request.headers.get("explain") == "True":
            epoch = None  # another deployment answers, which the scheduler knows
        else:
            codec = known.codec
            tensors, call.encode = codec.read(request.parts, request.headers)
            call.request = Request(request.id, tensors, [], request.headers)
            call.request.rows = validate(codec.expects(tensors), call.request)
        self._link.submit(call, submitted, epoch)
        return call

    def _find(self, model: str, version: str | None) -> Known:
        epoch, known = self._known
        now = self._counters.epoch("models")
        if now != epoch:
            epoch, known = self._known = now, {}
        found = known.get((model, version))
        if found is None:
            found = self._ask(model, version, epoch)
            if len(known) >= MAX_KNOWN:
                known.clear()
            known[model, version] = found
        if isinstance(found, JitneyError):
            raise found.within("")  # a copy: several threads may raise it
        return found

    def _ask(self, model: str, version: str | None, epoch: int) -> Known | JitneyError:
        try:
            told = self._link.ask("config", model, *(() if version is None else (version,)))
        except Unavailable:
            raise
        except JitneyError as error:
            return error
        if told.config is None:
            raise Unavailable("the scheduler told nothing")
        return Known(told.config, epoch)
