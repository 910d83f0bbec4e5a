"""The server process from start to end: listeners, models, signals, draining.

Order of the start: sockets are opened (a busy port ends it before any model is loaded) and said, and what is to be loaded,
TorchServe's archives are registered, requests are taken, models load, each reported with one line as it becomes ready or fails,
then `Model server started.`.
Order of the end, on SIGTERM, SIGINT or SIGHUP (a terminal that closes): no new connections,
accepted requests are answered, workers end, status 0. A second SIGTERM or SIGINT, more than a second later, ends it at once.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import InvalidConfig, NothingAnswers, TooFewThreads
from .announcements import LoadReport, announce, say
from .assembly import make_metrics, make_repository, make_tokens, usable_gpus
from .http.app import Services
from .http.middleware.tokens import Tokens
from .ipc.io_context import IoContext
from .lifecycle.bls import BlsHost
from .lifecycle.control_plane import ControlPlane
from .lifecycle.front_ends import with_front_ends
from .lifecycle.management import Management
from .lifecycle.model_control import ModelControl
from .lifecycle.snapshot_writer import SnapshotWriter
from .lifecycle.startup import Begun, Planned, chosen, planned, preload, register, settle, tell_strays
from .process import gc_tuning, logs, sandbox, signals, threads
from .process.sandbox import WorkerLimits
from .process.signals import Signals
from .repository.torchserve.model_store import ModelStore
from .serving.dataplane import DataPlane
from .serving.deployment import Deployment, Options
from .serving.model_cache import ModelCache
from .serving.registry import Registry
from .serving.response_cache import ResponseCache
from .settings.problems import access_problems, start_problems
from .settings.settings import Settings
from .tracing.collector import collector_of
from .tracing.sampling import Tracing
from .tracing.settings import TraceSettings
from .web import Web
from .workers.roster import number_from

log = logging.getLogger(__name__)

STARTED = "Model server started."
#: Seconds between the end of draining and giving up on threads that should have ended.
LAST_SECONDS = 5.0
#: A signal that comes later than this after the first ends the server without draining.
INSISTING_SECONDS = 1.0


def run(settings: Settings, *, torchserve: bool = False) -> int:
    """Serves until a signal; the process's exit status. `torchserve`: log files as TorchServe writes them."""
    problems = start_problems(settings) + access_problems(settings)
    if why := sandbox.problem(settings.worker_sandbox):
        problems.append(f"worker_sandbox={settings.worker_sandbox}: {why}")
    if problems:
        raise InvalidConfig("; ".join(problems))
    folder = Path(settings.log_location) if torchserve else None
    options = logs.LogOptions(
        settings.log_format, settings.log_level, settings.log_file, settings.access_log == "terminal", settings.log_config
    )
    logs.configure(folder, Path(settings.metrics_location), options)
    for note in settings.notes:
        log.info("%s", note)
    for warning in settings.warnings:
        log.warning("%s", warning)
    sandbox.announce(WorkerLimits(settings.worker_max_memory, settings.worker_max_files, settings.worker_sandbox))
    try:
        with signals.received() as received:
            return Server(settings).serve(received)
    finally:
        logs.close()


def _again(received: Signals, began: float) -> bool:
    """Whether the operator insists: launchers often send the same signal twice at once, people do so after a while."""
    number = received.get_nowait()
    return number not in (None, signal.SIGHUP) and time.monotonic() - began > INSISTING_SECONDS


