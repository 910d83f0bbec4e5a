from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jitney.core import errors
from jitney.core.model_config import AT_ONCE
from jitney.server.repository.torchserve import fetch as fetching
from jitney.server.repository.torchserve.fetch import Rules
from jitney.server.repository.torchserve.model_store import ModelStore, _Progress
from jitney.server.repository.torchserve.registration import Registration
from jitney.server.settings.settings import Settings
from jitney.server.settings.snapshots import Registered
from jitney.tests.fakes import web as fake
from jitney.tests.fakes.recordings import OWN
from jitney.tests.fakes.web import Web

KIT = OWN / "torchserve"


def mar(
    name: str | None = "m",
    version: str = "1.0",
    yaml: str | None = None,
    files: dict[str, str] | None = None,
    **model: str | None,
) -> bytes:
    """The bytes of an archive."""
    section = {"modelName": name, "handler": "h.py", "modelVersion": version, **model}
    section = {key: value for key, value in section.items() if value is not None}
    if yaml is not None:
        section["configFile"] = "model-config.yaml"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("MAR-INF/MANIFEST.json"), json.dumps({"runtime": "python", "model": section}))
        for file, content in ({"h.py": "def handle(data, context): ...\n"} | (files or {})).items():
            archive.writestr(zipfile.ZipInfo(file), content)
        if yaml is not None:
            archive.writestr(zipfile.ZipInfo("model-config.yaml"), yaml)
    return buffer.getvalue()


