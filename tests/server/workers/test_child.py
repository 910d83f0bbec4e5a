"""What a worker's process is started with. The processes themselves: test_pool."""

import pytest

from jitney.backends.base import Instance
from jitney.server.repository.config import ModelConfig
from jitney.server.workers.child import environment


def of(config: ModelConfig) -> dict[str, str]:
    return environment(config, Instance("m_0", threads=3))


def test_a_worker_gets_the_servers_environment_and_its_share_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SETTING", "kept")
    found = of(ModelConfig("m", "1", "handler", environment={"EXTRA": "more"}))
    assert (found["A_SETTING"], found["OMP_NUM_THREADS"], found["EXTRA"]) == ("kept", "3", "more")


def test_a_worker_keeps_memory_that_it_used_once_unless_the_server_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1")
    found = of(ModelConfig("m", "1", "handler"))
    assert (found["MALLOC_MMAP_MAX_"], found["MALLOC_TRIM_THRESHOLD_"]) == ("0", "1")


def test_the_servers_token_stays_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JITNEY_TOKEN", "a-secret-of-the-server")
    assert "JITNEY_TOKEN" not in of(ModelConfig("m", "1", "handler"))


def test_withheld_names_match_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET", "AWS_REGION_NAME", "MY_AWS_SECRET", "DB_PASSWORD"):
        monkeypatch.setenv(name, "x")
    found = of(ModelConfig("m", "1", "handler", withheld_environment="AWS_.*|DB_PASSWORD"))
    assert "MY_AWS_SECRET" in found
    assert not {"AWS_SECRET", "AWS_REGION_NAME", "DB_PASSWORD"} & set(found)
