"""The server process from start to end: listeners, models, signals, draining.

Order of the start: sockets are opened (a busy port ends it before any model is loaded) and said, and what is to be loaded,
TorchServe's archives are registered, requests are taken, models load, each reported with one line as it becomes ready or fails,
then `Model server started.`.
Order of the end, on SIGTERM, SIGINT or SIGHUP (a terminal that closes): no new connections,
accepted requests are answered, workers end, status 0. A second SIGTERM or SIGINT, more than a second later, ends it at once.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import InvalidConfig, NothingAnswers, TooFewThreads
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
from .metrics import Metrics
from .process import gc_tuning, logs, progress, sandbox, signals, threads
from .process.cores import machine_gpus
from .process.sandbox import WorkerLimits
from .process.signals import Signals
from .repository.torchserve.model_store import ModelStore
from .repository.triton.limits import Limits
from .repository.triton.loading import Loading
from .repository.triton.repository import TritonRepository
from .serving.dataplane import DataPlane
from .serving.deployment import Deployment, Options
from .serving.model_cache import ModelCache
from .serving.registry import Registry
from .serving.response_cache import ResponseCache
from .settings.settings import Settings, access_problems, start_problems
from .tracing.collector import collector_of
from .tracing.sampling import Tracing
from .tracing.settings import TraceSettings
from .web import Web
from .workers.roster import number_from

log = logging.getLogger(__name__)

STARTED = "Model server started."
#: Seconds between the end of draining and giving up on threads that should have ended.
LAST_SECONDS = 5.0
#: Names of models that the line about what loads holds at most.
NAMED = 20
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


def usable_gpus(number: int | None) -> tuple[int, ...] | None:
    """The GPUs that `number_of_gpu` leaves, those with the lowest numbers (TorchServe); None = all that there are."""
    return None if number is None else machine_gpus()[:number] if number else ()


def _say(line: str) -> None:
    """Prints a line for the operator; serving does not depend on its being read."""
    with contextlib.suppress(OSError), progress.shown.above():
        print(f"{line}\n", end="", flush=True)  # in one piece: models that load together are reported at once


class Server:
    """Everything that one server process owns."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        number_from(settings.initial_worker_port)
        self.registry, self.io = Registry(), IoContext()
        self.models = ModelCache(settings.max_loaded_bytes)
        cache = ResponseCache(settings.cache_config) if settings.cache_config else None
        self.metrics = Metrics(
            self.registry.deployments,
            mode=settings.metrics_mode,
            config=settings.metrics_config,
            auto_detect=settings.model_metrics_auto_detect,
            system=not settings.disable_system_metrics,
            interval=settings.metric_time_interval,
            cache=cache,
        )
        self.traces = TraceSettings(settings.trace_config)
        self.collector = collector_of(self.traces)
        if self.collector is not None:
            self.metrics.more.append(self.collector.families)
            self.metrics.exemplars = self.collector.exemplars
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
        self.store = ModelStore(settings)
        self.journal = SnapshotWriter(settings, self.registry)
        self.management = Management(
            self.registry, self.store, options, self._models_changed, settings.unregister_model_timeout
        )
        self.repository: TritonRepository | None = None
        self.model_control: ModelControl | None = None
        if settings.model_repository:
            self.repository = TritonRepository(
                [Path(folder) for folder in settings.model_repository],
                auto_complete=not settings.disable_auto_complete_config,
                backend_config=settings.backend_config,
                backend_directory=Path(settings.backend_directory) if settings.backend_directory else None,
                config_name=settings.model_config_name,
                limits=Limits(max(0, settings.default_response_timeout), max(0, settings.repository_startup_timeout)),
                gpus=options.gpus,
                load=Loading(settings.default_load == "on_demand", settings.default_idle_timeout_s),
            )
            self.model_control = ModelControl(
                self.registry, self.repository, self.dataplane, options, settings.model_control_mode
            )
        self.control.attach(archives=self.management, repository=self.model_control)
        self.failed = self._told = self._planned = 0
        self._loading: progress.Task | None = None
        self._tokens: Tokens | None = None
        self._cannot_serve: Exception | None = None
        self._opened = False
        self._opening = threading.Lock()

    def serve(self, received: Signals) -> int:
        """From opening the ports to the last worker's end. Raises what made it impossible to answer."""
        gc_tuning.return_large_memory()
        plan, names = planned(self.settings), chosen(self.model_control, self.settings)
        self.settings = with_front_ends(self.settings, plan, self.repository, names)
        self._tokens = self._make_tokens()
        tracing = Tracing(self.collector.put) if self.collector is not None else Tracing()
        services = Services(
            self.dataplane, self.control, self.metrics, self.settings, self._tokens, self.io, tracing, self.traces
        )  # fmt: skip
        web = Web(services)
        try:
            self._announce(web, [*(item.name for item in plan), *names])
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
        return 1 if self.failed and self.settings.exit_on_error else 0

    def _make_tokens(self) -> Tokens | None:
        """The keys that requests need, where they need any (TorchServe's key_file.json, or JITNEY_TOKEN)."""
        settings = self.settings
        if not settings.token_auth:
            return None
        path = None if settings.token else Path.cwd() / "key_file.json"
        return Tokens(path, settings.token_expiration_min, fixed=settings.token)

    def _event(self, deployment: Deployment, kind: str, payload: Mapping[str, Any]) -> None:
        if kind == "metric":
            self.metrics.event(deployment.config.name, deployment.config.version, payload)

    @property
    def _patience(self) -> int:
        return self.settings.exit_timeout_secs

    # -- start -----------------------------------------------------------------------------------------------------------

    def _announce(self, web: Web, names: Sequence[str]) -> None:
        """Where the server listens, in TorchServe's words, and what it is about to load."""
        for port, address in web.addresses():
            _say(f"{port[0].upper()}{port[1:]} API bind to: {address}")
        if self.settings.status_page == "on" and (page := web.address("management")).scheme != "unix":
            _say(f"Status page: {page}/status")
        for at in web.grpc_addresses:
            _say(f"gRPC {'GRPCInferenceService' if at.service == 'triton' else at.service} bind to: {at}")
        if not (self.settings.is_local or self.settings.token_auth):
            _say("Requests need no token: every machine that reaches these ports can use the models.")
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        _say(f"Loading {', '.join(names[:NAMED])}{more}." if names else "No model is loaded at the start.")

    def _load(self, web: Web, plan: Sequence[Planned], names: Sequence[str], received: Signals) -> None:
        """Loads the models, reporting each; then the server is started. Runs beside the main thread, which takes signals."""
        try:
            tell_strays(self.settings)
            begun = register(self.management, plan, self._report)
            self._open(web)
            self._wait(begun, names)
            web.wait_started()
        except Exception as error:
            if isinstance(error, NothingAnswers) or not self._opened:
                self._cannot_serve = error
                received.put(0)
                return
            log.exception("the models could not be loaded")
            self.failed += 1
        if self.dataplane.stopping:
            return
        if self.failed and self.settings.exit_on_error:
            log.error("%d models failed to load and --exit-on-error is true", self.failed)
            received.put(0)
            return
        self.dataplane.started = True
        if waiting := sum(deployment.on_demand for deployment in self.registry.deployments()):
            _say(f"{waiting} model{'s are' if waiting > 1 else ' is'} loaded on demand.")
        gc_tuning.freeze_heap()
        _say(STARTED)

    def _open(self, web: Web) -> None:
        """Takes requests from now on: every archive is registered, so none is answered "no such model" too early."""
        with self._opening:
            if not self.dataplane.stopping:
                web.start()
        self._opened = True
        self.journal.write("startup")

    def _wait(self, begun: Sequence[Begun], names: Sequence[str]) -> None:
        """Until every model is ready or has failed once: the archives' workers and the repository's models load together."""
        archives = threading.Thread(target=settle, args=(begun, self._report), name="settle-archives", daemon=True)
        self._planned = len(names) + len(begun)
        with progress.shown.task("loading models") as self._loading:
            self._loading.update(0, self._planned)
            if begun:
                threads.start(archives, "loading archives")
            if self.model_control is not None:
                with threads.needed("loading models"):
                    preload(self.model_control, names, self.settings, self._report)
            if begun:
                archives.join()
        self._loading = None

    def _report(self, model: str, version: str, reason: str | None, seconds: float) -> None:
        """One line for each version that became ready or failed."""
        if self.dataplane.stopping:
            return
        name = f"{model} {version}".rstrip()
        self._told += 1
        if self._loading is not None:
            self._loading.update(self._told, max(self._told, self._planned))
        if reason is None:
            _say(f"{name}: ready after {seconds:.1f} s")
            return
        self.failed += 1
        _say(f"{name}: FAILED: {reason.strip()}")

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
