"""What a model's own code does to the process that it runs in, and to whoever asks it."""

from __future__ import annotations

import json
import time
from http.client import HTTPException

from .clients import judged
from .faults import Scene, fault
from .ledger import Answer
from .models import LOAD_S

#: Within so many seconds after a deed the model has to answer again.
AGAIN_S = 10.0


def ask_mad(scene: Scene, deed: str) -> bool:
    """Has the model do something; books the answer, and tells whether it was the right one."""
    began = time.monotonic()
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "BYTES", "data": [deed]}]}
    expected = deed.partition(" ")[0]
    try:
        status, text = scene.site.ask("POST", "/v2/models/mad/infer", body, port="inference")
        kind, text = judged(status, text.encode(), lambda found: json.loads(found)["outputs"][0]["data"] == [expected])
    except (OSError, HTTPException) as error:
        kind, text = "unanswered", f"{type(error).__name__}: {error}"
    scene.ledger.add(Answer(f"mad, {deed}", began, time.monotonic(), kind, text))
    return kind == "right"


def commit(scene: Scene, *deeds: str) -> None:
    """One deed after the other; after each the model has to come to answer again."""
    for deed in deeds:
        ask_mad(scene, deed)
        scene.site.wait(lambda: ask_mad(scene, "nothing"), AGAIN_S, f"an answer of the model after '{deed}'")
    scene.onset()


@fault("a handler prints gigabytes", short=False)
def print_much(scene: Scene) -> None:
    commit(scene, f"print {64 if scene.short else 1024}", f"line {64 if scene.short else 1024}")


@fault("a handler closes file descriptors")
def close_files(scene: Scene) -> None:
    commit(scene, "close")


@fault("a handler forks", short=False)
def fork(scene: Scene) -> None:
    commit(scene, "fork 8", "exit 3", "nothing")


@fault("a handler takes all memory")
def take_memory(scene: Scene) -> None:
    commit(scene, "memory")


@fault("a handler ends or crashes its process")
def end(scene: Scene) -> None:
    commit(scene, "exit 0", "crash", "leave 4", "odd", "abort")


@fault("a handler never returns")
def hang(scene: Scene) -> None:
    commit(scene, "hang")


@fault("a model deadlocks while it loads")
def deadlock(scene: Scene) -> None:
    began = time.monotonic()
    status, text = scene.site.ask("POST", "/v2/repository/models/stuck/load", {}, port="inference")
    took = time.monotonic() - began
    if status == 200 or "startup_timeout" not in text or took > 3 * LOAD_S + 2:
        raise AssertionError(f"the load of a model that never loads: {status} {text} after {took:.1f} s")
    scene.site.ask("POST", "/v2/repository/models/stuck/unload", {}, port="inference")
    scene.onset()