class Place:
    """A model store folder, a temporary folder, and stores on them."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.temp = tmp_path / "model_store", tmp_path / "temp"
        self.folder.mkdir()
        self.temp.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(self.temp))
        self.stores: list[ModelStore] = []

    def put(self, filename: str, content: bytes) -> str:
        (self.folder / filename).write_bytes(content)
        return filename

    def store(self, gpus: tuple[Any, ...] = (), **settings: Any) -> ModelStore:
        loaded = Settings.load({"model_store": str(self.folder)}, {}, self.temp)
        store = ModelStore(replace(loaded, **settings), gpus=gpus)
        self.stores.append(store)
        return store

    def unpacked(self) -> list[Any]:
        """Folders in the temporary folder below the workspaces."""
        return sorted(path for path in self.temp.glob("jitney-models-*/*") if path.is_dir())

    def refused(self, url: str, error: type[Any], store: ModelStore | None = None, **registration: Any) -> Any:
        """Resolves, expects the error, and that both folders are as they were."""
        before = sorted(self.folder.rglob("*")), self.unpacked()
        with pytest.raises(error) as raised:
            (store or self.store()).resolve(Registration(url, **registration))
        assert (sorted(self.folder.rglob("*")), self.unpacked()) == before
        return raised.value


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    place = Place(tmp_path, monkeypatch)
    yield place
    for store in place.stores:
        store.close()
    assert list(place.temp.iterdir()) == []


def test_an_archive_becomes_a_model(place: Place) -> None:
    place.put("a.mar", mar())
    config = place.store().resolve(Registration("a.mar", batch_size=8, max_batch_delay=50, initial_workers=2))
    assert (config.name, config.version, config.backend, config.url, config.runtime) == (
        "m",
        "1.0",
        "handler",
        "a.mar",
        "python",
    )
    assert config.handler is not None
    assert config.handler.entry == "h.py" and config.handler.manifest["model"]["modelName"] == "m"
    assert Path(config.version_directory, "h.py").is_file()
    assert (config.max_batch_size, config.batching.enabled, config.batching.max_queue_delay_us) == (8, True, 50_000)
    assert config.batching.default_queue_policy.max_queue_size == 100
    assert (config.min_workers, config.max_workers, config.response_timeout_s, config.startup_timeout_s) == (2, 2, 120, 120)
    assert config.instance_groups[0].kind == "KIND_CPU"
    assert config.torchserve["batchSize"] == 8 and config.torchserve["deviceType"] == "cpu"


def test_the_config_can_travel_to_workers(place: Place) -> None:
    import msgspec

    place.put("a.mar", mar(yaml="handler: {since: 2024-01-01, list: [1, null, .nan]}\n"))
    config = place.store().resolve(Registration("a.mar"))
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(config))
    assert again["handler"]["yaml"]["handler"]["since"] == "2024-01-01"


def test_release_takes_everything_back(place: Place) -> None:
    place.put("a.mar", mar())
    store = place.store()
    one, two = store.resolve(Registration("a.mar")), store.resolve(Registration("a.mar", model_name="other"))
    assert len(place.unpacked()) == 2 and one.work_directory != two.work_directory
    store.release(one)
    assert not Path(one.version_directory).exists() and Path(two.version_directory, "h.py").is_file()
    store.release(one)
    store.close()
    assert place.unpacked() == [] and [path.name for path in place.folder.iterdir()] == ["a.mar"]


def test_folders_are_used_in_place(place: Place, tmp_path: Path) -> None:
    for folder in (place.folder / "inside", tmp_path / "outside" / "only"):
        with zipfile.ZipFile(io.BytesIO(mar())) as archive:
            archive.extractall(folder)
    store = place.store()
    inside, outside = store.resolve(Registration("inside")), store.resolve(Registration(str(tmp_path / "outside")))
    assert inside.version_directory == str(place.folder / "inside")
    assert outside.version_directory == str(tmp_path / "outside" / "only")
    store.release(inside)
    store.release(outside)
    assert (place.folder / "inside" / "h.py").is_file() and (tmp_path / "outside" / "only" / "h.py").is_file()


def test_names_in_the_store(place: Place) -> None:
    place.put("a.mar", mar())
    store = place.store()
    for url in ("a.mar", str(place.folder / "a.mar"), "sub/dir/a.mar", "/elsewhere/a.mar"):
        assert store.resolve(Registration(url)).url == url
    for url, kind in {
        "": "empty",
        "../a.mar": "relative",
        "/x/../a.mar": "relative",
        "nosuch.mar": "missing",
        "ftp://127.0.0.1/a.mar": "missing",
        "a\0.mar": "missing",
    }.items():
        assert place.refused(url, errors.UrlRefused, store).kind == kind, url
    place.put(".hidden.mar", mar())
    assert place.refused(".hidden.mar", errors.UrlRefused, store).kind == "missing"
    assert place.refused("a.mar", errors.UrlRefused, place.store(model_store=None)).kind == "no_store"


def test_what_may_be_asked_for(place: Place) -> None:
    place.put("a.mar", mar())
    assert place.refused("a.mar", errors.InvalidParameter, runtime="cobol").name == "runtime"
    place.refused("a.mar", errors.InvalidRequest, model_name="a/b c")
    place.refused("a.mar", errors.Unsupported, runtime="LSP")
    for line in ("parallelType: tp", "{continuousBatching: true, sequenceBatching: true}"):
        place.put("b.mar", mar(yaml=line))
        assert line.split(":")[0].strip("{") in str(place.refused("b.mar", errors.Unsupported))


def test_with_continuous_batching_each_request_leaves_as_soon_as_the_worker_has_a_place(place: Place) -> None:
    place.put("a.mar", mar(yaml="continuousBatching: true\nbatchSize: 4"))
    config = place.store().resolve(Registration("a.mar"))
    assert (config.continuous, config.overlaps, config.batching.enabled) == (True, True, False)
    assert (config.max_batch_size, config.max_in_flight) == (4, 4)
    assert (config.torchserve["continuousBatching"], config.torchserve["batchSize"]) == (True, 4)


def test_a_config_file_that_is_not_called_yaml_may_be_none(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    python = {"config.py": "model = dict(\n    type='Net',\n    names={'a': 1})\nbatchSize = 3\n"}
    place.put("m.mar", mar(configFile="config.py", modelFile="config.py", files=python))
    with caplog.at_level("WARNING"):
        config = place.store().resolve(Registration("m.mar"))
    assert config.handler is not None and not config.handler.yaml
    assert "the configFile is no model-config.yaml and sets nothing: config.py: " in caplog.text


def test_bad_archives_are_refused_and_leave_nothing(place: Place) -> None:
    place.put("junk.mar", b"junk")
    assert place.refused("junk.mar", errors.InvalidArchive).kind == "model_name"
    assert place.refused("junk.mar", errors.InvalidArchive, model_name="m").kind == "not_archive"
    place.put("noname.mar", mar(name=None))
    assert place.refused("noname.mar", errors.InvalidArchive).kind == "model_name"
    place.put("badname.mar", mar(name="../evil"))
    place.refused("badname.mar", errors.InvalidArchive)
    place.put("nohandler.mar", mar(handler=None))
    assert place.refused("nohandler.mar", errors.InvalidArchive).entry == "handler"
    place.put("noyaml.mar", mar(configFile="model-config.yaml"))
    assert place.refused("noyaml.mar", errors.InvalidArchive).entry == "configFile"
    place.put("evil.mar", mar(yaml="!!python/object/apply:os.system [id]"))
    assert place.refused("evil.mar", errors.InvalidArchive).kind == "yaml"
    place.put("slip.mar", mar(files={"../../evil": "x"}))
    assert place.refused("slip.mar", errors.InvalidArchive).kind == "unsafe"


def test_the_name_comes_from_the_request_the_manifest_or_at_startup_the_file(place: Place) -> None:
    place.put("my-model 2.mar", mar(name=None))
    place.put("b.mar", mar(name="b"))
    store = place.store()
    assert store.resolve(Registration("b.mar", model_name="c")).name == "c"
    assert store.resolve(Registration("b.mar")).name == "b"
    config = store.resolve(Registration("my-model 2.mar"), at_startup=True)
    assert config.name == "my_model_2" and config.loaded_at_startup


def test_a_folder_without_a_manifest_takes_the_servers_handler(place: Place) -> None:
    (place.folder / "plain").mkdir()
    store = place.store(default_service_handler="service.py:handle")
    config = store.resolve(Registration("plain", model_name="m"))
    assert config.handler is not None
    assert (config.version, config.handler.entry, config.handler.manifest) == ("1.0", "service.py:handle", {})


def test_server_settings_reach_the_handler(place: Place) -> None:
    place.put("a.mar", mar())
    settings: dict[str, Any] = {
        "service_envelope": "kserve",
        "limit_max_image_pixels": False,
        "decode_input_request": False,
        "metrics_config": "/m.yaml",
        "ipex_enable": True,
    }
    config = place.store(**settings).resolve(Registration("a.mar", handler="other:entry"))
    spec = config.handler
    assert spec is not None
    assert config.environment == {"TS_DECODE_INPUT_REQUEST": "false", "TS_IPEX_ENABLE": "true"}
    assert (spec.entry, spec.envelope, spec.metrics_config) == ("other:entry", "kserve", "/m.yaml")
    assert not spec.limit_max_image_pixels and not spec.decode_input_request


def test_numbers_below_one_show_as_given_and_run_as_one(place: Place) -> None:
    place.put("a.mar", mar())
    asked = Registration(
        "a.mar", batch_size=-5, max_batch_delay=-7, initial_workers=-1, response_timeout=-3, startup_timeout=0
    )
    config = place.store().resolve(asked)
    assert (config.max_batch_size, config.batching.max_queue_delay_us, config.min_workers) == (1, 0, 0)
    assert (config.response_timeout_s, config.startup_timeout_s) == (AT_ONCE, AT_ONCE)  # not: no limit
    shown = config.torchserve
    assert (shown["batchSize"], shown["maxBatchDelay"], shown["responseTimeout"], shown["startupTimeout"]) == (-5, -7, -3, 0)


def test_models_json_counts_by_name_and_version(place: Place) -> None:
    place.put("a.mar", mar(version="2.0"))
    entry = {"minWorkers": 1, "maxWorkers": 2, "batchSize": 3, "maxBatchDelay": 5000, "responseTimeout": 60}
    config = place.store(models={"m": {"2.0": entry}}).resolve(Registration("a.mar"), at_startup=True)
    assert (config.max_batch_size, config.batching.max_queue_delay_us, config.response_timeout_s) == (3, 5_000_000, 60)
    assert (config.min_workers, config.max_workers) == (1, 2)
    config = place.store(models={"m": {"1.0": entry}}, default_workers_per_model=3).resolve(
        Registration("a.mar"), at_startup=True
    )
    assert (config.max_batch_size, config.min_workers) == (1, 3)


def test_a_snapshots_numbers_beat_all(place: Place) -> None:
    place.put("a.mar", mar(yaml="{minWorkers: 1, maxWorkers: 1, batchSize: 9, responseTimeout: 9}"))
    restored = Registered("m", "1.0", True, "a.mar", 2, 4, 3, 30, 20, 21)
    config = place.store().resolve(Registration("a.mar", model_name="m"), at_startup=True, restored=restored)
    assert (config.min_workers, config.max_workers, config.max_batch_size) == (2, 4, 3)
    assert (config.response_timeout_s, config.startup_timeout_s, config.batching.max_queue_delay_us) == (20, 21, 30_000)
    assert not config.loaded_at_startup


@pytest.mark.parametrize(
    ("yaml", "gpus", "number", "kind", "ids"),
    [
        ("{}", (), None, "KIND_CPU", ()),
        ("{}", (0, 1), None, "KIND_GPU", (0, 1)),
        ("{}", (0, 1), 1, "KIND_GPU", (0,)),
        ("{}", (0, 1), 0, "KIND_CPU", ()),
        ("deviceType: cpu", (0, 1), None, "KIND_CPU", ()),
        ("deviceType: gpu", (), None, "KIND_CPU", ()),
        ("deviceIds: [1]", (0, 1), None, "KIND_GPU", (1,)),
        ("deviceIds: [1, 7]", (0, 1), None, "KIND_GPU", (0, 1)),
    ],
)
def test_devices(
    place: Place, yaml: str, gpus: tuple[Any, ...], number: int | None, kind: str, ids: tuple[Any, ...]
) -> None:
    place.put("a.mar", mar(yaml=yaml))
    config = place.store(gpus, number_of_gpu=number).resolve(Registration("a.mar"))
    (group,) = config.instance_groups
    assert (group.kind, group.gpus) == (kind, ids)
    assert config.torchserve["deviceType"] == ("gpu" if kind == "KIND_GPU" else "cpu")
    assert config.torchserve.get("deviceIds") == ([1] if yaml == "deviceIds: [1]" else None)


# -- by URL ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def web() -> Iterator[Web]:
    with fake.serving({"/files/a.mar": fake.body(mar()), "/files/junk.mar": fake.body(b"junk")}) as served:
        yield served


def test_an_archive_by_url_stays_in_the_store_until_it_is_released(place: Place, web: Web) -> None:
    store = place.store(allow_private_urls=True)
    url = web.base + "/files/a.mar?signature=1"
    web.routes["/files/a.mar?signature=1"] = fake.body(mar())
    config = store.resolve(Registration(url))
    assert config.url == url and (place.folder / "a.mar").read_bytes() == mar()
    assert place.refused(url, errors.ArchiveExists, store).filename == "a.mar"
    assert len(web.asked) == 1
    store.release(config)
    assert list(place.folder.iterdir()) == [] and place.unpacked() == []
    store.resolve(Registration(url))
    store.close()
    assert [path.name for path in place.folder.iterdir()] == ["a.mar"]


def test_what_cannot_be_had_leaves_the_store_as_it_was(place: Place, web: Web) -> None:
    store = place.store(allow_private_urls=True)
    assert place.refused(web.base + "/nosuch.mar", errors.DownloadFailed, store).url == web.base + "/nosuch.mar"
    assert place.refused(web.base + "/files/junk.mar", errors.InvalidArchive, store).kind == "model_name"
    assert place.refused(web.base + "/files/%2e%2e%2fa.mar", errors.UrlRefused, store).kind == "relative"
    assert place.refused(web.base + "/.mar", errors.UrlRefused, store).kind == "not_allowed"
    assert place.refused(web.base + "/", errors.UrlRefused, store).kind == "not_allowed"
    assert (
        place.refused("file:///nonexistent/nosuch.mar", errors.DownloadFailed, store).url == "file:///nonexistent/nosuch.mar"
    )
    place.refused(
        web.base + "/files/a.mar", errors.DownloadFailed, place.store(allow_private_urls=True, max_download_bytes=10)
    )
    place.refused(web.base + "/files/a.mar", errors.Unsupported, store, s3_sse_kms=True)


def test_private_and_unlisted_urls_are_refused_before_anything_is_asked(place: Place, web: Web) -> None:
    url = web.base + "/files/a.mar"
    assert place.refused(url, errors.UrlRefused).kind == "private"
    assert (
        place.refused(url, errors.UrlRefused, place.store(allow_private_urls=True, allowed_urls=("https://s3/.*",))).kind
        == "not_allowed"
    )
    assert web.asked == []


def test_a_store_that_cannot_be_written_is_said(place: Place, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Path, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    store = place.store(allow_private_urls=True)
    monkeypatch.setattr("os.link", full)
    monkeypatch.setattr("shutil.copyfile", full)
    place.refused(web.base + "/files/a.mar", errors.SaveFailed, store)


def test_a_store_on_another_file_system_is_written_whole(place: Place, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    link, calls = os.link, []

    def crossing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 1:
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr("os.link", crossing)
    place.store(allow_private_urls=True).resolve(Registration(web.base + "/files/a.mar"))
    assert [path.name for path in place.folder.iterdir()] == ["a.mar"]
    assert (place.folder / "a.mar").read_bytes() == mar()


def test_files_by_url_are_copied(place: Place, tmp_path: Path) -> None:
    (tmp_path / "b.mar").write_bytes(mar())
    store = place.store()
    config = store.resolve(Registration(f"file://{tmp_path}/b.mar"))
    assert (place.folder / "b.mar").is_file()
    place.refused(f"file://{place.folder}/b.mar", errors.ArchiveExists, store)
    store.release(config)
    assert (tmp_path / "b.mar").is_file() and not (place.folder / "b.mar").exists()


def test_the_pages_url_is_fetched_when_its_host_is_reachable(
    place: Place, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default allowed_urls let the page's https URL through; only the connection is replaced here."""
    asked = []

    def download(url: str, target: Path, rules: Rules, progress: _Progress) -> None:
        asked.append((url, rules.allow_private))
        target.write_bytes(mar(name="resnet-152-batch_v2", version="2.0"))

    monkeypatch.setattr(fetching, "_download", download)
    url = "https://torchserve.pytorch.org/mar_files/resnet-152-batch_v2.mar"
    config = place.store().resolve(Registration(url, batch_size=3, max_batch_delay=10, initial_workers=1))
    assert asked == [(url, False)]
    assert (config.name, config.version, config.max_batch_size) == ("resnet-152-batch_v2", "2.0", 3)


