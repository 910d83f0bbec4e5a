"""A real server that was started as `torchserve` is: snapshots, models that fail, logs, addresses, what workers may see."""

import datetime
import json
import os
import re
import ssl
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jitney.server.settings import snapshots
from jitney.tests.fakes import web
from jitney.tests.fakes.torchserve_server import CAPITALS, archive, running
from jitney.tools.bench.ports import free_port
from jitney.tools.bench.served import ServerFailed, wait_until

#: Cannot be loaded until the file that its source names exists.
LATE = """
import pathlib

class Late:
    def initialize(self, context):
        if not pathlib.Path({path!r}).exists():
            raise ValueError("its file is not there yet")

    def handle(self, data, context):
        return ["here"] * len(data)
"""
TALKATIVE = """
import sys

def handle(data, context):
    if data is None:
        print("loading, as printed")
        return None
    body = bytes(data[0].get("body") or b"").decode()
    print("asked for " + body)
    print("a warning", file=sys.stderr)
    context.metrics.add_counter("Asked", 1)
    if body == "bad":
        raise KeyError("the handler's own reason")
    return [body]
"""
CURIOUS = """
import os

def handle(data, context):
    return None if data is None else [sorted(os.environ)]
"""
SLOW = """
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep(0.3)
    return ["slept"] * len(data)
"""


# -- start and models that fail -----------------------------------------------------------------------------------------


def test_models_that_fail_do_not_keep_the_others_from_starting(tmp_path: Path) -> None:
    store, awaited = tmp_path / "store", tmp_path / "awaited"
    archive(store, "capitals")
    archive(store, "late", LATE.format(path=str(awaited)), entry="")
    load = "capitals.mar,nosuch.mar,later=late.mar"
    with running(tmp_path, load_models=load, default_workers_per_model="1", disable_system_metrics="true") as site:
        printed = "\n".join(site.server.lines)
        assert re.search(r"^capitals 1\.0: ready after [\d.]+ s$", printed, re.M)
        assert re.search(r"^nosuch\.mar: FAILED: .*nosuch\.mar", printed, re.M)
        assert re.search(r"^later 1\.0: FAILED: .*its file is not there yet", printed, re.M)
        assert site.predict("capitals", b"abc").body == b"ABC"
        for slashes in ("", "/"):
            unknown = json.loads(site.ask("inference", "POST", f"/v2/models/nosuch/infer{slashes}", b"{}").body)
            assert (unknown["code"], unknown["type"]) == (404, "ModelNotFoundException")  # as TorchServe says it
            assert site.ask("inference", "POST", f"/v2/models/capitals/infer{slashes}", b"abc").body == b"ABC"
        assert site.log("ts_log.log").count("gRPC is not served, as --allow-grpc or allow_grpc says") == 1

        status, [described] = site.manage("GET", "/models/later")
        assert (status, described["loadedAtStartup"], len(described["workers"])) == (200, True, 1)
        assert described["workers"][0]["status"] == "UNLOADING"
        assert described["workers"][0]["startTime"].startswith(f"{datetime.date.today():%Y-%m}")  # its latest attempt
        assert site.ask("inference", "GET", "/ping").status == 200  # it is being tried again
        began = time.monotonic()
        refused = site.predict("later", b"abc")
        assert refused.status == 503
        assert b"its file is not there yet" in refused.body
        assert time.monotonic() - began < 2

        awaited.touch()
        wait_until(lambda: site.predict("later").body == b"here", 30, "the worker that is tried again")
        _, [described] = site.manage("GET", "/models/later")
        assert described["workers"][0]["status"] == "READY"


GATED = """
import os, time

while not os.path.exists({path!r}):
    time.sleep(0.01)
import a_package_nobody_has

def handle(data, context):
    return data
"""
INFER = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'


@pytest.mark.parametrize("front_ends", ["1", "2"])
def test_requests_that_came_while_a_broken_model_was_loading_hear_why(tmp_path: Path, front_ends: str) -> None:
    """In both dialects, whoever is asked at once and whoever waited for the end of a load that never ends."""
    store, go = tmp_path / "store", tmp_path / "go"
    archive(store, "broken", GATED.format(path=str(go)))
    archive(store, "endless", GATED.format(path=str(tmp_path / "never")))
    with running(tmp_path, front_ends=front_ends, default_startup_timeout="5") as site, ThreadPoolExecutor(4) as clients:
        for model in ("broken", "endless"):
            assert site.manage("POST", f"/models?url={model}.mar&initial_workers=1&synchronous=false")[0] == 202
        asked = [
            (model, path)
            for model in ("broken", "endless")
            for path in (f"/predictions/{model}", f"/v2/models/{model}/infer")
        ]
        answers = [clients.submit(site.ask, "inference", "POST", path, INFER) for _, path in asked]
        go.touch()
        for (model, _), answer in zip(asked, answers, strict=True):
            found = answer.result(30)
            why = "a_package_nobody_has" if model == "broken" else "not loaded within 5 s"
            assert found.status == 503
            assert why in (found.header("x-jitney-reason") or "")


