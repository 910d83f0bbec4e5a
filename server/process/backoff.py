"""When a worker that ended is started again. Pure: time is an argument."""

from __future__ import annotations

#: Seconds before the 1st, 2nd, ... attempt after a failure: TorchServe's list, but started at its 0 (TorchServe skips it)
#: and ended at 30 s (TorchServe goes on to 1597 s, which is no recovery).
DELAYS_S = (0.0, 1.0, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 30.0)
#: A worker that was ready for this long has recovered: its next failure starts the list again.
STEADY_S = 10.0
#: The longest delay after a worker that has finished a batch since it was loaded: the model works, and who asks it waits.
SERVED_S = 2.0


class Backoff:
    """One worker's failures in a row. Loading counts as progress: it restarts the clock of `give_up_after_s`.

    Delays, however, begin again only after `STEADY_S` of service, so that a model which dies of every request is not
    started over and over without a pause, and is never given up for what clients send either. Where it finishes other
    requests in between they stay short (`SERVED_S`): one client's fatal requests must not keep the rest waiting.
    """

    def __init__(self, give_up_after_s: float) -> None:
        self._give_up_after_s = give_up_after_s
        self._attempts = 0
        self._failing_since: float | None = None
        self._ready_since: float | None = None

    def loaded(self, now: float) -> None:
        """The worker is ready."""
        self._failing_since, self._ready_since = None, now

    def failed(self, now: float, served: bool = False) -> float | None:
        """Seconds until the next attempt; None to give up: it has failed for `give_up_after_s` without loading once.

        `served`: it has finished a batch since it was loaded.
        """
        if self._ready_since is not None and now - self._ready_since >= STEADY_S:
            self._attempts = 0
        self._ready_since = None
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._give_up_after_s:
            return None
        delay = DELAYS_S[min(self._attempts, len(DELAYS_S) - 1)]
        self._attempts += 1
        return min(delay, SERVED_S) if served else delay