# -- the recorded archives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "registration", "at_startup", "settings"),
    [
        ("startup.006.describe_cfg", Registration("yamlcfg.mar", model_name="cfg"), True, "startup"),
        ("startup.005.describe_my_echo", Registration("echo_batch.mar", model_name="my_echo"), True, "startup"),
        ("startup.004.describe_noop", Registration("noop.mar"), True, "startup"),
        ("startup.010.describe_notloaded", Registration("slow.mar", model_name="notloaded"), False, "startup"),
        (
            "startup.014.describe_my_echo_again",
            Registration("echo_batch.mar", model_name="my_echo", batch_size=5, response_timeout=9, initial_workers=1),
            False,
            "startup",
        ),
        ("model_config.001.describe_ctimeout", Registration("slow_ctimeout.mar", initial_workers=1), False, "model_config"),
        ("model_config.006.describe_ticket", Registration("slow_ticket.mar", initial_workers=1), False, "model_config"),
        (
            "main.102.describe_negative",
            Registration("noop.mar", "neg", None, None, -5, -7, -1, response_timeout=-3, startup_timeout=0),
            False,
            "main",
        ),
        ("main.107.describe_batch_minus_one", Registration("noop.mar", "minus1"), False, "main"),
        ("main.111.describe_json_minimal", Registration("noop.mar", "jsonmin", max_batch_delay=-10000), False, "main"),
    ],
)
def test_descriptions_show_the_recorded_numbers(
    place: Place, record: str, registration: Registration, at_startup: bool, settings: str
) -> None:
    sessions = json.loads((KIT / "golden" / "sessions.json").read_text())["sessions"]
    text = next(session for session in sessions if session["name"] == settings)["launch"]["config"]
    for listener in ("inference", "management", "metrics"):
        text = text.replace("{{" + listener + "_address}}", "http://127.0.0.1:0")
    (place.temp / "c.properties").write_text(
        text.replace("{{grpc_inference_port}}", "1").replace("{{grpc_management_port}}", "2")
    )
    loaded = Settings.load({"ts_config": "c.properties", "model_store": str(KIT / "mars")}, {}, place.temp)
    (place.temp / "c.properties").unlink()
    (recorded,) = json.loads((KIT / "golden" / f"{record}.json").read_text())["response"]["body_json"]
    store = ModelStore(loaded, gpus=())
    place.stores.append(store)
    config = store.resolve(registration, at_startup=at_startup)
    assert {key: recorded[key] for key in config.torchserve} == dict(config.torchserve)
    assert (config.name, config.version, config.runtime) == (
        recorded["modelName"],
        recorded["modelVersion"],
        recorded["runtime"],
    )
    assert config.loaded_at_startup == recorded["loadedAtStartup"]
    assert config.batching.default_queue_policy.max_queue_size == recorded["jobQueueStatus"]["remainingCapacity"]


def test_a_temporary_folder_that_takes_nothing_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    store = place.store()
    place.put("m.mar", mar())
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: (_ for _ in ()).throw(full))
    error = place.refused("m.mar", errors.SaveFailed, store)
    assert "nothing can be kept in the temporary folder: [Errno 28] No space left on device" in str(error)
    monkeypatch.undo()
    monkeypatch.setattr("tempfile.tempdir", str(place.temp))
    assert store.resolve(Registration("m.mar")).name == "m"


@pytest.mark.parametrize("url", ["x" * 300 + ".mar", "x" * 5000, "/" + "x" * 300, "/" + "a/" * 5000])
def test_a_name_that_is_too_long_is_not_there(place: Place, url: str) -> None:
    assert "in the model store" in str(place.refused(url, errors.UrlRefused))
