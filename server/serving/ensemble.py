"""Ensembles: models made of other models' inputs and outputs (Triton's `ensemble_scheduling`).

A request runs as a graph: every step starts as soon as the tensors it needs exist, through its own model's queue, so that each
step is batched with other requests' steps and independent steps run side by side. No thread waits: a step's answer continues
the graph on the thread that brought it.

A large tensor between steps stays in shared memory: the worker's reader copies it into the arena of the last step that takes
it (`Run._place`), whose `submit` takes the slot over. Steps that take it before copy it from there. A slot that no step took,
because the run failed or a model was replaced, is freed when no step runs any more: until then readers may be writing.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from ...codecs.base import Encode
from ...core.call import Call, Target, failed
from ...core.errors import Draining, JitneyError, ModelFailed, ModelNotReady, Unsupported
from ...core.model_config import ModelConfig
from ...core.request import FINAL_MARK, Request, Response
from ...core.tensor import Buffer, Tensor
from ..ipc.arena import Arena
from ..process.log_format import about
from .deployment import Deployment, MakeRequest, ModelState, OnAnswer
from .ensemble_flow import Flowing, Membership, Step, entering, for_step, leaving, needed

log = logging.getLogger(__name__)


class Models(Protocol):
    """The other models, as an ensemble needs them; the data plane is one."""

    def step(self, model: str, version: str | None, make: MakeRequest, on_answer: OnAnswer, target: Target) -> Call:
        """Queues a step's request; raises what is refused at once. `make` may be called again for a successor."""

    def arena(self, model: str, version: str | None) -> Arena | None:
        """Where the model's inputs go; None where it has no workers, or does not serve."""

    def model_ready(self, model: str, version: str | None = None) -> bool: ...


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


@dataclass(slots=True)
class _Started:
    """A step under way: what its request is, for the tensors that come of it."""

    step: Step
    rows: int = 0
    membership: Membership = field(default_factory=Membership)