class Server:
    """Everything that one server process owns."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        number_from(settings.initial_worker_port)
        self.registry, self.io = Registry(), IoContext()
        self.models = ModelCache(settings.max_loaded_bytes)
        cache = ResponseCache(settings.cache_config) if settings.cache_config else None
        self.traces = TraceSettings(settings.trace_config)
        self.collector = collector_of(self.traces)
        self.metrics = make_metrics(settings, self.registry, cache, self.collector)
        self.dataplane = DataPlane(self.registry, strict_readiness=settings.strict_readiness)
        self.control = ControlPlane(self.registry)
        options = Options(
            shape_change=settings.shape_change,
            host=BlsHost(self.dataplane, self.control),
            on_event=self._event,
            cache=cache,
            io=self.io,
            gpus=usable_gpus(settings.number_of_gpu),
            models=self.models,
        )
        self._add_loaders(options)
        self.report = LoadReport(lambda: self.dataplane.stopping)
        self._tokens: Tokens | None = None
        self._cannot_serve: Exception | None = None
        self._opened = False
        self._opening = threading.Lock()

    def _add_loaders(self, options: Options) -> None:
        """What loads archives and a repository's models."""
        settings = self.settings
        self.store = ModelStore(settings)
        self.journal = SnapshotWriter(settings, self.registry)
        self.management = Management(
            self.registry, self.store, options, self._models_changed, settings.unregister_model_timeout
        )
        self.model_control: ModelControl | None = None
        self.repository = make_repository(settings, options.gpus)
        if self.repository is not None:
            self.model_control = ModelControl(
                self.registry, self.repository, self.dataplane, options, settings.model_control_mode
            )
        self.control.attach(archives=self.management, repository=self.model_control)

    def serve(self, received: Signals) -> int:
        """From opening the ports to the last worker's end. Raises what made it impossible to answer."""
        gc_tuning.return_large_memory()
        plan, names = planned(self.settings), chosen(self.model_control, self.settings)
        self.settings = with_front_ends(self.settings, plan, self.repository, names)
        self._tokens = make_tokens(self.settings)
        tracing = Tracing(self.collector.put) if self.collector is not None else Tracing()
        services = Services(
            self.dataplane, self.control, self.metrics, self.settings, self._tokens, self.io, tracing, self.traces
        )  # fmt: skip
        web = Web(services)
        try:
            announce(web, self.settings, [*(item.name for item in plan), *names])
            if self._tokens is not None:
                self._tokens.publish()
            with threads.needed("metrics"):
                self.metrics.start()
            loading = threading.Thread(target=self._load, args=(web, plan, names, received), name="load-models", daemon=True)
            threads.start(loading, "loading models")
            number = received.get()
            if number:
                log.info("%s: answering what was accepted, for at most %d s", signal.Signals(number).name, self._patience)
        finally:
            self._end(web, received)
        if self._cannot_serve is not None:
            raise self._cannot_serve
        return 1 if self.report.failed and self.settings.exit_on_error else 0

    def _event(self, deployment: Deployment, kind: str, payload: Mapping[str, Any]) -> None:
        if kind == "metric":
            self.metrics.event(deployment.config.name, deployment.config.version, payload)
        elif kind == "batch":
            self.metrics.torchserve.executed(deployment.config.name, payload["durations"], payload["request_ids"])
        elif kind == "workers":
            self.metrics.workers_changed(deployment)

    @property
    def _patience(self) -> int:
        return self.settings.exit_timeout_secs

    # -- start -----------------------------------------------------------------------------------------------------------

    def _load(self, web: Web, plan: Sequence[Planned], names: Sequence[str], received: Signals) -> None:
        """Loads the models, reporting each; then the server is started. Runs beside the main thread, which takes signals."""
        try:
            tell_strays(self.settings)
            begun = register(self.management, plan, self.report)
            self._open(web)
            self._wait(begun, names)
            web.wait_started()
        except Exception as error:
            if isinstance(error, NothingAnswers) or not self._opened:
                self._cannot_serve = error
                received.put(0)
                return
            log.exception("the models could not be loaded")
            self.report.failed += 1
        if self.dataplane.stopping:
            return
        if self.report.failed and self.settings.exit_on_error:
            log.error("%d models failed to load and --exit-on-error is true", self.report.failed)
            received.put(0)
            return
        self.dataplane.started = True
        if waiting := sum(deployment.on_demand for deployment in self.registry.deployments()):
            say(f"{waiting} model{'s are' if waiting > 1 else ' is'} loaded on demand.")
        gc_tuning.freeze_heap()
        say(STARTED)

    def _open(self, web: Web) -> None:
        """Takes requests from now on: every archive is registered, so none is answered "no such model" too early."""
        with self._opening:
            if not self.dataplane.stopping:
                web.start()
        self._opened = True
        self.journal.write("startup")

    def _wait(self, begun: Sequence[Begun], names: Sequence[str]) -> None:
        """Until every model is ready or has failed once: the archives' workers and the repository's models load together."""
        archives = threading.Thread(target=settle, args=(begun, self.report), name="settle-archives", daemon=True)
        with self.report.loading(len(names) + len(begun)):
            if begun:
                threads.start(archives, "loading archives")
            if self.model_control is not None:
                with threads.needed("loading models"):
                    preload(self.model_control, names, self.settings, self.report)
            if begun:
                archives.join()

    def _models_changed(self) -> None:
        self.journal.write("snapshot")

    # -- end -------------------------------------------------------------------------------------------------------------

    def _end(self, web: Web, received: Signals) -> None:
        with self._opening:
            self.dataplane.stopping = True
        self.control.close()
        self.journal.write("shutdown")
        web.stop_accepting()
        drained = threading.Thread(
            target=self._drain, args=(web, time.monotonic() + self._patience), name="drain", daemon=True
        )
        try:
            threads.start(drained, "answering what was accepted")
        except TooFewThreads as error:  # which may be why the server ends: nothing was accepted then
            log.warning("%s", error)
        began = time.monotonic()
        while drained.is_alive():
            drained.join(0.1)
            if _again(received, began):
                log.warning("a second signal: ending without waiting for accepted requests")
                break
        self.dataplane.close(0.0)
        self.models.join(LAST_SECONDS)
        if self.repository is not None:
            self.repository.close()
        self.store.close()
        self.metrics.close()
        if self.collector is not None:
            self.collector.close(LAST_SECONDS)
        if self._tokens is not None:
            self._tokens.remove_file()

    def _drain(self, web: Web, deadline: float) -> None:
        """Closes the listeners when their accepted requests are answered, then the models."""
        web.close(max(0.0, deadline - time.monotonic()))
        self.dataplane.close(max(LAST_SECONDS, deadline - time.monotonic()))