def test_a_registration_that_fails_leaves_nothing_and_says_why(tmp_path: Path) -> None:
    archive(tmp_path / "store", "late", LATE.format(path=str(tmp_path / "awaited")), entry="")
    with running(tmp_path, disable_system_metrics="true") as site:
        failed = site.ask("management", "POST", "/models?url=late.mar&initial_workers=1")
        told = {"code": 500, "type": "InternalServerException"}
        assert json.loads(failed.body) == told | {"message": "Failed to start workers for model late version: 1.0"}
        assert "ValueError: its file is not there yet" in (failed.header("x-jitney-reason") or "")
        assert site.manage("GET", "/models/late")[0] == 404
        wait_until(lambda: "its file is not there yet" in site.log("model_log.log"), 10, "what the worker printed")
        (tmp_path / "awaited").touch()
        assert site.manage("POST", "/models?url=late.mar&initial_workers=1")[0] == 200
        assert site.predict("late").body == b"here"


def test_a_model_scaled_to_workers_that_cannot_load_recovers_with_the_next_scaling(tmp_path: Path) -> None:
    archive(tmp_path / "store", "late", LATE.format(path=str(tmp_path / "awaited")), entry="")
    with running(tmp_path, disable_system_metrics="true") as site:
        assert site.manage("POST", "/models?url=late.mar")[0] == 200
        assert site.predict("late").status == 503
        status, answer = site.manage("PUT", "/models/late?min_worker=1&synchronous=true")
        assert (status, answer["message"]) == (500, "Failed to start workers for model late version: null")
        assert site.manage("PUT", "/models/late?min_worker=0&synchronous=true")[0] == 200
        assert b"has no worker to serve inference request" in site.predict("late").body
        (tmp_path / "awaited").touch()
        assert site.manage("PUT", "/models/late?min_worker=2&synchronous=true")[0] == 200
        assert site.predict("late").body == b"here"


def test_a_slow_download_does_not_keep_others_from_registering(tmp_path: Path) -> None:
    content = archive(tmp_path / "elsewhere", "remote").read_bytes()
    archive(tmp_path / "store", "capitals")
    asked, release = threading.Event(), threading.Event()

    def slow(handler: Any) -> None:
        asked.set()
        release.wait(30)
        web.body(content)(handler)

    with (
        web.serving({"/remote.mar": slow}) as remote,
        running(tmp_path, allow_private_urls="true", disable_system_metrics="true") as site,
    ):
        answers: list[Any] = []
        url = f"/models?url={remote.base}/remote.mar&initial_workers=1"
        downloading = threading.Thread(target=lambda: answers.append(site.manage("POST", url)))
        downloading.start()
        assert asked.wait(10)
        assert site.manage("POST", "/models?url=capitals.mar&initial_workers=1")[0] == 200
        assert site.manage("PUT", "/models/capitals?min_worker=2&synchronous=true")[0] == 200
        release.set()
        downloading.join(30)
        assert answers == [(200, {"status": 'Model "remote" Version: 1.0 registered with 1 initial workers'})]
        assert (tmp_path / "store" / "remote.mar").exists()
        assert site.manage("DELETE", "/models/remote")[0] == 200
        assert not (tmp_path / "store" / "remote.mar").exists()  # it came by URL


