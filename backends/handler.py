"""`HandlerBackend`: runs TorchServe handlers, whole and unchanged, in the worker process.

A handler gets a list with one dict for each request and returns a list with one element for each (see `handler_data`); it
imports `ts`, which is our package in `compat`. Beyond TorchServe:

* an element of the returned list that is an exception (PredictionException with its status) fails that request alone, and
  so does an element that cannot be sent;
* a batch that raises is tried again request by request, so that only the bad ones fail. Handlers with side effects switch
  it off: `handler: {retry_failed_batch: false}` in model-config.yaml;
* explanations are handled one by one: TorchServe explains the first request's class for the whole batch.

With `asyncCommunication` each request is a task of one event loop, on a thread of its own, and `execute` waits for none of them;
with `continuousBatching` the handler lives on a thread of its own, which asks it in rounds (see `continuous`).
"""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from PIL import Image

from ..core.request import Instance, Request, Respond
from . import cuda_context
from . import handler_data as data
from .base import Backend, DeviceLost
from .continuous import Rounds
from .handler_loader import COMPAT, find_entry, find_envelope, prepare_imports
from .handler_run import Run, groups

if TYPE_CHECKING:
    from ..core.model_config import HandlerSpec, ModelConfig

logger = logging.getLogger(__name__)


class HandlerBackend(Backend):
    """One handler. See the module's page."""

    def load(self, model: ModelConfig, instance: Instance) -> None:
        """Imports the handler with the archive's folder as working directory and initializes it."""
        if model.handler is None:
            raise ValueError(f"model '{model.name}' has backend 'handler' and no handler")
        self._model, self._spec = model, model.handler
        _refuse_unsupported(model.name, self._spec)
        self._retry = _retries(self._spec.yaml)
        self._concurrent = bool(self._spec.yaml.get("asyncCommunication"))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None  # that runs the loop, for concurrent requests
        self._tasks: set[asyncio.Task[None]] = set()  # a loop keeps weak references only
        self._rounds = Rounds(self._handle_batch, self._lose) if model.continuous else None
        self._answering = False  # a metric that is emitted now has answers behind it
        if self._rounds is None:
            self._load(instance)
        else:
            self._rounds.begin(self._load, instance)

    def _load(self, instance: Instance) -> Any:
        """Imports and initializes the handler; returns its context."""
        model = self._model
        directory = str(Path(model.version_directory or model.directory).resolve())
        prepare_imports(directory)
        os.chdir(directory)
        if not self._spec.limit_max_image_pixels:
            Image.MAX_IMAGE_PIXELS = None
        self._context = self._make_context(directory, instance)
        self._processor = importlib.import_module("ts.context").RequestProcessor
        entry = find_entry(directory, self._spec.entry)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(max(instance.threads, 1))
        self._handle = find_envelope(self._spec.envelope, entry.handle)
        self._finished(entry.initialize(self._context))
        if self._concurrent:
            self._start_loop()
        return self._context

    def _make_context(self, directory: str, instance: Instance) -> Any:
        spec, name = self._spec, self._model.name
        importlib.import_module("ts.metrics.sink").connect(
            lambda metric: self.host.emit("metric", {"source": "handler", **metric}, self._answering)
        )
        return importlib.import_module("ts.context").Context(
            name,
            directory,
            copy.deepcopy(dict(spec.manifest)) or None,
            max(self._model.max_batch_size, 1),
            instance.gpu,
            importlib.import_module("ts").__version__,
            spec.limit_max_image_pixels,
            _metrics(name, spec),
            _model_yaml(directory, spec),
        )

    def unload(self) -> None:
        if self._rounds is not None:
            self._rounds.close()
        if self._loop is None:
            return
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    # -- batches ---------------------------------------------------------------------------------------------------------

    def execute(self, requests: Sequence[Request], respond: Respond) -> None:
        """Handles predictions together and explanations one by one; with `asyncCommunication` each begins at once, with
        `continuousBatching` each joins the next round."""
        if self._rounds is not None:
            self._rounds.add(requests, respond)
            return
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._begin, requests, respond)
            return
        for indices in groups(requests):
            self._handle_batch(Run(requests, indices, respond))

    def _handle_batch(self, run: Run) -> None:
        context = self._context
        self._enter(context, run)
        start = time.perf_counter()
        try:
            result = self._finished(self._handle(run.rows(self._spec.decode_input_request), context))
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is told to its clients
            self._failed(run, error)
            return
        finally:
            context._send = None
        self._add_time(context, time.perf_counter() - start)
        run.deliver(result)
        self._refuse_lost_device(run)

    def _add_time(self, context: Any, seconds: float) -> None:
        self._answering = True
        try:
            context.metrics.add_time("PredictionTime", round(seconds * 1000, 2), None, "ms")
        finally:
            self._answering = False

    def _failed(self, run: Run, error: BaseException) -> None:
        lost = cuda_context.lost()
        may = self._retry and run.repeatable and not run.streamed
        again = may and len(run.indices) > 1 and not data.is_out_of_resources(error)
        if again and not lost:
            logger.warning("a batch of %d failed and is tried request by request: %r", len(run.indices), error)
            for index in run.indices:
                self._handle_batch(Run(run.requests, [index], run.respond))
            return
        run.fail(data.failure_of(error))
        if lost:
            raise DeviceLost(f"model '{self._model.name}' lost its device: {lost}") from error

    def _refuse_lost_device(self, run: Run) -> None:
        """DeviceLost where the handler answered with exceptions and has no working GPU context any more."""
        if run.failed and (lost := cuda_context.lost()):
            raise DeviceLost(f"model '{self._model.name}' lost its device: {lost}")

    def _lose(self, error: DeviceLost) -> NoReturn:
        self.host.lose(error)

    def _enter(self, context: Any, run: Run) -> None:
        """Shows the requests of this run in the context."""
        context.request_ids = {at: run.requests[index].id or str(uuid.uuid4()) for at, index in enumerate(run.indices)}
        run.processors = [self._processor(partial(data.headers_of, run.requests[index])) for index in run.indices]
        context.request_processor = run.processors
        context.metrics.set_request_ids(context.request_ids)
        context._send = run.send

    # -- coroutines ------------------------------------------------------------------------------------------------------

    def _finished(self, result: Any) -> Any:
        """The result itself, or of the coroutine that it is, run in this worker's one event loop."""
        if not inspect.isawaitable(result):
            return result
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(_await(result))

    def _start_loop(self) -> None:
        """Runs the event loop, on which the handler was initialized, on a thread of its own from now on."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="handler-loop", daemon=True)
        self._thread.start()

    def _begin(self, requests: Sequence[Request], respond: Respond) -> None:
        """Makes a task of each request; in the loop."""
        for index in range(len(requests)):
            task = asyncio.ensure_future(self._handle_alone(Run(requests, [index], respond)))
            self._tasks.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        """A request's task ended: with its answer, or because the device is lost."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, DeviceLost):
            self.host.lose(error)
        elif error is not None:
            logger.error("a request's task failed", exc_info=error)

    async def _handle_alone(self, run: Run) -> None:
        context = copy.copy(self._context)
        context.metrics = copy.copy(context.metrics)
        self._enter(context, run)
        try:
            result = self._handle(run.rows(self._spec.decode_input_request), context)
            run.deliver(await result if inspect.isawaitable(result) else result)
            self._refuse_lost_device(run)
        except DeviceLost:
            raise
        except BaseException as error:  # noqa: BLE001 - as in _handle_batch; SystemExit would end the loop, with all requests
            self._failed(run, error)


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _refuse_unsupported(name: str, spec: HandlerSpec) -> None:
    asked = [key for key in ("asyncCommunication", "continuousBatching") if spec.yaml.get(key)]
    if len(asked) > 1:
        raise ValueError(f"model '{name}': model-config.yaml asks for {' and '.join(asked)}, which cannot be combined")
    if spec.envelope and asked:
        raise ValueError(f"model '{name}': service envelope '{spec.envelope}' cannot be combined with {asked[0]}")


