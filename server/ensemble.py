"""Ensembles: models made of other models' inputs and outputs (Triton's `ensemble_scheduling`).

A request runs as a graph: every step starts as soon as the tensors it needs exist, through its own model's queue, so that each
step is batched with other requests' steps and independent steps run side by side. No thread waits: a step's answer continues
the graph on the thread that brought it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..backends.base import Request, Response
from ..backends.tensor import Tensor
from .call import Call
from .deployment import Deployment, OnAnswer, State
from .errors import Draining, JitneyError, ModelFailed, ModelNotReady, Unsupported
from .repository.config import ModelConfig


class Models(Protocol):
    """The other models, as an ensemble needs them; the data plane is one."""

    def step(self, model: str, version: str | None, request: Request, on_answer: OnAnswer) -> Call:
        """Queues a step's request; raises what is refused at once."""

    def model_ready(self, model: str, version: str | None = None) -> bool: ...


@dataclass(frozen=True)
class Step:
    """One step: which model, and how its tensors are named in the ensemble. `version` None = the served default."""

    model: str
    version: str | None
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def steps_of(config: ModelConfig) -> tuple[Step, ...]:
    """The steps of an ensemble's configuration, which the repository has checked."""
    return tuple(
        Step(
            step["model_name"],
            None if int(step.get("model_version", -1)) < 0 else str(step["model_version"]),
            dict(step.get("input_map", {})),
            dict(step.get("output_map", {})),
        )
        for step in (config.ensemble or {}).get("step", ())
    )


class Run:
    """One request on its way through the graph. Threads: those that bring steps' answers; the lock guards the graph's state."""

    def __init__(self, config: ModelConfig, steps: tuple[Step, ...], call: Call, models: Models) -> None:
        self.config, self.call, self.models = config, call, models
        self.waiting = list(steps)
        self.running = 0
        self.lock = threading.Lock()
        self.tensors = {tensor.name: tensor for tensor in call.request.tensors}

    def advance(self) -> None:
        """Starts every step whose tensors exist; answers the call when nothing is left to run."""
        with self.lock:
            ready = [step for step in self.waiting if all(name in self.tensors for name in step.inputs.values())]
            for step in ready:
                self.waiting.remove(step)
            self.running += len(ready)
            finished = not ready and self.running == 0
        if self.call.done:
            return
        if finished:
            self._finish()
        for step in ready:
            self._start(step)

    def _start(self, step: Step) -> None:
        source = self.call.request
        tensors = [_renamed(self.tensors[tensor], name) for name, tensor in step.inputs.items()]
        request = Request(source.id, tensors, parameters=source.parameters, outputs=tuple(step.outputs))
        try:
            self.models.step(step.model, step.version, request, lambda answer: self._answered(step, answer))
        except JitneyError as error:
            self._fail(error)

    def _answered(self, step: Step, answer: Response | JitneyError) -> None:
        if isinstance(answer, JitneyError):
            self._fail(answer)
            return
        given = {step.outputs[tensor.name]: tensor for tensor in answer.tensors if tensor.name in step.outputs}
        with self.lock:
            again = given.keys() & self.tensors.keys()
            self.tensors |= {name: _renamed(tensor, name) for name, tensor in given.items()}
            self.running -= int(answer.final)
        if again:
            self._fail(Unsupported(f"model '{step.model}' gave more than one response, which an ensemble cannot pass on"))
            return
        if answer.final:
            self.advance()

    def _fail(self, error: JitneyError) -> None:
        self.call.fail(error.within(f"in ensemble '{self.config.name}', "))

    def _finish(self) -> None:
        wanted = self.call.request.outputs or tuple(spec.name for spec in self.config.outputs)
        missing = [name for name in wanted if name not in self.tensors]
        if missing:
            self._fail(ModelFailed(f"no step answered with the tensors {missing}", "BAD_OUTPUT"))
            return
        parameters: dict[str, Any] = {"sequence_id": 0, "sequence_start": False, "sequence_end": False}
        self.call.answer(Response([self.tensors[name] for name in wanted], parameters=parameters))


class EnsembleDeployment(Deployment):
    """An ensemble being served: no workers of its own, only the graph. It is ready while the models of its steps are."""

    def __init__(self, config: ModelConfig, models: Models) -> None:
        super().__init__(config)
        self.models = models
        self.steps = steps_of(config)
        self._closing = False
        self.state = State.READY

    @property
    def ready(self) -> bool:
        return self.state is State.READY and all(self.models.model_ready(step.model, step.version) for step in self.steps)

    def refuse_if_hopeless(self) -> None:
        if self._closing:
            raise Draining(f"ensemble '{self.config.name}' is stopping and accepts no new requests")
        if self.state is State.UNAVAILABLE:
            raise ModelNotReady(self.config.name, self.config.version, self.reason)

    def submit(
        self,
        request: Request,
        *,
        priority: int = 0,
        timeout_us: int = 0,
        alone: bool = False,
        on_answer: OnAnswer | None = None,
    ) -> Call:
        self.refuse_if_hopeless()
        call = Call(request, self.config)
        call.batch_rows = request.rows
        call.times.dispatched = call.times.arrived

        def answered(answer: Response | JitneyError) -> None:
            call.times.compute_infer = call.times.answered - call.times.arrived
            self.statistics.batch(_OneCall([call]))
            (on_answer or call.deliver)(answer)

        call.on_answer = answered
        Run(self.config, self.steps, call, self.models).advance()
        return call

    def close(self, timeout: float, *, reason: str = "unloaded") -> None:
        self._closing = True
        self.state, self.reason = State.UNAVAILABLE, reason


@dataclass(frozen=True)
class _OneCall:
    """An execution as the statistics want it: Triton counts a request to an ensemble as one of its own."""

    calls: list[Call]


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name, tensor.datatype, tensor.shape, tensor.data)
