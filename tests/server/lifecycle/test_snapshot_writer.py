"""Snapshots: one after each change, in the order of their names; what of the registry they hold."""

from pathlib import Path

from jitney.core.model_config import ModelConfig
from jitney.server.lifecycle.snapshot_writer import SnapshotWriter, registered
from jitney.server.serving.deployment import Deployment
from jitney.server.serving.registry import Registry
from jitney.server.settings.settings import Settings

NUMBERS = {"batchSize": -5, "maxBatchDelay": 100, "responseTimeout": 17, "startupTimeout": 120}


class Books(Deployment):
    """A version that is only in the books."""

    @property
    def ready(self) -> bool:
        return True

    def refuse_without_workers(self) -> None: ...

    def submit(self, *_: object, **__: object):  # type: ignore[no-untyped-def]
        raise NotImplementedError

    def close(self, timeout: float, *, reason: str = "unloaded") -> None: ...


def entered(registry: Registry, name: str, version: str, url: str, **values: object) -> Books:
    deployment = Books(ModelConfig(name, version, "handler", url=url, torchserve=NUMBERS, min_workers=1, max_workers=2))
    registry.put(deployment, **values)  # type: ignore[arg-type]
    return deployment


def test_what_is_registered(tmp_path: Path) -> None:
    registry = Registry()
    entered(registry, "m", "1.0", "m.mar", default=True)
    entered(registry, "m", "2.0", "https://host/files/m_v2.mar?token=x").min_workers = 0
    entered(registry, "folder", "1.0", str(tmp_path))
    registry.put(Books(ModelConfig("repository", "1", "onnxruntime")))
    rows = [(r.name, r.version, r.is_default, r.archive, r.min_workers, r.max_workers) for r in registered(registry)]
    assert rows == [
        ("folder", "1.0", True, str(tmp_path), 1, 2),
        ("m", "1.0", True, "m.mar", 1, 2),
        ("m", "2.0", False, "m_v2.mar", 0, 2),
    ]
    assert (registered(registry)[1].batch_size, registered(registry)[1].response_timeout) == (-5, 17)


def test_snapshots_of_one_moment_have_names_of_their_own_in_order(tmp_path: Path) -> None:
    journal = SnapshotWriter(Settings.load({}, {}, tmp_path), Registry())
    journal.write("startup")
    for _ in range(20):
        journal.write("snapshot")
    journal.write("shutdown")
    names = sorted(path.name for path in (tmp_path / "logs" / "config").iterdir())
    assert len(names) == 22
    assert names[0].endswith("-startup.cfg") and names[-1].endswith("-shutdown.cfg")


def test_a_folder_that_cannot_be_written_does_not_keep_the_server_from_serving(tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "logs").write_text("a file in its place")
    SnapshotWriter(Settings.load({}, {}, tmp_path), Registry()).write("startup")
    assert "cannot be written" in caplog.text
