"""Processes that are killed, stand still, or can have no more memory: workers, front ends, the whole server."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path

from . import models
from .clients import judged
from .faults import Scene, Skipped, fault
from .ledger import Answer, Kind

#: Bytes that a process still gets where it is to run out of memory: no thread's stack.
LITTLE = 1 << 20


def one_of(scene: Scene, pids: Sequence[int]) -> int:
    """Any of them; Skipped where there are none."""
    if not pids:
        raise Skipped("there is no such process")
    return scene.dice.choice(list(pids))


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def short_of_memory(pids: Sequence[int]) -> Iterator[None]:
    """Those processes cannot have more memory of their own than they have, and a little; at the end they can again.

    RLIMIT_DATA, since malloc has address space in reserve.
    """
    before = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            size = int(Path(f"/proc/{pid}/statm").read_text().split()[5]) * resource.getpagesize()
            before[pid] = resource.prlimit(pid, resource.RLIMIT_DATA)
            resource.prlimit(pid, resource.RLIMIT_DATA, (size + LITTLE, before[pid][1]))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(OSError):
                resource.prlimit(pid, resource.RLIMIT_DATA, limits)


def ask_largely(scene: Scene, seconds: float) -> None:
    """Sends bodies of 20 MB, which the processes have to find room for, and books what comes of them."""
    end = time.monotonic() + (seconds / 2 if scene.short else seconds)
    body = bytes(20 << 20)
    expected = models.digest(body)
    while time.monotonic() < end:
        began = time.monotonic()
        kind: Kind = "cut"
        try:
            status, answer = scene.site.ask("POST", "/predictions/digest", body, port="inference")
            kind, text = judged(status, answer.encode(), lambda found: found == expected)
        except TimeoutError as error:
            kind, text = "unanswered", str(error)
        except (OSError, HTTPException) as error:
            text = f"{type(error).__name__}: {error}"
        scene.ledger.add(Answer("20 MB body", began, time.monotonic(), kind, text))
        time.sleep(0.05)


def wait_for_end(pids: Sequence[int], timeout: float, what: str) -> None:
    """TimeoutError where one of them is still there after so many seconds."""
    deadline = time.monotonic() + timeout
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} still there after {timeout:g} s")
        time.sleep(0.02)


@fault("kill -9 of a worker")
def kill_worker(scene: Scene) -> None:
    signal_all([one_of(scene, scene.site.workers("linear"))], signal.SIGKILL)
    scene.onset()


@fault("kill -9 of all workers at once")
def kill_workers(scene: Scene) -> None:
    signal_all(scene.site.workers(), signal.SIGKILL)
    scene.onset()


@fault("SIGSTOP of a worker")
def stop_worker(scene: Scene) -> None:
    pid = one_of(scene, scene.site.workers("linear"))
    signal_all([pid], signal.SIGSTOP)
    scene.onset()
    wait_for_end([pid], 10, "the stopped worker")


@fault("out of memory in the workers", short=False)
def exhaust_workers(scene: Scene) -> None:
    with short_of_memory(scene.site.workers()):
        ask_largely(scene, 2.0)
    scene.onset()


@fault("kill -9 of a front end", cuts=True)
def kill_front_end(scene: Scene) -> None:
    signal_all([one_of(scene, scene.site.front_ends())], signal.SIGKILL)
    scene.onset()


@fault("kill -9 of all front ends and gRPC's", cuts=True)
def kill_front_ends(scene: Scene) -> None:
    signal_all([*scene.site.front_ends(), *scene.site.front_ends("grpc.front_end")], signal.SIGKILL)
    scene.onset()


@fault("SIGSTOP of a front end", cuts=True)
def stop_front_end(scene: Scene) -> None:
    pid = one_of(scene, scene.site.front_ends())
    signal_all([pid], signal.SIGSTOP)
    scene.onset()
    wait_for_end([pid], 10, "the stopped front end")


@fault("SIGSTOP of gRPC's front end", cuts=True)
def stop_grpc(scene: Scene) -> None:
    pids = scene.site.front_ends("grpc.front_end")
    signal_all(pids, signal.SIGSTOP)
    scene.onset()
    wait_for_end(pids, 10, "the stopped front end of gRPC")


@fault("out of memory in the front ends", cuts=True, short=False)
def exhaust_front_ends(scene: Scene) -> None:
    with short_of_memory([*scene.site.front_ends(), *scene.site.front_ends("grpc.front_end")]):
        ask_largely(scene, 2.0)
    scene.onset()


@fault("out of memory in the server's process", cuts=True)
def exhaust_server(scene: Scene) -> None:
    with short_of_memory([scene.site.pid]):
        ask_largely(scene, 2.0)
    scene.onset()


@fault("kill -9 of the server", cuts=True)
def kill_server(scene: Scene) -> None:
    left = [*scene.site.workers(), *scene.site.front_ends()]
    scene.site.kill()
    scene.onset()
    wait_for_end(left, 5, "a process of the killed server")


@fault("SIGSTOP of the server", cuts=True, short=False)
def stop_server(scene: Scene) -> None:
    starts, pid = scene.site.starts, scene.site.pid
    signal_all([pid], signal.SIGSTOP)
    scene.site.wait(lambda: scene.site.starts > starts, 10, "the server's replacement")
    scene.onset()
