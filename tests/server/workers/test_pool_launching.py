"""Workers that begin a batch before the last one is over: what they answer, and what it costs when they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jitney.core.call import Call
from jitney.core.errors import WorkerTimeout
from jitney.core.model_config import InstanceGroup, ModelConfig
from jitney.server.workers import placement

from .conftest import LIMIT_S, call_to, error_of, eventually

pytestmark = pytest.mark.usefixtures("reading")


@pytest.fixture
def made(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(placement, "launches", lambda config: True)
    usual = {
        "max_in_flight": 2,
        "retry_after_crash": True,
        "gpus": (0,),
        "instance_groups": (InstanceGroup("m", 1, "KIND_GPU"),),
    }

    def make(**config: Any) -> Any:
        return bench(backend="launcher", **{**usual, **config}).up()

    return make


def pair(b: Any, folder: Path, *second: Call, large: bool = False) -> tuple[Call, Path]:
    """A batch that stays on the device until the file exists, and a second one that was begun behind it."""
    until, begun = folder / "until", folder / "begun"
    (first,) = b.send(call_to("who", until=str(until), begun=str(begun), tensors=[np.zeros(9000)] if large else []))
    eventually(begun.exists)
    b.send(*second)
    return first, until


def test_the_next_batch_is_begun_while_the_last_one_is_on_the_device(made: Callable[..., Any], tmp_path: Path) -> None:
    b, begun = made(), tmp_path / "second"
    calls = [call_to("echo", begun=str(begun), tensors=[[n]]) for n in range(3)]
    first, until = pair(b, tmp_path, *calls)
    eventually(begun.exists)
    assert not first.done and not any(call.done for call in calls)
    until.write_text("")
    assert first.result(LIMIT_S).final
    assert [call.result(LIMIT_S).tensors[0].numpy().tolist() for call in calls] == [[0], [1], [2]]
    eventually(lambda: len(b.reports) == 2)
    assert all(report.ok for report in b.reports)


def test_a_batch_is_answered_where_no_other_follows(made: Callable[..., Any], tmp_path: Path) -> None:
    b = made()
    first, until = pair(b, tmp_path)
    assert not first.done
    until.write_text("")
    assert first.result(LIMIT_S).final
    for _ in range(20):
        assert b.ask().final


def test_a_worker_that_is_to_stop_answers_what_is_on_its_device(made: Callable[..., Any], tmp_path: Path) -> None:
    b, call = made(), call_to("echo", tensors=[[1]])
    first, until = pair(b, tmp_path, call)
    b.pool.scale(0)
    until.write_text("")
    assert first.result(LIMIT_S).final and call.result(LIMIT_S).final


def test_a_worker_ends_over_the_second_batch_and_only_the_bad_one_of_both_fails(
    made: Callable[..., Any], tmp_path: Path
) -> None:
    """The large one too: its model saw a copy of its data only."""
    b = made()
    (pid,) = b.pids()
    others = [call_to("who"), call_to("who")]
    bad = call_to("fall")
    first, until = pair(b, tmp_path, others[0], bad, others[1], large=True)
    eventually(lambda: b.pool.workers()[0].restarts == 1)  # before the first one was over
    until.write_text("")
    assert "killed by SIGKILL" in str(error_of(bad))
    for call in (first, *others):
        assert call.result(LIMIT_S).parameters["pid"] != pid
    assert b.fatal == []
    assert b.pool.workers()[0].restarts == 2


def test_what_runs_again_has_its_worker_to_itself(made: Callable[..., Any], tmp_path: Path) -> None:
    """So nothing that is sent meanwhile pays for it, nor is to blame."""
    b = made()
    again, until = pair(b, tmp_path)
    begun = tmp_path / "begun"
    begun.unlink()
    os.kill(b.pids()[0], signal.SIGKILL)
    eventually(begun.exists)  # in the next process
    behind = call_to("who")
    b.send(behind)
    assert [batch.live for batch in b.pool._batches.waiting] == [[behind]]
    until.write_text("")
    assert again.result(LIMIT_S).final and behind.result(LIMIT_S).final


def test_a_batch_behind_one_that_hangs_runs_again(made: Callable[..., Any], tmp_path: Path) -> None:
    b, begun = made(response_timeout_s=0.5), tmp_path / "second"
    (pid,) = b.pids()
    behind = call_to("who", begun=str(begun))
    first, _ = pair(b, tmp_path, behind)
    eventually(begun.exists)
    with pytest.raises(WorkerTimeout):
        first.result(LIMIT_S)
    assert behind.result(LIMIT_S).parameters["pid"] != pid


def test_a_batch_that_does_not_run_again_fails_with_its_worker(made: Callable[..., Any], tmp_path: Path) -> None:
    b = made(retry_after_crash=False)
    first, _ = pair(b, tmp_path, bad := call_to("fall"))
    for call in (first, bad):
        error_of(call)
    assert b.ask().final


def test_pytorch_s_backends_launch_unless_their_models_have_states() -> None:
    def launches(backend: Any, **fields: Any) -> bool:
        return placement.launches(ModelConfig("m", "1", backend, **fields))

    assert all(launches(name) for name in ("eager", "torchscript", "exported"))
    assert not any(launches(name) for name in ("onnxruntime", "python", "handler"))
    assert not launches("eager", sequence={"oldest": {}})


def test_on_the_cpu_a_batch_that_was_sent_ahead_has_not_begun(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(placement, "launches", lambda config: True)
    b = bench(max_in_flight=2).up()
    until = tmp_path / "until"
    (first,) = b.send(call_to("wait", until=str(until), mark=str(tmp_path / "mark")))
    eventually((tmp_path / "mark").exists)
    behind = call_to("who")
    b.send(behind)
    os.kill(b.pids()[0], signal.SIGKILL)
    error_of(first)
    assert behind.result(LIMIT_S).final
