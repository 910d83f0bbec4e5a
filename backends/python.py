"""The Python backend: Triton's `TritonPythonModel` in `model.py`, run unchanged.

A batch reaches `execute` as a list of separate requests, each with its own arrays (Triton does not concatenate them). The model
returns as many responses, or answers through response senders, at once or later. Texts of errors are Triton's.

A model that is not decoupled and returned None for a request whose sender it took may answer from another thread: the batch
lasts until it did. A request that the model let go without its final response ends with an error (in Triton it hangs).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import inspect
import json
import logging
import queue
import sys
import sysconfig
import threading
import traceback
from collections.abc import Coroutine, Sequence
from pathlib import Path, PurePosixPath
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

from ..core.request import Failure, Instance, Request, Respond
from . import cuda_context
from .base import Backend, DeviceLost
from .python_answer import Answer
from .telling import sendable, text_of, trace_of
from .warmup import run_entries

if TYPE_CHECKING:
    from ..core.model_config import ModelConfig

COMPAT = Path(__file__).parent / "compat"

#: Folders whose frames say nothing about the model: ours, and those of `async def execute`.
_MACHINERY = tuple(f"{Path(file).parent}/" for file in (__file__, asyncio.__file__, concurrent.futures.__file__))
_log = logging.getLogger(__name__)


class PythonBackend(Backend):
    """One TritonPythonModel. The main thread runs `execute`, response senders may be used from any thread.

    An `async def execute` runs on an event loop that stays for the model's life: on the main thread, or on a thread of its
    own where the model is decoupled: then nobody waits for it, and the next `execute` begins meanwhile (Triton).
    """

    model: Any

    def load(self, model: ModelConfig, instance: Instance) -> None:
        self.config, self.instance = model, instance
        self._outputs = tuple(spec.name for spec in model.outputs)
        self.declared = frozenset(self._outputs)
        self.dropped: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._failed = self._executing = False
        self._connect()
        file = Path(model.version_directory, model.filename or "model.py")
        found = getattr(load_module(Path(model.version_directory), model.filename), "TritonPythonModel", None)
        if not inspect.isclass(found):
            raise ValueError(f"{file}: expected a class TritonPythonModel")
        if not callable(getattr(found, "execute", None)):
            raise ValueError(f"{file}: TritonPythonModel has no method execute")
        self.model = found()
        self.runner: asyncio.Runner | LoopThread | None = None
        if inspect.iscoroutinefunction(self.model.execute):
            self.runner = LoopThread() if model.decoupled else asyncio.Runner()
        threading.Thread(target=self._end_dropped, name="dropped-requests", daemon=True).start()
        if hasattr(self.model, "initialize"):
            self.model.initialize(_arguments(model, instance))
        run_entries(self, model)

    def _connect(self) -> None:
        """Ties `triton_python_backend_utils`, which the model will import, to this worker."""
        _make_importable(COMPAT)
        self.utils = importlib.import_module("triton_python_backend_utils")
        worker = importlib.import_module("triton_python_backend_utils._worker")
        config = self.config
        worker.connect(worker.Worker(self.host, config.name, config.version, config.version_directory))

    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        self._executing = True
        try:
            self._execute(requests, respond)
        finally:
            self._executing = False
        self._refuse_lost_device()

    def _execute(self, requests: Sequence[Request], respond: Respond) -> None:
        declared = self.declared
        answers = [
            Answer(index, frozenset(request.outputs) if request.outputs else declared, self, respond)
            for index, request in enumerate(requests)
        ]
        given: list[Any] = []  # held until they are answered: a request that the model lets go counts as dropped
        try:
            returned = self._run(requests, answers, given)
            if isinstance(self.runner, LoopThread):
                self.runner.begin(self._answer_later(answers, given, returned))
                return
            self._answer(answers, returned if self.runner is None else self.runner.run(returned))
        except BaseException as error:  # noqa: BLE001 - the model's own code may raise anything, and call sys.exit()
            self._fail(answers, _described(error), trace_of(error))
        given.clear()
        if not self.config.decoupled:
            for answer in answers:
                answer.wait()

    def failed(self) -> None:
        """The model, or its failing, has answered a request with an error; any thread. Models catch what CUDA raises, so any
        error is a reason to ask whether there is a working GPU context left: at the end of `execute`, or now where none runs."""
        self._failed = True
        if not self._executing:
            try:
                self._refuse_lost_device()
            except DeviceLost as error:
                self.host.lose(error)

    def _refuse_lost_device(self) -> None:
        if not self._failed:
            return
        self._failed = False
        if lost := cuda_context.lost():
            raise DeviceLost(f"model '{self.config.name}' lost its device: {lost}")

    def _run(self, requests: Sequence[Request], answers: Sequence[Answer], given: list[Any]) -> Any:
        received = self.utils.InferenceRequest.received
        given += [
            received(request, request.outputs or self._outputs, answer.handle())
            for request, answer in zip(requests, answers, strict=True)
        ]
        return self.model.execute(list(given))

    async def _answer_later(self, answers: Sequence[Answer], given: list[Any], coroutine: Coroutine[Any, Any, Any]) -> None:
        """Waits, in the loop, for a coroutine that nobody else waits for."""
        try:
            self._answer(answers, await coroutine)
        except BaseException as error:  # noqa: BLE001 - as in `execute`; SystemExit would end the loop
            self._fail(answers, _described(error), trace_of(error))
        given.clear()

    def _answer(self, answers: Sequence[Answer], returned: Any) -> None:
        """Takes what `execute` returned: a response for each request, None where a sender answers."""
        if returned is None:
            returned = [None] * len(answers)
        elif self.config.decoupled:
            text = f"Python model '{self.instance.name}' is using the decoupled mode and the execute function must return None.\n"
            self._fail(answers, text, "")
            return
        if not isinstance(returned, list):
            self._fail(answers, f"Expected a list in the execute return, found type '{type(returned)}'.", "")
            return
        if len(returned) != len(answers):
            text = "Number of InferenceResponse objects do not match the number of InferenceRequest objects. "
            text += f"InferenceRequest(s) size is:{len(answers)}, and InferenceResponse(s) size is:{len(returned)}\n"
            self._fail(answers, text, "")
            return
        for answer, response in zip(answers, returned, strict=True):
            self._take(answer, response)

    def _take(self, answer: Answer, response: Any) -> None:
        if response is None:
            answer.returned_nothing()
        elif not isinstance(response, self.utils.InferenceResponse):
            text = "Expected an 'InferenceResponse' object in the execute function return list, found type "
            self._fail([answer], f"{text}'{type(response)}'.", "")
        elif answer.over:
            _log.warning("%s: a request was answered by its sender and by execute; the first counts", self.instance.name)
        else:
            answer.send(response, final=True)

    def _fail(self, answers: Sequence[Answer], reason: str, detail: str) -> None:
        """Fails the requests that are open; the traceback is logged once."""
        text = f"Failed to process the request(s) for model '{self.instance.name}', message: {reason}"
        for answer in answers:
            if answer.fail(Failure(text, detail=detail)):
                detail = ""

    def _end_dropped(self) -> None:
        while (answer := self.dropped.get()) is not None:
            answer.abandoned()

    def unload(self) -> None:
        try:
            if hasattr(self.model, "finalize"):
                self.model.finalize()
        finally:
            self.dropped.put(None)
            if self.runner is not None:
                self.runner.close()


class LoopThread:
    """An event loop on a thread of its own, for coroutines that nobody waits for."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model-loop", daemon=True)
        self._thread.start()

    def begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begins to run the coroutine, which must not raise; any other thread."""
        asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def load_module(version_directory: Path, filename: str = "") -> ModuleType:
    """Imports a model's file as Triton does, as `<version>.<file>`, with its folders and pb_utils importable.

    An absolute `filename` is the file of a Python-based backend: it is imported by its own name, with its folder importable and
    the version's behind it.
    """
    file = PurePosixPath(filename or "model.py")
    if file.is_absolute():
        folders, module = (COMPAT, Path(file).parent, version_directory), file.stem
    else:
        folders = (COMPAT, version_directory.parent, version_directory)
        module = ".".join((version_directory.name, *file.with_suffix("").parts))
    for folder in folders:
        _make_importable(folder)
    sys.dont_write_bytecode = True  # the repository is the operator's, and a stale .pyc would hide a quick second edit
    if not (version_directory / file).is_file():
        raise FileNotFoundError(f"{version_directory / file} does not exist: a Python model needs its class there")
    return importlib.import_module(module)


def _make_importable(folder: Path) -> None:
    """Before the installed packages, so that a model's `utils.py` is its own, and behind Python's, which it cannot hide."""
    if str(folder) in sys.path:
        return
    installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    place = next((at for at, entry in enumerate(sys.path) if entry in installed), len(sys.path))
    sys.path.insert(place, str(folder))


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
    return f"{type(error).__name__}: {text_of(error) or '<EMPTY MESSAGE>'}\n\nAt:\n{sendable(lines)}"


def _own_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    return [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(_MACHINERY)]
