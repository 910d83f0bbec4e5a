"""`InferencePlane`: the one interface through which requests reach models, whichever process the dialect runs in."""

from __future__ import annotations

from typing import Protocol

from ...core.call import Call
from ...core.model_config import ModelConfig
from ...core.request import Request
from .deployment import OnAnswer


class InferencePlane(Protocol):
    """In the scheduler's process it is `dataplane.DataPlane`, in a front end `RemoteDataPlane`. Thread-safe.

    A refusal (InvalidTensor, QueueFull, ModelNotFound, …) is raised at once or comes as the call's answer.
    """

    @property
    def state(self) -> int:
        """A number that is another one whenever it has changed which models are served, or how."""

    def config(self, model: str, version: str | None = None) -> ModelConfig:
        """The configuration of a served version, the default one where none is named."""

    def refuse_if_full(self, model: str, version: str | None) -> None:
        """Raises QueueFull where it is known that the model's queue would refuse any request, before one is read."""

    def infer(
        self,
        model: str,
        version: str | None,
        request: Request,
        *,
        priority: int = 0,
        timeout_us: int = 0,
        on_answer: OnAnswer | None = None,
    ) -> Call:
        """Validates a request's tensors and queues it. `on_answer`: see `Call`; `timeout_us` 0 = the model's own limit."""

    def predict(self, model: str, version: str | None, request: Request, on_answer: OnAnswer | None = None) -> Call:
        """Queues a TorchServe-style request: as it is for a handler, through the model's codec (in this thread) otherwise."""