def test_the_same_version_registered_by_several_at_once_is_registered_once(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    with running(tmp_path, disable_system_metrics="true") as site:
        statuses: list[int] = []
        path = "/models?url=capitals.mar&initial_workers=1"
        clients = [threading.Thread(target=lambda: statuses.append(site.manage("POST", path)[0])) for _ in range(6)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
        assert sorted(statuses) == [200] + [409] * 5
        assert site.predict("capitals", b"abc").body == b"ABC"
        unpacked = next((tmp_path / "tmp").glob("jitney-models-*"))
        assert len([folder for folder in unpacked.iterdir() if folder.is_dir()]) == 1


# -- snapshots ----------------------------------------------------------------------------------------------------------


def kinds(folder: Path) -> list[str]:
    found = sorted((folder / "logs" / "config").iterdir())
    return [path.name.partition("-")[2].removesuffix(".cfg") for path in found]


def test_a_restart_brings_back_what_was_registered(tmp_path: Path) -> None:
    store = tmp_path / "store"
    archive(store, "capitals")
    archive(store, "capitals", CAPITALS, "2.0", file="capitals_v2")
    with running(tmp_path, (), load_models="first=capitals.mar", default_workers_per_model="1") as site:
        assert kinds(tmp_path) == ["startup"]
        assert site.manage("POST", "/models?url=capitals.mar&initial_workers=1&batch_size=3&max_batch_delay=20")[0] == 200
        assert site.manage("POST", "/models?url=capitals_v2.mar&initial_workers=1&response_timeout=7")[0] == 200
        assert site.manage("PUT", "/models/capitals/1.0?min_worker=2&max_worker=3&synchronous=true")[0] == 200
        assert site.manage("PUT", "/models/capitals/2.0/set-default")[0] == 200
        assert site.manage("POST", "/models?url=nosuch.mar")[0] == 404
        assert site.manage("DELETE", "/models/capitals/2.0")[0] == 403
        assert kinds(tmp_path) == ["startup", *["snapshot"] * 4]  # not where nothing changed
        before = {name: site.manage("GET", f"/models/{name}/all")[1] for name in ("first", "capitals")}
        addresses = site.addresses
    assert kinds(tmp_path)[-1] == "shutdown"
    with running(tmp_path, (), addresses=addresses) as site:
        after = {name: site.manage("GET", f"/models/{name}/all")[1] for name in ("first", "capitals")}
        for name, described in after.items():
            for was, now in zip(before[name], described, strict=True):
                assert now["loadedAtStartup"] is False
                changed = {key for key in was if was[key] != now[key]}
                assert changed <= {"workers", "loadedAtStartup"}, (name, changed)
                assert len(now["workers"]) == len(was["workers"])
        assert site.predict("capitals", b"version").body == b"2.0"
        assert site.predict("capitals/1.0", b"version").body == b"1.0"
        assert site.predict("first", b"abc").body == b"ABC"


def test_a_snapshot_of_archives_that_are_gone_ends_the_start(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    with running(tmp_path, ()) as site:
        assert site.manage("POST", "/models?url=capitals.mar")[0] == 200
        addresses = site.addresses
    (tmp_path / "store" / "capitals.mar").unlink()
    reason = r"model_snapshot names capitals\.mar, which the model store .* does not hold"
    with pytest.raises(ServerFailed, match=reason), running(tmp_path, (), addresses=addresses):
        pass


def test_without_snapshots_none_is_written(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    with running(tmp_path, ("--ncs",), load_models="all", default_workers_per_model="1") as site:
        assert site.predict("capitals", b"abc").body == b"ABC"
    assert not (tmp_path / "logs" / "config").exists()
    assert snapshots.newest(tmp_path / "logs" / "config") is None


# -- logs ---------------------------------------------------------------------------------------------------------------


def test_the_five_log_files(tmp_path: Path) -> None:
    archive(tmp_path / "store", "talkative", TALKATIVE)
    settings: dict[str, Any] = {"load_models": "all", "default_workers_per_model": "1", "model_metrics_auto_detect": "true"}
    with running(tmp_path, env={"METRICS_LOCATION": "figures"}, metrics_mode="log", **settings) as site:
        files = {"access_log.log", "model_log.log", "ts_log.log"}
        assert {path.name for path in (tmp_path / "logs").iterdir()} == files
        assert site.predict("talkative", b"well").status == 200
        failed = site.predict("talkative", b"bad")
        assert failed.status == 503
        assert json.loads(failed.body)["message"] == "Prediction failed"  # TorchServe's text
        assert failed.header("x-jitney-reason") == 'KeyError: "the handler\'s own reason"'
        assert site.predict("nosuch").header("x-jitney-reason") is None
        wait_until(lambda: "asked for bad" in site.log("model_log.log"), 10, "the worker's output")
        wait_until(lambda: "Asked" in (tmp_path / "figures" / "model_metrics.log").read_text(), 10, "the handler's metric")
    model_log = site.log("model_log.log")
    assert "loading, as printed" in model_log
    assert "a warning" in model_log
    assert "Traceback (most recent call last)" in model_log
    assert 'KeyError: "the handler\'s own reason"' in model_log
    assert "talkative_handler.py" in model_log
    access = site.log("access_log.log")
    time_of_log4j = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
    assert re.search(time_of_log4j + r' - /127\.0\.0\.1:\d+ "POST /predictions/talkative HTTP/1.1" 200 \d+$', access, re.M)
    assert re.search(r'"POST /predictions/talkative HTTP/1.1" 503 \d+', access)
    assert "SIGTERM" in site.log("ts_log.log")
    figures, handlers_figures = ((tmp_path / "figures" / f"{kind}_metrics.log").read_text() for kind in ("ts", "model"))
    assert re.search(r"Requests2XX\.Count:1\.0\|#Level:Host\|#hostname:\S+,timestamp:\d+", figures)
    assert re.search(r"Asked\.Count:1\.0\|#ModelName:talkative,Level:Model\|#hostname:", handlers_figures)
    printed = "\n".join(site.server.lines)
    assert "the handler's own reason" in printed
    assert "POST /predictions" not in printed


def test_a_logging_configuration_of_the_operator(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    config = {
        "handlers": {"own": {"class": "logging.FileHandler", "filename": str(tmp_path / "own.log")}},
        "loggers": {"jitney.access": {"handlers": ["own"], "level": "INFO"}},
    }
    (tmp_path / "logging.json").write_text(json.dumps(config))
    with running(tmp_path, ("--ncs", "--log-config", "logging.json")) as site:
        assert site.ask("inference", "GET", "/ping").status == 200
    assert "/ping" in (tmp_path / "own.log").read_text()
    assert not (tmp_path / "logs").exists()


# -- addresses ----------------------------------------------------------------------------------------------------------


def test_one_unix_socket_for_inference_and_management(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    address = f"unix:{tmp_path}/both.sock"
    with running(tmp_path, inference_address=address, management_address=address) as site:
        assert site.manage("POST", "/models?url=capitals.mar&initial_workers=1")[0] == 200
        assert site.predict("capitals", b"abc").body == b"ABC"
        assert site.ask("metrics", "GET", "/metrics").status == 200
        assert oct((tmp_path / "both.sock").stat().st_mode & 0o777) == "0o600"
    assert not (tmp_path / "both.sock").exists()


def test_all_three_apis_on_one_port_with_cors(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    same: dict[str, Any] = dict.fromkeys(
        ["inference_address", "management_address", "metrics_address"], f"http://127.0.0.1:{free_port()}"
    )
    cors: dict[str, Any] = {
        "cors_allowed_origin": "https://a.example",
        "cors_allowed_methods": "GET, POST",
        "cors_allowed_headers": "X-A",
    }
    with running(tmp_path, load_models="all", default_workers_per_model="1", **same, **cors) as site:
        answer = site.predict("capitals", b"abc")
        assert answer.body == b"ABC"
        assert answer.header("Access-Control-Allow-Origin") == "https://a.example"
        assert answer.header("Access-Control-Allow-Methods") == "GET, POST"
        assert answer.header("Access-Control-Allow-Headers") == "X-A"
        assert site.manage("GET", "/models")[1]["models"] == [{"modelName": "capitals", "modelUrl": "capitals.mar"}]
        assert site.ask("metrics", "GET", "/metrics").status == 200


def test_https_with_the_certificate_that_is_made_at_the_start(tmp_path: Path) -> None:
    archive(tmp_path / "store", "capitals")
    address = f"https://127.0.0.1:{free_port()}"
    with running(tmp_path, load_models="all", default_workers_per_model="1", inference_address=address) as site:
        port = site.addresses["inference"].port
        context = ssl.create_default_context(cadata=ssl.get_server_certificate(("127.0.0.1", port)))
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), urllib.request.ProxyHandler({}))
        request = urllib.request.Request(f"{address}/predictions/capitals", b"abc", {"Content-Type": "text/plain"})
        with opener.open(request, timeout=20) as reply:
            assert reply.read() == b"ABC"
        assert site.manage("GET", "/models")[0] == 200


# -- workers ------------------------------------------------------------------------------------------------------------


def test_what_workers_see_of_the_environment(tmp_path: Path) -> None:
    archive(tmp_path / "store", "curious", CURIOUS)
    secret: dict[str, Any] = {
        "JITNEY_TOKEN": "a-long-enough-token",
        "CLOUD_KEY": "x",
        "CLOUD_REGION": "y",
        "MY_SETTING": "z",
    }
    settings: dict[str, Any] = {"load_models": "all", "default_workers_per_model": "1", "blacklist_env_vars": "CLOUD_K.*"}
    with running(tmp_path, env=secret, **settings) as site:
        assert site.predict("curious").status == 400
        answer = site.predict("curious", Authorization="Bearer a-long-enough-token")
    seen = json.loads(answer.body)
    assert {"CLOUD_REGION", "MY_SETTING"} <= set(seen)
    assert not {"JITNEY_TOKEN", "CLOUD_KEY"} & set(seen)


def test_accepted_requests_are_answered_when_the_server_is_told_to_end(tmp_path: Path) -> None:
    archive(tmp_path / "store", "slow", SLOW)
    with running(tmp_path, load_models="all", default_workers_per_model="1") as site:
        answers: list[bytes] = []
        clients = [threading.Thread(target=lambda: answers.append(site.predict("slow").body)) for _ in range(5)]
        for client in clients:
            client.start()
        wait_until(lambda: site.manage("GET", "/models/slow")[1][0]["jobQueueStatus"]["pendingRequests"] == 4, 10, "a queue")
        os.kill(site.server.process.pid, 15)
        for client in clients:
            client.join(30)
        assert answers == [b"slept"] * 5
    assert not list((tmp_path / "tmp").glob("jitney-*"))
