"""What docs/many-models.md says of a server with many models, with fewer of them: on a busy machine, so bounds are wide."""

from __future__ import annotations

from pathlib import Path

from jitney.tools.dev.many_models import Served, write_models

MODELS, ASKED = 120, 3


def test_models_that_nobody_asks_take_no_process_no_thread_and_next_to_no_memory(tmp_path: Path) -> None:
    write_models(tmp_path, MODELS)
    server = Served(tmp_path, ["--default-load=on_demand", "--default-idle-timeout-s=1"])
    try:
        server.wait_ready()
        memory, workers = server.memory()
        threads = server.threads()
        assert workers == 0
        assert memory < 150
        assert threads <= 20
        for number in range(0, MODELS, MODELS // ASKED):
            assert server.ask(number) < 30
        assert server.memory()[1] <= ASKED
        assert server.threads() <= 20 + 4 * ASKED
        server.wait_for(lambda: server.memory()[1] == 0)
        server.wait_for(lambda: server.threads() <= threads + 2)
        assert f"{MODELS} models are loaded on demand." in server.log()
        assert server.stop() < 20
        assert server.process.returncode == 0
    finally:
        server.kill()
