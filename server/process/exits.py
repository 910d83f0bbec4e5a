"""Exit codes of worker processes, so that a supervisor and an operator can tell endings apart."""

from __future__ import annotations

import signal

STOPPED = 0  #: asked to stop, and did
CRASHED = 1  #: Python's own code for an uncaught exception
LOAD_FAILED = 70  #: the model could not be loaded; the reason travelled in the `Loaded` message
PARENT_GONE = 71  #: the server's end of the socket closed
PROTOCOL = 72  #: the server sent something that is no message
DEVICE_LOST = 73  #: the backend said that its device cannot be used any more by this process

_MEANING = {
    STOPPED: "ended by itself",
    LOAD_FAILED: "could not load the model",
    PARENT_GONE: "lost the server",
    DEVICE_LOST: "lost its device",
    PROTOCOL: "did not understand the server",
}


def exit_code(returncode: int) -> int:
    """A shell's view of `Popen.returncode`: 128 + the signal's number for a killed process (SIGKILL: 137)."""
    return 128 - returncode if returncode < 0 else returncode


def describe(returncode: int) -> str:
    """`killed by SIGKILL (exit code 137)`, `exit code 70 (could not load the model)`, ..."""
    if returncode < 0:
        try:
            name = signal.Signals(-returncode).name
        except ValueError:
            name = f"signal {-returncode}"
        return f"killed by {name} (exit code {exit_code(returncode)})"
    meaning = _MEANING.get(returncode)
    return f"exit code {returncode}" + (f" ({meaning})" if meaning else "")