class Run:
    """One request on its way through the graph. Threads: those that bring steps' answers; the lock guards the graph's state."""

    def __init__(self, config: ModelConfig, steps: tuple[Step, ...], call: Call, models: Models) -> None:
        self.config, self.call, self.models = config, call, models
        self.wanted = call.request.outputs or tuple(spec.name for spec in config.outputs)
        self.waiting = needed(steps, self.wanted) if call.request.outputs else list(steps)
        self.unsent = list(self.waiting)  # those whose models have not yet taken their tensors
        self.running = 0
        self.over = False
        self.lock = threading.Lock()
        self.membership = Membership.of_request(call.request)
        self.tensors = entering(config, call.request)
        self.placed: dict[str, tuple[Arena, memoryview]] = {}
        self.parts: list[Call] = []
        call.parts, call.steps = self.parts, []

    def advance(self) -> None:
        """Starts every step whose tensors exist or are known to be left out; answers the call when nothing is left to run."""
        with self.lock:
            waiting = [] if self.call.done else self.waiting
            ready = [step for step in waiting if all(name in self.tensors for name in step.inputs.values())]
            for step in ready:
                self.waiting.remove(step)
            self.running += len(ready)
            self.over = not ready and self.running == 0
        if self.over:
            self._finish()
        for step in ready:
            self._start(_Started(step))

    def _start(self, started: _Started) -> None:
        step = started.step
        make, answered, place = partial(self._request, started), partial(self._answered, started), partial(self._place, step)
        try:
            part = self.models.step(step.model, step.version, make, answered, place)
        except JitneyError as error:
            self._answered(started, error)
        except Exception as error:  # else the call would never be answered
            log.exception("ensemble '%s'", self.config.name, extra=about(self.call.request.id))
            self._answered(started, ModelFailed(f"{type(error).__name__}: {error}"))
        else:
            with self.lock:
                self.unsent.remove(step)
                self.parts.append(part)
                self._note(part)
                self._forget_done()

    def _request(self, started: _Started, deployment: Deployment) -> Request:
        """The step's request; an input that was left out is left out here too, whose model says whether it may be (Triton)."""
        source, step, tensors = self.call.request, started.step, []
        for given, name in step.inputs.items():
            tensor = for_step(self.tensors[name], given, deployment.config)
            if tensor is not None:
                tensor.data = self._data(name, tensor.data, step, deployment)
                tensors.append(tensor)
        started.rows = next((t.shape[0] for t in tensors if t.shape), 1) if deployment.config.batches else 0
        said = (self.tensors[name].membership for name in step.inputs.values())
        started.membership = next((found for found in said if found is not None), self.membership)
        parameters = started.membership.for_request(source.parameters)
        return Request(source.id, tensors, parameters=parameters, outputs=tuple(step.outputs))

    def _data(self, name: str, data: Buffer, step: Step, deployment: Deployment) -> Buffer:
        """A tensor's bytes for a step: where they were placed, only the last step to take them may take the slot over."""
        if name not in self.placed:
            return data
        if deployment.arena is None:  # it may need them for longer than the slot lasts
            return bytes(data)
        with self.lock:
            last = not any(name in other.inputs.values() for other in self.unsent if other is not step)
        return data if last else memoryview(data)  # another view is copied

    def _place(self, step: Step, output: str, nbytes: int) -> memoryview | None:
        """Where a step's output is to be copied to (`Call.target`); None for what others than steps want too."""
        name = step.outputs.get(output)
        with self.lock:
            takers = [other for other in self.unsent if name in other.inputs.values()]
        if name is None or not takers or name in self.wanted:
            return None
        arena = self.models.arena(takers[-1].model, takers[-1].version)  # the last: steps start in this order
        with self.lock:
            if arena is None or self.over or name in self.tensors or name in self.placed:
                return None
            view = arena.place(nbytes)
            if view is not None:
                self.placed[name] = arena, view
            return view

    def _answered(self, started: _Started, answer: Response | JitneyError) -> None:
        step = started.step
        try:
            if isinstance(answer, JitneyError):
                raise answer
            if answer.error is not None:
                raise failed(answer.error)
            given = self._given(started, answer)
        except JitneyError as error:
            self._fail(error)
            with self.lock:
                self.running -= int(isinstance(answer, JitneyError) or answer.final)
            self.advance()
            return
        with self.lock:
            again = given.keys() & self.tensors.keys()
            self.tensors |= given
            if answer.final:
                absent = [name for name in step.outputs.values() if name not in self.tensors]
                self.tensors |= {name: Flowing(None, started.rows, started.membership) for name in absent}
            self.running -= int(answer.final)
            self._forget_done()
        if again:
            self._fail(Unsupported(f"model '{step.model}' gave more than one response, which an ensemble cannot pass on"))
        if answer.final:
            self.advance()

    def _given(self, started: _Started, answer: Response) -> dict[str, Flowing]:
        """The tensors of a step's response under their names in the ensemble."""
        step, membership = started.step, started.membership.of_response(answer, started.step.model)
        names = step.outputs
        return {
            names[tensor.name]: Flowing(_renamed(tensor, names[tensor.name]), started.rows, membership)
            for tensor in answer.tensors
            if tensor.name in names
        }

    def _note(self, part: Call) -> None:
        """Keeps a step's times for longer than its call."""
        if self.call.steps is not None and part.config is not None:
            self.call.steps.append((part.config.name, part.config.version, part.times))

    def _forget_done(self) -> None:
        """Lets go of the steps' calls that are over, and of their tensors; with the lock held."""
        self.parts[:] = [part for part in self.parts if not part.done]

    def _fail(self, error: JitneyError) -> None:
        self.call.fail(error.within(f"in ensemble '{self.config.name}', "))

    def _finish(self) -> None:
        """No step runs, and none can: gives placed memory back that was not taken, and answers the call unless it is over."""
        for arena, view in self.placed.values():
            arena.reclaim(view)
        if self.call.done:
            return
        if missing := [name for name in self.wanted if name not in self.tensors]:
            self._fail(ModelFailed(f"no step answered with the tensors {missing}", "BAD_OUTPUT"))
            return
        found = [self.tensors[name] for name in self.wanted]
        rows = self.call.request.rows if self.config.batches else 0
        tensors = [leaving(self.config, name, each, rows) for name, each in zip(self.wanted, found, strict=True)]
        membership = next((each.membership for each in found if each.tensor and each.membership), self.membership)
        given = [tensor for tensor in tensors if tensor is not None]
        silent = self.config.decoupled and not given
        self.call.answer(Response(given, parameters={FINAL_MARK: True} if silent else membership.for_response()))


class EnsembleDeployment(Deployment):
    """An ensemble being served: no workers of its own, only the graph. It is ready while the models of its steps are."""

    def __init__(self, config: ModelConfig, models: Models) -> None:
        super().__init__(config)
        self.models = models
        self.steps = steps_of(config)
        self._closing = False
        self.state = ModelState.READY

    @property
    def ready(self) -> bool:
        return self.state is ModelState.READY and all(
            self.models.model_ready(step.model, step.version) for step in self.steps
        )

    def refuse_without_workers(self) -> None:
        if self._closing:
            raise Draining(f"ensemble '{self.config.name}' is stopping and accepts no new requests")
        if self.state is ModelState.UNAVAILABLE:
            raise ModelNotReady(self.config.name, self.config.version, self.reason)

    def submit(
        self,
        request: Request,
        *,
        priority: int = 0,
        timeout_us: int = 0,
        alone: bool = False,
        on_answer: OnAnswer | None = None,
        target: Target | None = None,
        encode: Encode | None = None,
    ) -> Call:
        self.refuse_without_workers()
        call = Call(request, self.config)
        call.encode = encode
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
        self.state, self.reason = ModelState.UNAVAILABLE, reason


@dataclass(frozen=True)
class _OneCall:
    """An execution as the statistics want it: Triton counts a request to an ensemble as one of its own."""

    calls: list[Call]


def _renamed(tensor: Tensor, name: str) -> Tensor:
    return Tensor(name, tensor.datatype, tensor.shape, tensor.data)
