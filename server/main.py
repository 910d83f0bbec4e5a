"""The server process from start to end: listeners, models, signals, draining.

Order of the start: sockets are opened (a busy port ends it before any model is loaded), TorchServe's archives are registered,
requests are taken, models load, each reported with one line as it becomes ready or fails, then `Model server started.`.
Order of the end, on SIGTERM or SIGINT: no new connections,
accepted requests are answered, workers end, status 0. A second signal, more than a second later, ends it at once.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from . import garbage, logs
from .cache import ResponseCache
from .dataplane import DataPlane
from .deployment import Deployment, Options
from .errors import InvalidConfig
from .http.app import Services, Web
from .http.tokens import Tokens
from .journal import Journal
from .management import Management
from .metrics import Metrics
from .modelcontrol import ModelControl
from .registry import Registry
from .repository.store import ModelStore
from .repository.triton import TritonRepository
from .scripting import Scripting
from .settings import Settings, access_problems, start_problems
from .startup import Begun, Planned, planned, preload, register, settle
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
    if problems:
        raise InvalidConfig("; ".join(problems))
    folder = Path(settings.log_location) if torchserve else None
    logs.configure(folder, Path(settings.metrics_location), settings.log_config)
    for note in settings.notes:
        log.info("%s", note)
    try:
        with _signals() as received:
            return Server(settings).serve(received)
    finally:
        logs.close()


@contextlib.contextmanager
def _signals() -> Iterator[queue.SimpleQueue[int]]:
    """SIGTERM and SIGINT as a queue: handlers only enqueue, the main thread decides."""
    received: queue.SimpleQueue[int] = queue.SimpleQueue()

    def enqueue(number: int, _: FrameType | None) -> None:
        received.put(number)

    previous = {number: signal.signal(number, enqueue) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _again(received: queue.SimpleQueue[int], began: float) -> bool:
    """Whether somebody insists: launchers often send the same signal twice at once, people do so after a while."""
    try:
        received.get_nowait()
    except queue.Empty:
        return False
    return time.monotonic() - began > INSISTING_SECONDS


def _say(line: str) -> None:
    """Prints a line for whoever started the server; serving does not depend on somebody reading it."""
    with contextlib.suppress(OSError):
        print(f"{line}\n", end="", flush=True)  # in one piece: models that load together are reported at once


class Server:
    """Everything that one server process owns."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        number_from(settings.initial_worker_port)
        self.registry = Registry()
        self.metrics = Metrics(
            self.registry.deployments,
            mode=settings.metrics_mode,
            config=settings.metrics_config,
            auto_detect=settings.model_metrics_auto_detect,
            system=not settings.disable_system_metrics,
            interval=settings.metric_time_interval,
        )
        self.dataplane = DataPlane(self.registry, strict_readiness=settings.strict_readiness)
        options = Options(
            shape_change=settings.shape_change,
            host=Scripting(self.dataplane),
            on_event=self._event,
            cache=ResponseCache(settings.cache_config) if settings.cache_config else None,
        )
        self.store = ModelStore(settings)
        self.journal = Journal(settings, self.registry)
        self.management = Management(
            self.registry, self.store, options, self._models_changed, settings.unregister_model_timeout
        )
        self.dataplane.management = self.management
        self.repository: TritonRepository | None = None
        if settings.model_repository:
            self.repository = TritonRepository(
                [Path(folder) for folder in settings.model_repository],
                auto_complete=not settings.disable_auto_complete_config,
                backend_config=settings.backend_config,
                config_name=settings.model_config_name,
            )
            self.dataplane.modelcontrol = ModelControl(
                self.registry, self.repository, self.dataplane, options, settings.model_control_mode
            )
        self.failed = 0
        self._opening = threading.Lock()

    def serve(self, received: queue.SimpleQueue[int]) -> int:
        """From opening the ports to the last worker's end."""
        garbage.return_large_memory()
        plan = planned(self.settings)
        web = Web(Services(self.dataplane, self.dataplane, self.metrics, self.settings, self._tokens()))
        try:
            self.metrics.start()
            loading = threading.Thread(target=self._load, args=(web, plan, received), name="load-models", daemon=True)
            loading.start()
            number = received.get()
            if number:
                log.info("%s: answering what was accepted, for at most %d s", signal.Signals(number).name, self._patience)
        finally:
            self._end(web, received)
        return 1 if self.failed and self.settings.exit_on_error else 0

    def _tokens(self) -> Tokens | None:
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

    def _load(self, web: Web, plan: Sequence[Planned], received: queue.SimpleQueue[int]) -> None:
        """Loads the models, reporting each; then the server is started. Runs beside the main thread, which takes signals."""
        try:
            begun = register(self.management, plan, self._report)
            self._open(web)
            self._wait(begun)
            web.wait_started()
        except Exception:
            log.exception("the models could not be loaded")
            self.failed += 1
        if self.dataplane.stopping:
            return
        if self.failed and self.settings.exit_on_error:
            log.error("%d models failed to load and --exit-on-error is true", self.failed)
            received.put(0)
            return
        self.dataplane.started = True
        garbage.spare_collector()
        _say(STARTED)

    def _open(self, web: Web) -> None:
        """Takes requests from now on: every archive is registered, so none is answered "no such model" too early."""
        with self._opening:
            if not self.dataplane.stopping:
                web.start()
        self.journal.write("startup")

    def _wait(self, begun: Sequence[Begun]) -> None:
        """Until every model is ready or has failed once: the archives' workers and the repository's models load together."""
        archives = threading.Thread(target=settle, args=(begun, self._report), name="settle-archives", daemon=True)
        archives.start()
        if self.dataplane.modelcontrol is not None:
            preload(self.dataplane.modelcontrol, self.settings, self._report)
        archives.join()

    def _report(self, model: str, version: str, reason: str | None, seconds: float) -> None:
        """One line for each version that became ready or failed."""
        if self.dataplane.stopping:
            return
        name = f"{model} {version}".rstrip()
        if reason is None:
            _say(f"{name}: ready after {seconds:.1f} s")
            return
        self.failed += 1
        _say(f"{name}: FAILED: {reason.strip()}")

    def _models_changed(self) -> None:
        self.journal.write("snapshot")

    # -- end -------------------------------------------------------------------------------------------------------------

    def _end(self, web: Web, received: queue.SimpleQueue[int]) -> None:
        with self._opening:
            self.dataplane.stopping = True
        self.management.close()
        if self.dataplane.modelcontrol is not None:
            self.dataplane.modelcontrol.close()
        self.journal.write("shutdown")
        web.stop_accepting()
        drained = threading.Thread(
            target=self._drain, args=(web, time.monotonic() + self._patience), name="drain", daemon=True
        )
        drained.start()
        began = time.monotonic()
        while drained.is_alive():
            drained.join(0.1)
            if _again(received, began):
                log.warning("a second signal: ending without waiting for accepted requests")
                break
        self.dataplane.close(0.0)
        if self.repository is not None:
            self.repository.close()
        self.store.close()
        self.metrics.close()

    def _drain(self, web: Web, deadline: float) -> None:
        """Closes the listeners when their accepted requests are answered, then the models."""
        web.close(max(0.0, deadline - time.monotonic()))
        self.dataplane.close(max(LAST_SECONDS, deadline - time.monotonic()))
