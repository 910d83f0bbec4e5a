"""Registering where something comes between: nothing is left half registered, and no thread ends with a traceback."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from jitney.core.errors import Draining, InvalidConfig, ModelNotFound, UrlRefused
from jitney.core.request import Part, Request
from jitney.server.lifecycle.management import Management
from jitney.server.lifecycle.startup import Planned, register, settle
from jitney.server.repository.torchserve.model_store import ModelStore
from jitney.server.repository.torchserve.registration import Registration
from jitney.server.serving.dataplane import DataPlane
from jitney.server.serving.deployment import Options
from jitney.server.serving.on_demand import OnDemandDeployment
from jitney.server.serving.registry import Registry
from jitney.server.settings.settings import Settings
from jitney.tests.fakes.torchserve_server import archive
from jitney.tools.archive import ModelArchiverConfig, generate_model_archive
from jitney.tools.bench.served import wait_until

PATIENCE = 20.0
ENDLESS = "import threading\ndef handle(data, context):\n    threading.Event().wait()\n"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    archive(tmp_path / "store", "capitals")
    archive(tmp_path / "store", "endless", ENDLESS, entry="")
    return Settings.load({"model_store": str(tmp_path / "store")}, {})


@pytest.fixture
def management(settings: Settings) -> Iterator[Management]:
    management = Management(Registry(), ModelStore(settings), Options(), lambda: None, 10.0)
    yield management
    for deployment in management.registry.deployments():
        deployment.close(0)
    management.store.close()


def threads(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_a_model_can_be_unregistered_while_it_loads(management: Management) -> None:
    management.register(Registration("endless.mar", initial_workers=1, synchronous=False))
    assert threads("load-endless")
    management.unregister("endless", None)
    wait_until(
        lambda: not threads("load-endless"), PATIENCE, "the thread that waits for the workers"
    )  # a warning if it raised
    with pytest.raises(ModelNotFound):
        management.registry.record("endless")


def test_why_a_model_is_not_registered_is_in_the_log(management: Management, caplog: pytest.LogCaptureFixture) -> None:
    url = "http://127.0.0.1:1/x.mar"
    with pytest.raises(UrlRefused):
        management.register(Registration(url))
    assert f"'{url}' is not registered: " in caplog.text and "see allow_private_urls" in caplog.text


def test_who_waits_for_a_model_that_is_unregistered_is_told(management: Management) -> None:
    told: list[Exception] = []

    def register() -> None:
        try:
            management.register(Registration("endless.mar", initial_workers=1, synchronous=True))
        except Draining as error:
            told.append(error)

    waiting = threading.Thread(target=register)
    waiting.start()
    wait_until(lambda: "endless" in management.registry.names(), PATIENCE, "the registration")
    wait_until(lambda: management.registry.deployment("endless").workers(), PATIENCE, "its worker")
    management.unregister("endless", None)
    waiting.join(PATIENCE)
    assert len(told) == 1


def test_more_workers_than_the_machine_can_hold_are_refused_and_nothing_changes(management: Management) -> None:
    for synchronous in (True, False):
        with pytest.raises(InvalidConfig, match=r"'capitals' is to have 100000 workers, .* has room for at most"):
            management.register(Registration("capitals.mar", initial_workers=100_000, synchronous=synchronous))
    assert management.registry.names() == []
    management.register(Registration("capitals.mar", initial_workers=1, synchronous=True))
    deployment = management.registry.deployment("capitals")
    for synchronous in (True, False):
        with pytest.raises(InvalidConfig, match=r"lower .* min_worker"):
            management.scale("capitals", None, 100_000, 100_000, synchronous)
    assert (deployment.wanted_workers(), deployment.min_workers, deployment.ready) == (1, 1, True)


def test_a_least_number_of_no_workers_takes_all_away(management: Management) -> None:
    management.register(Registration("capitals.mar", initial_workers=1, synchronous=True))
    deployment = management.registry.deployment("capitals")
    assert management.scale("capitals", None, 0, 2, synchronous=True) == 0
    assert (deployment.wanted_workers(), deployment.min_workers, deployment.max_workers) == (0, 0, 2)


def test_a_start_with_more_workers_than_the_machine_can_hold_says_so(settings: Settings) -> None:
    wanted = {"JITNEY_MODELS": '{"capitals": {"1.0": {"minWorkers": 100000, "maxWorkers": 100000}}}'}
    told: list[tuple[str, str | None]] = []
    store = ModelStore(Settings.load({"model_store": settings.model_store}, wanted))
    management = Management(Registry(), store, Options(), lambda: None, 10.0)
    plan = [Planned(Registration("capitals.mar"))]
    assert register(management, plan, lambda model, version, reason, seconds: told.append((model, reason))) == []
    assert len(told) == 1
    assert "is to have 100000 workers, but this machine has room for at most" in str(told[0][1])
    assert management.registry.names() == []
    store.close()


@pytest.mark.parametrize("synchronous", [True, False])
def test_workers_without_a_place_leave_nothing_registered(settings: Settings, synchronous: bool) -> None:
    """A store that was told of a GPU which this machine does not have."""
    store = ModelStore(settings, gpus=[977])
    management = Management(Registry(), store, Options(), lambda: None, 10.0)
    with pytest.raises(InvalidConfig, match="GPU"):
        management.register(Registration("capitals.mar", initial_workers=1, synchronous=synchronous))
    with pytest.raises(InvalidConfig, match="GPU"):
        management.begin(Registration("capitals.mar"))
    assert management.registry.names() == []
    store.close()


# -- on demand -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_demand(tmp_path: Path, settings: Settings) -> Iterator[DataPlane]:
    """The planes of a server whose archives are loaded by the first request for them; its `Management` is `plane.management`."""
    registry = Registry()
    plane = DataPlane(registry)
    store = ModelStore(replace(settings, default_load="on_demand"))
    plane.management = Management(registry, store, Options(), lambda: None, 10.0)  # type: ignore[attr-defined]
    plane.started = True
    yield plane
    plane.close(5.0)
    store.close()


def management_of(plane: DataPlane) -> Management:
    found: Management = plane.management  # type: ignore[attr-defined]
    return found


def predict(plane: DataPlane, text: bytes) -> bytes:
    request = Request(parts=[Part("data", text, "text/plain")])
    return bytes(plane.predict("capitals", None, request).result(PATIENCE).body or b"")


def states(plane: DataPlane) -> list[str]:
    return [str(worker.state) for worker in plane.describe("capitals")[0].workers]


def test_an_archive_without_workers_is_woken_by_a_request(on_demand: DataPlane) -> None:
    management = management_of(on_demand)
    assert management.register(Registration("capitals.mar")) == ("capitals", "1.0", 0)
    (description,) = on_demand.describe("capitals")
    assert (description.min_workers, description.workers) == (0, [])
    assert on_demand.healthy()
    assert on_demand.ready()
    assert on_demand.model_ready("capitals")
    assert predict(on_demand, b"abc") == b"ABC"
    assert states(on_demand) == ["READY"]


def test_workers_that_an_archive_is_scaled_to_stay_and_none_means_on_demand_again(on_demand: DataPlane) -> None:
    management = management_of(on_demand)
    management.register(Registration("capitals.mar"))
    assert management.scale("capitals", None, 2, 2, synchronous=True) == 2
    assert states(on_demand) == ["READY", "READY"]
    deployment = on_demand.registry.deployment("capitals")
    assert isinstance(deployment, OnDemandDeployment)
    assert not deployment.unload(time.monotonic() + 1), "they were asked for, so they are not taken away for others"
    assert management.scale("capitals", None, 0, 0, synchronous=True) == 0
    assert states(on_demand) == []
    assert predict(on_demand, b"abc") == b"ABC"
    management.unregister("capitals", None)
    with pytest.raises(ModelNotFound):
        predict(on_demand, b"abc")


def test_a_registration_that_asks_for_workers_gets_them_at_once(on_demand: DataPlane) -> None:
    assert management_of(on_demand).register(Registration("capitals.mar", initial_workers=1)) == ("capitals", "1.0", 1)
    assert states(on_demand) == ["READY"]


def test_at_the_start_archives_on_demand_are_registered_only(on_demand: DataPlane) -> None:
    told: list[str] = []
    begun = register(management_of(on_demand), [Planned(Registration("capitals.mar"))], lambda *_: told.append("failed"))
    settle(begun, lambda *_: told.append("ready"))
    assert not told
    assert states(on_demand) == []
    assert predict(on_demand, b"x") == b"X"


def test_an_archive_says_itself_when_it_is_loaded(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "config.yaml").write_text("loadOnDemand: true\nidleTimeoutInSec: 7\nminWorkers: 2\nmaxWorkers: 2\n")
    archive(tmp_path / "store", "own", config_file=str(tmp_path / "config.yaml"))
    store = ModelStore(settings)
    config = store.resolve(Registration("own.mar"))
    assert (config.on_demand, config.idle_timeout_s) == (True, 7.0)
    assert not store.resolve(Registration("own.mar", initial_workers=1)).on_demand
    assert not store.resolve(Registration("capitals.mar")).on_demand
    store.close()


def test_an_archive_that_runs_as_torchscript_may_share_a_process(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "config.yaml").write_text("workerGroup: small\n")
    (tmp_path / "net.pt").write_bytes(b"weights")
    built_in = ModelArchiverConfig(
        "built",
        "1.0",
        "image_classifier",
        serialized_file=str(tmp_path / "net.pt"),
        config_file=str(tmp_path / "config.yaml"),
        export_path=str(tmp_path / "store"),
    )
    generate_model_archive(built_in)
    store = ModelStore(settings)
    config = store.resolve(Registration("built.mar"))
    assert (config.backend, config.worker_group) == ("torchscript", "small")
    store.close()


def test_a_handler_may_not(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "config.yaml").write_text("workerGroup: small\n")
    archive(tmp_path / "store", "own", config_file=str(tmp_path / "config.yaml"))
    store = ModelStore(settings)
    with pytest.raises(InvalidConfig, match="model 'own' is to be in worker_group 'small', but its backend is 'handler'"):
        store.resolve(Registration("own.mar"))
    store.close()
