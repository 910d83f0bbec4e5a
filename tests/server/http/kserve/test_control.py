"""The repository API, and the trace and log settings."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

import falcon.testing
import pytest

from jitney.core.errors import InvalidConfig, InvalidRequest, LoadFailed, ModelNotFound, StepsUnfit, Unavailable
from jitney.tests.fakes.dataplane import FakeDataPlane

Client = falcon.testing.TestClient


def post(client: Client, path: str, document: Any = None) -> falcon.testing.Result:
    return client.simulate_post(path, body=b"" if document is None else json.dumps(document).encode())


def test_the_index_lists_versions_and_their_states(client: Client, dataplane: FakeDataPlane) -> None:
    dataplane.failures["broken"] = "cannot start"
    rows = post(client, "/v2/repository/index").json
    assert {"name": "versions", "version": "3", "state": "READY"} in rows
    assert {"name": "broken", "version": "1", "state": "UNAVAILABLE", "reason": "cannot start"} in rows
    ready = post(client, "/v2/repository/index", {"ready": True}).json
    assert {row["state"] for row in ready} == {"READY"}
    assert post(client, "/v2/repository/index", {"ready": 1}).status_code == 400
    assert client.simulate_get("/v2/repository/index").status_code == 405


def test_a_load_may_bring_a_configuration_and_files(client: Client, dataplane: FakeDataPlane) -> None:
    assert post(client, "/v2/repository/models/m/load").status_code == 200
    reply = post(client, "/v2/repository/models/m/load", {})
    assert (reply.content, reply.headers["content-type"]) == (b"", "application/json")
    content = base64.b64encode(b"\0code").decode()
    parameters = {"config": '{"backend":"python"}', "file:1/model.py": content}
    assert post(client, "/v2/repository/models/m/load", {"parameters": parameters}).status_code == 200
    assert dataplane.loads == [
        ("m", None, None),
        ("m", None, None),
        ("m", '{"backend":"python"}', {"1/model.py": b"\0code"}),
    ]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"config": 3}, "attempt to access JSON non-string as string"),
        ({"foo": "x"}, "unexpected parameter 'foo'"),
        ({"file:1/model.py": "QUJD"}, "a 'config' parameter is required"),
        ({"config": "{}", "file:1/model.py": "no base64!"}, "not valid base64"),
        ({"config": "{}", "file:1/model.py": 3}, "non-string"),
    ],
)
def test_a_load_that_cannot_be_understood_is_refused(client: Client, parameters: Any, text: str) -> None:
    reply = post(client, "/v2/repository/models/m/load", {"parameters": parameters})
    assert reply.status_code == 400
    assert text in reply.json["error"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "1/../../x", "", "a//b", ".", "a/./b", "a\x00b", "a/"])
def test_files_stay_inside_the_models_folder(client: Client, dataplane: FakeDataPlane, path: str) -> None:
    parameters = {"config": "{}", f"file:{path}": "QUJD"}
    assert post(client, "/v2/repository/models/m/load", {"parameters": parameters}).status_code == 400
    assert dataplane.loads == []


@pytest.mark.parametrize("name", ["..", ".", "a b", "a\nb", "x" * 129, "ü", " .."])
def test_names_that_could_leave_the_repository_are_refused(client: Client, dataplane: FakeDataPlane, name: str) -> None:
    for verb in ("load", "unload"):
        reply = post(client, f"/v2/repository/models/{name}/{verb}")
        assert reply.status_code == 400
        assert "invalid name" in reply.json["error"]
    assert (dataplane.loads, dataplane.unloads) == ([], [])


def test_unloading_an_unknown_model_is_no_error(client: Client, dataplane: FakeDataPlane) -> None:
    assert post(client, "/v2/repository/models/m/unload").status_code == 200
    body = {"parameters": {"unload_dependents": True}}
    assert post(client, "/v2/repository/models/m/unload", body).status_code == 200
    assert dataplane.unloads == [("m", False), ("m", True)]


_POLL = "failed to load 'm', failed to poll from model repository: "


@pytest.mark.parametrize(
    ("problem", "status", "text"),
    [
        (
            LoadFailed("load failed for model 'm': cannot start"),
            400,
            "load failed for model 'm': cannot start",
        ),
        (StepsUnfit("it has no step"), 400, "load failed for model 'm': it has no step"),
        (InvalidConfig("line 3"), 400, _POLL + "line 3"),
        (InvalidRequest("files need a config"), 400, _POLL + "files need a config"),
        (ModelNotFound("m"), 400, _POLL + "no repository has a model of this name"),
        (Unavailable("not allowed"), 503, "not allowed"),
    ],
)
def test_why_a_load_failed_reaches_the_client(
    client: Client, dataplane: FakeDataPlane, problem: Exception, status: int, text: str
) -> None:
    dataplane.control_error = problem  # type: ignore[assignment]
    reply = post(client, "/v2/repository/models/m/load")
    assert (reply.status_code, reply.json) == (status, {"error": text})


def test_named_repositories_are_not_supported(client: Client) -> None:
    for path in ("index", "models/m/load", "models/m/unload"):
        reply = post(client, f"/v2/repository/mine/{path}")
        assert (reply.status_code, reply.json) == (501, {"error": "'repository_name' specification is not supported"})


# -- settings -------------------------------------------------------------------------------------------------------------


def test_trace_settings_are_kept_and_cleared(client: Client) -> None:
    default = client.simulate_get("/v2/trace/setting").json
    assert default == {
        "trace_level": ["OFF"], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0", "trace_file": "",
        "trace_mode": "triton",
    }  # fmt: skip
    assert post(client, "/v2/trace/setting", {"trace_rate": "500"}).json == default | {"trace_rate": "500"}
    of_model = post(client, "/v2/models/identity/trace/setting", {"log_frequency": "2", "trace_count": 3}).json
    assert of_model == default | {"trace_rate": "500", "log_frequency": "2", "trace_count": "3"}
    cleared = post(client, "/v2/models/identity/trace/setting", {"log_frequency": None, "trace_count": None}).json
    assert cleared == client.simulate_get("/v2/trace/setting").json
    assert post(client, "/v2/trace/setting", {"trace_rate": None}).json == default


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"trace_rate": "abc"}, 400),
        ({"trace_file": "/tmp/x"}, 501),
        ({"trace_level": ["ALL"]}, 400),
        ({"trace_level": "TIMESTAMPS"}, 400),
        ({"nope": 1}, 400),
    ],
)
def test_bad_trace_settings_change_nothing(client: Client, document: Any, status: int) -> None:
    before = client.simulate_get("/v2/trace/setting").json
    assert post(client, "/v2/trace/setting", {"trace_count": "7", **document}).status_code == status
    assert client.simulate_get("/v2/trace/setting").json == before
    assert post(client, "/v2/models/nope/trace/setting", {}).json == {"error": "Request for unknown model : nope"}


@pytest.fixture
def log_level() -> Iterator[logging.Logger]:
    logger = logging.getLogger("jitney")
    before = logger.level
    yield logger
    logger.setLevel(before)


def test_log_settings_set_the_level(client: Client, log_level: logging.Logger) -> None:
    assert client.simulate_get("/v2/logging").text == (
        '{"log_file":"","log_info":true,"log_warning":true,"log_error":true,"log_verbose_level":0,"log_format":"default"}'
    )
    assert post(client, "/v2/logging", {"log_info": False}).json["log_info"] is False
    assert log_level.level == logging.WARNING
    post(client, "/v2/logging", {"log_verbose_level": 1})
    assert log_level.level == logging.DEBUG


@pytest.mark.parametrize(
    ("document", "status"),
    [({"log_file": "/x"}, 501), ({"log_format": "xyz"}, 400), ({"log_info": "yes"}, 400), ({"nope": 1}, 400)],
)
def test_bad_log_settings_are_refused(client: Client, document: Any, status: int) -> None:
    assert post(client, "/v2/logging", document).status_code == status
    assert client.simulate_get("/v2/logging").json["log_file"] == ""
