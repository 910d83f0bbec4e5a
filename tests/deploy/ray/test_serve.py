"""jitney on a Ray cluster of several nodes, while replicas die, freeze, come and go: `make ray-test`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .cluster import Clients, Seen, ray_cluster, ready, servers, wait_until, write_models

pytestmark = [
    pytest.mark.skipif(os.environ.get("JITNEY_RAY_TESTS") != "1", reason="started by make ray-test"),
    pytest.mark.filterwarnings("default"),
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs ray: pip install 'jitney[ray]'")
    with ray_cluster(nodes=3) as running:
        yield running


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


def deploy(models: Path, **options: Any) -> None:
    from ray import serve

    from jitney.deploy.ray import app
    from jitney.deploy.ray.application import Options

    made = Options(
        model_repository=str(models), num_cpus=0.5, resources={"jitney": 1}, frozen_after_s=2, drain_timeout_s=10,
        upscale_delay_s=0, downscale_delay_s=1, **options,
    )  # fmt: skip
    serve.run(app(made), name="jitney")


def only_what_may_have_run_failed(seen: Seen) -> None:
    """Nothing is wrong, and what failed is not idempotent and was told so."""
    print(f"right: {seen.right}, failed: {len(seen.failed)}, longest: {max(seen.seconds):.1f} s")
    assert not seen.wrong
    for model, answer in seen.failed:
        assert model == "slow", answer
        assert answer.startswith("503") and "may have run" in answer, answer


def test_a_replica_is_killed_and_another_one_frozen(cluster: Any, models: Path) -> None:
    deploy(models, num_replicas=2)
    assert len(servers()) == 2
    with Clients(8) as clients:
        clients.wait(1000)
        killed = servers()[0]
        psutil.Process(killed.ppid()).kill()  # the actor; the kernel ends its jitney
        killed.wait(10)
        clients.wait(2000)
        wait_until(lambda: len(ready()) == 2, 60, "a replica in place of the killed one")
        clients.wait(clients.seen.count + 500)
        frozen = servers()[-1]
        frozen.send_signal(signal.SIGSTOP)
        clients.wait(clients.seen.count + 1000)
        wait_until(lambda: not frozen.is_running(), 90, "Ray to replace the frozen replica")
        wait_until(lambda: len(ready()) == 2, 60, "its successor")
        clients.wait(max(5000, clients.seen.count + 500))
    assert clients.seen.count >= 5000
    only_what_may_have_run_failed(clients.seen)


def test_a_jitney_that_dies_alone_is_replaced(cluster: Any, models: Path) -> None:
    deploy(models, num_replicas=2)
    with Clients(4) as clients:
        clients.wait(200)
        servers()[0].kill()
        clients.wait(clients.seen.count + 300)
        wait_until(lambda: len(servers()) == 2, 60, "a replica in its place")
    only_what_may_have_run_failed(clients.seen)


def test_a_rolling_update_fails_no_request(cluster: Any, models: Path) -> None:
    deploy(models, num_replicas=2)
    before = {server.pid for server in servers()}
    with Clients(4) as clients:
        clients.wait(200)
        deploy(models, num_replicas=2, flags="--id updated")
        clients.wait(clients.seen.count + 200)
        assert len(servers()) == 2
        assert not before & {server.pid for server in servers()}
    assert not clients.seen.wrong
    assert not clients.seen.failed


def test_scaling_up_and_down_under_load_fails_no_request(cluster: Any, models: Path) -> None:
    deploy(models, num_replicas="auto", min_replicas=1, max_replicas=3)
    wait_until(lambda: len(servers()) == 1, 60, "one replica")
    with Clients(4, slow_share=1, pause=0.05) as few:
        with Clients(90, slow_share=1) as many:  # two batches of 8 rows for each of three, and more
            wait_until(lambda: len(servers()) == 3, 90, "three replicas")
            many.wait(many.seen.count + 500)
        wait_until(lambda: len(servers()) == 1, 120, "one replica again")
        few.wait(few.seen.count + 50)
    for seen in (few.seen, many.seen):
        assert not seen.wrong
        assert not seen.failed


def test_a_node_is_lost(cluster: Any, models: Path) -> None:
    deploy(models, num_replicas=3)
    wait_until(lambda: len(ready()) == 3, 60, "three replicas")
    with Clients(8) as clients:
        clients.wait(500)
        cluster.remove_node(cluster.list_all_nodes()[-1], allow_graceful=False)
        wait_until(lambda: len(servers()) == 2, 60, "the end of the lost node's jitney")
        clients.wait(clients.seen.count + 1000)
    only_what_may_have_run_failed(clients.seen)
