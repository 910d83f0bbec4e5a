"""Running one candidate of `jitney tune`: as many workers as it has, side by side in processes of their own, measured together.

Every process is started for its candidate and ended after it, so that no candidate sees another's memory, threads or settings.
Whatever a worker does, a trial ends: each step has a deadline, and what does not answer by then is killed with its children.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...server.workers.own_process import MALLOC
from .variants import Arrangement, Variant
from .worker import Job

#: A batch that takes longer than this is not served to anyone.
STEP_SECONDS = 60.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class TrialFailed(RuntimeError):
    """A worker could not load or run the model, or not in time; the text says why."""


@dataclass(frozen=True)
class Point:
    """One batch size: rows per second of all workers together, and a batch's median and 95th percentile in seconds."""

    rate: float
    median: float
    p95: float


@dataclass
class Result:
    """What one trial saw. `decode`: seconds for one request in the server, on the same cores unless there is a GPU."""

    points: dict[int, Point] = field(default_factory=dict)
    load_seconds: float = 0.0
    decode: float = 0.0
    answers: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """The model that is tuned."""

    repository: Path
    model: str
    gpu: int | None = None
    body: Path | None = None
    shapes: tuple[str, ...] = ()

    def job(self, variant: Variant, arrangement: Arrangement) -> Job:
        body = "" if self.body is None else str(self.body.resolve())
        parameters = dict(variant.parameters)
        repository = str(self.repository.resolve())
        return Job(repository, self.model, parameters, arrangement.threads, self.gpu, body, list(self.shapes))


def run_trial(
    subject: Subject,
    variant: Variant,
    arrangement: Arrangement,
    sizes: Sequence[int],
    seconds: float,
    limit: float,
    with_answers: bool = False,
) -> Result:
    """Loads, measures each size for `seconds`, ends. TrialFailed where that takes longer than `limit` seconds in all."""
    deadline = time.monotonic() + limit
    with contextlib.ExitStack() as stack:
        job = subject.job(variant, arrangement)
        workers = [stack.enter_context(_worker(job)) for _ in range(arrangement.workers)]
        loaded = [worker.answer(deadline, "to load the model") for worker in workers]
        result = Result(load_seconds=max(each["loaded"] for each in loaded), decode=loaded[0]["decode"])
        for rows in sizes:
            result.points[rows] = _together(workers, rows, seconds, deadline, result.decode if subject.gpu is None else 0.0)
        if with_answers:
            result.answers = _answers(workers[0], deadline)
        return result


def _together(workers: Sequence[_Worker], rows: int, seconds: float, deadline: float, decode: float) -> Point:
    """All workers at once. What decoding costs is taken from the rate: the server does it on the same cores."""
    for worker in workers:
        worker.ask({"rows": rows, "seconds": seconds})
    limit = min(deadline, time.monotonic() + seconds + STEP_SECONDS)
    seen = [worker.answer(limit, f"to run batches of {rows}") for worker in workers]
    rate = sum(1 / (1 / each["rate"] + decode) for each in seen)
    return Point(rate, float(np.median([each["median"] for each in seen])), max(each["p95"] for each in seen))


def _answers(worker: _Worker, deadline: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="jitney-tune-") as folder:
        file = Path(folder) / "answers.npz"
        worker.ask({"answers": str(file)})
        worker.answer(deadline, "to answer the sample")
        with np.load(file, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}


class _Worker:
    """The process of `tune_worker` and its pipes."""

    def __init__(self, process: subprocess.Popen[bytes], errors: Any) -> None:
        self._process, self._errors = process, errors
        self._received = b""

    def ask(self, order: Mapping[str, Any]) -> None:
        if self._process.stdin is None:
            raise ValueError("the worker was started without pipes")
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise TrialFailed(self._last_words()) from None

    def answer(self, deadline: float, doing: str) -> dict[str, Any]:
        """The next line; TrialFailed after the deadline, or with the last words of a worker that ended."""
        if self._process.stdout is None:
            raise ValueError("the worker was started without pipes")
        began = time.monotonic()
        while b"\n" not in self._received:
            ready = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            if not ready:
                raise TrialFailed(f"took more than {time.monotonic() - began:.0f} s {doing}")
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                raise TrialFailed(self._last_words())
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        self._process.wait(10)
        self._errors.seek(0)
        lines = [line for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else f"ended with status {self._process.returncode} and said nothing"


@contextlib.contextmanager
def _worker(job: Job) -> Iterator[_Worker]:
    """Started with its share of threads, in a group of its own; ended with all of its children."""
    environment = {**MALLOC, **os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(job.threads))}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "jitney.tools.tune.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        try:
            worker = _Worker(process, errors)
            worker.ask(dataclasses.asdict(job))
            yield worker
        finally:
            if process.returncode is None:  # not waited for, so its number is still its own, and its group's
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
