"""The Python backend: Triton's `TritonPythonModel` in `model.py`, run unchanged.

A batch reaches `execute` as a list of separate requests, each with its own arrays (Triton does not concatenate them). The model
returns as many responses, or answers through response senders, at once or later (decoupled). Texts of errors are Triton's.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from .base import Backend, Failure, Instance, Request, Respond, Response

if TYPE_CHECKING:
    from ..server.repository.config import ModelConfig

COMPAT = Path(__file__).parent / "compat"


class PythonBackend(Backend):
    """One TritonPythonModel. Its main thread runs `execute`; response senders may be used from any thread."""

    model: Any

    def load(self, model: ModelConfig, instance: Instance) -> None:
        self.config, self.instance = model, instance
        module = load_module(Path(model.version_directory), model.filename or "model.py")
        self._connect(module)
        found = getattr(module, "TritonPythonModel", None)
        if not inspect.isclass(found):
            raise ValueError(f"{model.version_directory}/{model.filename}: expected a class TritonPythonModel")
        if not callable(getattr(found, "execute", None)):
            raise ValueError(f"{model.version_directory}/{model.filename}: TritonPythonModel has no method execute")
        self.model = found()
        self.loop = asyncio.new_event_loop() if inspect.iscoroutinefunction(self.model.execute) else None
        if hasattr(self.model, "initialize"):
            self.model.initialize(_arguments(model, instance))

    def _connect(self, module: ModuleType) -> None:
        """Ties `triton_python_backend_utils`, which the model imported or will import, to this worker."""
        self.utils = importlib.import_module("triton_python_backend_utils")
        worker = importlib.import_module("triton_python_backend_utils._worker")
        worker.connect(
            worker.Worker(self.host, self.config.name, self.config.version, str(Path(module.__file__ or "").parent))
        )

    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        answers = [_Answer(index, self, respond) for index in range(len(requests))]
        given = [
            self.utils.InferenceRequest.received(
                request, self._outputs(request), self.utils.InferenceResponseSender(answer.send, request.is_cancelled)
            )
            for request, answer in zip(requests, answers, strict=True)
        ]
        try:
            returned = self.model.execute(given)
            if self.loop is not None:
                returned = self.loop.run_until_complete(returned)
        except Exception as error:  # noqa: BLE001 - the model's own code may raise anything
            self._fail(answers, _described(error), traceback.format_exc())
            return
        self._answer(answers, returned)

    def _answer(self, answers: list[_Answer], returned: Any) -> None:
        """Takes what `execute` returned: a response for each request, None where a sender answers."""
        if returned is None:
            returned = [None] * len(answers)
        if not isinstance(returned, list):
            kind = type(returned).__name__
            self._fail(answers, f"Expected a list in the execute return, found type '{kind}'.\n", "")
            return
        if len(returned) != len(answers):
            text = "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            text += f"InferenceRequest(s) size is:{len(answers)}, and InferenceResponse(s) size is:{len(returned)}\n"
            self._fail(answers, text, "")
            return
        for answer, response in zip(answers, returned, strict=True):
            if response is None:
                answer.returned_nothing()
            elif not isinstance(response, self.utils.InferenceResponse):
                kind = type(response).__name__
                text = f"Expected an 'InferenceResponse' object in the execute return, found type '{kind}'.\n"
                self._fail([answer], text, "")
            else:
                answer.send(response, final=True)

    def _fail(self, answers: Sequence[_Answer], reason: str, detail: str) -> None:
        text = f"Failed to process the request(s) for model '{self.instance.name}', message: {reason}"
        for answer in answers:
            answer.fail(Failure(text, detail=detail))

    def _outputs(self, request: Request) -> list[str]:
        return list(request.outputs) or [spec.name for spec in self.config.outputs]

    def response(self, response: Any, final: bool) -> Response:
        """A model's InferenceResponse for the wire. Outputs that the config does not declare are dropped, as Triton does."""
        if response is None:
            return Response(parameters={"triton_final_response": True}, final=True)
        error = response.error()
        if error is not None:
            names: tuple[str, ...] = importlib.import_module("triton_python_backend_utils._errors").NAMES
            return Response(error=Failure(error.message(), names[error.code()], by_model=True), final=final)
        declared = {spec.name for spec in self.config.outputs}
        tensors = [tensor.to_wire() for tensor in response.output_tensors() if tensor.name() in declared or not declared]
        return Response(tensors, parameters=dict(response.scalars), final=final)

    def unload(self) -> None:
        if hasattr(self.model, "finalize"):
            self.model.finalize()
        if self.loop is not None:
            self.loop.close()


class _Answer:
    """One request's way back. A decoupled model's answers end with an empty final one; others have exactly one.

    Threads: `execute`'s and any that the model sends from; the lock keeps the order of one request's answers.
    """

    def __init__(self, index: int, backend: PythonBackend, respond: Respond) -> None:
        self.index, self.backend, self.respond = index, backend, respond
        self.lock = threading.Lock()
        self.sent = 0
        self.over = False

    def send(self, response: Any, final: bool) -> None:
        with self.lock:
            if self.backend.config.decoupled:
                self._put(self.backend.response(response, final))
            elif response is not None:
                if self.sent:
                    raise self.backend.utils.TritonModelException(
                        "a model that is not decoupled sends one response to a request"
                    )
                self._put(self.backend.response(response, final=True))
            elif not self.sent:
                self._put(Response(error=Failure("the model ended the request without a response", "BAD_OUTPUT")))

    def returned_nothing(self) -> None:
        """`execute` gave None for this request: its sender answers, now or later, if the model took it to be one."""
        with self.lock:
            if self.over or self.backend.config.decoupled:
                return
            text = "the model returned None for a request that it had not answered through its response sender"
            self._put(Response(error=Failure(text, "BAD_OUTPUT")))

    def fail(self, failure: Failure) -> None:
        with self.lock:
            self._put(Response(error=failure))

    def _put(self, response: Response) -> None:
        if self.over:
            return
        self.sent += 1
        self.over = response.final
        self.respond(self.index, response)


def load_module(version_directory: Path, filename: str) -> ModuleType:
    """Imports a model's file as Triton does, as `<version>.<file>`, with its folders and pb_utils importable."""
    for folder in (COMPAT, version_directory.parent, version_directory):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    return importlib.import_module(f"{version_directory.name}.{Path(filename).stem}")


def _arguments(model: ModelConfig, instance: Instance) -> dict[str, str]:
    """What `initialize` is given: strings only (Triton)."""
    return {
        "model_config": json.dumps(model.config_json, separators=(",", ":")),
        "model_instance_kind": "GPU" if instance.gpu is not None else instance.kind.removeprefix("KIND_"),
        "model_instance_name": instance.name,
        "model_instance_device_id": str(instance.gpu or 0),
        "model_repository": model.directory,
        "model_version": model.version,
        "model_name": model.name,
    }


def _described(error: BaseException) -> str:
    """An exception as Triton's stub words it: type, text, and the frames of the model's own code, innermost first."""
    frames = _own_frames(error.__traceback__)
    lines = "".join(f"  {frame.filename}({frame.lineno}): {frame.name}\n" for frame in reversed(frames))
    return f"{type(error).__name__}: {error}\n\nAt:\n{lines}"


def _own_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(trace) if frame.filename != __file__ and "asyncio" not in frame.filename]
