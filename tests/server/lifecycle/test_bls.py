"""Models that ask other models, when one of the two goes away."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from jitney.core.errors import JitneyError, ModelFailed
from jitney.tests.fakes.plane import doubling, loaded, rows
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0
ASKING = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        asked = [
            pb_utils.InferenceRequest(
                model_name="endless",
                requested_output_names=["y"],
                inputs=[pb_utils.get_input_tensor_by_name(request, "x")],
                correlation_id=0,
            )
            for request in requests
        ]
        return [request.exec() for request in asked]
"""


def folder(path: Path) -> Path:
    for name in ("asking", "endless"):
        doubling(path, name)
    (path / "asking" / "1" / "model.py").write_text(ASKING)
    source = (
        "import threading\nclass TritonPythonModel:\n    def execute(self, requests):\n        threading.Event().wait()\n"
    )
    (path / "endless" / "1" / "model.py").write_text(source)
    return path


def test_a_model_that_waits_for_another_can_be_closed(tmp_path: Path) -> None:
    with loaded(folder(tmp_path)) as plane:
        asking, endless = plane.registry.deployment("asking"), plane.registry.deployment("endless")
        call = plane.infer("asking", None, rows(1.0))
        wait_until(lambda: [w.state for w in endless.workers()] == ["BUSY"], PATIENCE, "the other model")
        began = time.monotonic()
        asking.close(0.1)
        assert time.monotonic() - began < 10
        with pytest.raises(JitneyError):
            call.result(PATIENCE)


def test_what_a_model_asked_for_is_withdrawn_when_its_worker_dies(tmp_path: Path) -> None:
    with loaded(folder(tmp_path)) as plane:
        asking, endless = plane.registry.deployment("asking"), plane.registry.deployment("endless")
        held = plane.infer("endless", None, rows(0.0))
        call = plane.infer("asking", None, rows(1.0))
        wait_until(lambda: endless.queued() == 1, PATIENCE, "the question")
        (worker,) = asking.workers()

        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(JitneyError):
            call.result(PATIENCE)
        wait_until(lambda: endless.queued() == 0, PATIENCE, "the question's end")
        assert not held.done
        endless.close(0)


def test_a_question_of_the_wrong_types_is_the_asking_models_error_and_no_more(tmp_path: Path) -> None:
    source = folder(tmp_path) / "asking" / "1" / "model.py"
    source.write_text(ASKING.replace("correlation_id=0", 'correlation_id=["no", "id"]'))
    with loaded(tmp_path) as plane:
        (before,) = plane.registry.deployment("asking").workers()
        with pytest.raises(ModelFailed, match="Correlation ID must be integer or string"):
            plane.infer("asking", None, rows(1.0)).result(PATIENCE)
        (after,) = plane.registry.deployment("asking").workers()
        assert after.pid == before.pid
