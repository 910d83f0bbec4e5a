"""What docs/many-models.md says of a server with many models: on a busy machine, so bounds are wide."""

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
        assert server.threads() <= threads + 10
        server.wait_for(lambda: server.memory()[1] == 0)
        server.wait_for(lambda: server.threads() <= threads + 2)
        assert f"{MODELS} models are loaded on demand." in server.log()
        assert server.stop() < 20
        assert server.process.returncode == 0
    finally:
        server.kill()


def test_the_models_of_a_group_share_a_process_and_the_servers_threads_do_not_grow_with_them(tmp_path: Path) -> None:
    """1,000 models, 60 of them loaded."""
    write_models(tmp_path, 1000, group="small")
    server = Served(tmp_path, ["--default-load=on_demand"])
    try:
        server.wait_ready()
        assert server.ask(0) < 60
        alone, workers = server.memory()
        assert workers == 1
        cold = [server.ask(number) for number in range(1, 60)]
        assert sorted(cold)[30] < 1
        together, workers = server.memory()
        assert workers == 1
        assert (together - alone) / 59 < 10
        assert server.threads() <= 20
        assert all(server.ask(number) < 30 for number in range(60))
        assert server.stop() < 20
        assert server.process.returncode == 0
    finally:
        server.kill()