def _retries(yaml: Mapping[str, Any]) -> bool:
    section = yaml.get("handler")
    return bool(section.get("retry_failed_batch", True)) if isinstance(section, Mapping) else True


def _model_yaml(directory: str, spec: HandlerSpec) -> dict[str, Any]:
    """The archive's `model-config.yaml` as TorchServe's workers read it: from the file, whose dates, sets and large numbers no
    message from the server carries. What the server passed over, such as a configFile that is no YAML, is {}."""
    name = dict(spec.manifest.get("model") or {}).get("configFile")
    if not spec.yaml or not name:
        return copy.deepcopy(dict(spec.yaml))
    import yaml

    found: dict[str, Any] = yaml.safe_load((Path(directory) / name).read_bytes())
    return found


def _metrics(name: str, spec: HandlerSpec) -> Any:
    """`context.metrics` with what metrics.yaml declares, or what `ts` declares itself. While the handler loads there is no
    request; like TorchServe's loader this gives its metrics an id of their own."""
    path = spec.metrics_config or str(COMPAT / "ts/configs/metrics.yaml")
    cache = importlib.import_module("ts.metrics.metric_cache_yaml_impl").MetricsCacheYamlImpl(path)
    cache.initialize_cache()
    cache.model_name = name
    cache.set_request_ids(str(uuid.uuid4()))
    return cache
