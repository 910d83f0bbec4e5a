"""What a server that starts prints for its operator: where it listens, what it loads, and how each model fares."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from .process import progress
from .settings.settings import Settings
from .web import Web

#: Names of models that the line about what loads holds at most.
NAMED = 20


def say(line: str) -> None:
    """Prints a line for the operator; serving does not depend on its being read."""
    with contextlib.suppress(OSError), progress.shown.above():
        print(f"{line}\n", end="", flush=True)  # in one piece: models that load together are reported at once


def announce(web: Web, settings: Settings, names: Sequence[str]) -> None:
    """Where the server listens, in TorchServe's words, and what it is about to load."""
    for port, address in web.addresses():
        say(f"{port[0].upper()}{port[1:]} API bind to: {address}")
    if settings.status_page == "on" and (page := web.address("management")).scheme != "unix":
        say(f"Status page: {page}/status")
    for at in web.grpc_addresses:
        say(f"gRPC {'GRPCInferenceService' if at.service == 'triton' else at.service} bind to: {at}")
    if not (settings.is_local or settings.token_auth):
        say("Requests need no token: every machine that reaches these ports can use the models.")
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    say(f"Loading {', '.join(names[:NAMED])}{more}." if names else "No model is loaded at the start.")


class LoadReport:
    """One line for each version that became ready or failed; called by whoever loaded it, on any thread.

    failed    how many could not be loaded
    `silent`  whether the server is ending, and nothing is told any more
    """

    def __init__(self, silent: Callable[[], bool]) -> None:
        self.failed = self._told = self._planned = 0
        self._silent = silent
        self._task: progress.Task | None = None

    @contextlib.contextmanager
    def loading(self, planned: int) -> Iterator[None]:
        """While models load, so many as far as is known, the terminal shows how many are through."""
        self._planned = planned
        with progress.shown.task("loading models") as self._task:
            self._task.update(0, planned)
            yield
        self._task = None

    def __call__(self, model: str, version: str, reason: str | None, seconds: float) -> None:
        """`reason`: why it could not be loaded, None where it could."""
        if self._silent():
            return
        name = f"{model} {version}".rstrip()
        self._told += 1
        if self._task is not None:
            self._task.update(self._told, max(self._told, self._planned))
        if reason is None:
            say(f"{name}: ready after {seconds:.1f} s")
            return
        self.failed += 1
        say(f"{name}: FAILED: {reason.strip()}")
