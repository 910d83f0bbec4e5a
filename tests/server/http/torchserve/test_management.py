"""TorchServe's management routes over HTTP."""

import json
from typing import Any

import pytest

from jitney.core.errors import (
    AlreadyRegistered,
    ArchiveExists,
    DependencyInstallFailed,
    DownloadFailed,
    InvalidArchive,
    JitneyError,
    LoadFailed,
    NoWorkers,
    SaveFailed,
    UrlRefused,
)
from jitney.server.repository.torchserve.registration import Registration
from jitney.server.workers.status import WorkerStatus
from jitney.server.workers.worker_state import WorkerState
from jitney.tests.fakes.raw_http import Answer
from jitney.tests.fakes.torchserve import echo

NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
NOT_FOUND = "Requested resource is not found, please refer to API document."
PROCESSING = "Processing worker updates..."


def status(answer: Answer) -> tuple[int, str]:
    document = json.loads(answer.body)
    assert list(document) == ["status"]
    return answer.status, document["status"]


def error(answer: Answer) -> tuple[int, str, str]:
    document = json.loads(answer.body)
    assert list(document) == ["code", "type", "message"]
    return document["code"], document["type"], document["message"]


# -- list ----------------------------------------------------------------------------------------------------------------


def names(answer: Answer) -> tuple[list[str], str | None]:
    document = json.loads(answer.body)
    return [row["modelName"] for row in document["models"]], document.get("nextPageToken")


@pytest.fixture
def five(site: Any) -> Any:
    for name in ("a", "b", "c", "d"):
        site.plane.add(name, echo)
    return site


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", (["a", "b", "c", "d", "echo"], None)),
        ("?limit=2", (["a", "b"], "2")),
        ("?limit=2&next_page_token=2", (["c", "d"], "4")),
        ("?limit=2&next_page_token=4", (["echo"], None)),
        ("?limit=5", (["a", "b", "c", "d", "echo"], "5")),
        ("?limit=0", ([], "0")),
        ("?limit=-1", (["a", "b", "c", "d", "echo"], None)),
        ("?limit=101", (["a", "b", "c", "d", "echo"], None)),
        ("?limit=abc", (["a", "b", "c", "d", "echo"], None)),
        ("?limit=99999999999999", (["a", "b", "c", "d", "echo"], None)),
        ("?limit=2&next_page_token=abc", (["a", "b"], "2")),
        ("?limit=2&next_page_token=-3", (["a", "b"], "2")),
        ("?next_page_token=1000", ([], None)),
        ("?limit=1&nextPageToken=1", (["a"], "1")),
    ],
)
def test_list_pages(five: Any, query: str, expected: tuple[list[str], str | None]) -> None:
    assert names(five.ask("management", "GET", f"/models{query}")) == expected


def test_an_empty_list_as_it_is_written(site: Any) -> None:
    site.plane.served.clear()
    assert site.ask("management", "GET", "/models/").body == b'{\n  "models": []\n}\n'


# -- describe ------------------------------------------------------------------------------------------------------------

FIELDS = (
    *("modelName", "modelVersion", "modelUrl", "runtime", "minWorkers", "maxWorkers", "batchSize", "maxBatchDelay"),
    *("responseTimeout", "startupTimeout", "maxRetryTimeoutInSec", "clientTimeoutInMills", "parallelType", "parallelLevel"),
    *("deviceType", "continuousBatching", "useJobTicket", "useVenv", "stateful", "sequenceMaxIdleMSec"),
    *("sequenceTimeoutMSec", "maxNumSequence", "maxSequenceJobQueueSize", "loadedAtStartup", "workers", "jobQueueStatus"),
)


def test_describe_has_every_field_in_order(site: Any) -> None:
    (document,) = json.loads(site.ask("management", "GET", "/models/echo").body)
    assert tuple(document) == FIELDS
    assert document["jobQueueStatus"] == {"remainingCapacity": 97, "pendingRequests": 3}


def test_a_worker_that_was_scaled_away_is_none_any_more(site: Any) -> None:
    leaving = WorkerStatus(9000, "echo-0", 1, WorkerState.STOPPING, 0.0, 0, None, 0, "")
    site.plane.served["echo"]["1.0"].workers = [leaving]
    (document,) = json.loads(site.ask("management", "GET", "/models/echo").body)
    assert document["workers"] == []
    assert json.loads(site.ask("management", "GET", "/v1/models/echo").body)["ready"] is False


def test_describe_versions(site: Any) -> None:
    site.plane.add("echo", echo, "2.0")

    def versions(path: str) -> list[str]:
        return [row["modelVersion"] for row in json.loads(site.ask("management", "GET", path).body)]

    assert versions("/models/echo") == ["1.0"] and versions("/models/echo/2.0") == ["2.0"]
    assert versions("/models/echo/all") == ["1.0", "2.0"] and versions("/models/echo/2.0/set-default") == ["1.0"]


def test_describe_what_does_not_exist(site: Any) -> None:
    for path in ("/models/nosuch", "/models/nosuch/1.0", "/models/nosuch/all", "/models/nosuch?customized=true"):
        assert error(site.ask("management", "GET", path)) == (404, "ModelNotFoundException", "Model not found: nosuch")
    text = "Model version: 3.0 does not exist for model: echo"
    assert error(site.ask("management", "GET", "/models/echo/3.0")) == (404, "ModelVersionNotFoundException", text)


def test_customized_metadata_comes_from_the_handler(site: Any) -> None:
    site.plane.metadata = {"labels": ["a"]}
    (document,) = json.loads(site.ask("management", "GET", "/models/echo?customized=true").body)
    assert list(document) == [*FIELDS, "customizedMetadata"] and document["customizedMetadata"] == {"labels": ["a"]}
    assert site.ask("management", "GET", "/models/echo?customized=true").reason == ""
    assert "customizedMetadata" not in json.loads(site.ask("management", "GET", "/models/echo/all?customized=true").body)[0]
    site.plane.refusal = NoWorkers("none")
    text = 'Model "echo" has no worker to serve describe request. Please use scale workers API to add workers.'
    answer = site.ask("management", "GET", "/models/echo?customized=true")
    assert error(answer) == (503, "ServiceUnavailableException", text)


# -- register ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "spec"),
    [
        ("url=a.mar", Registration("a.mar")),
        ("url=a.mar&model_name=&synchronous=yes", Registration("a.mar", synchronous=False)),
        ("url=a.mar&batch_size=abc&initial_workers=1x&response_timeout=", Registration("a.mar")),
        ("url=a.mar;batch_size=4;initial_workers=2#&batch_size=5", Registration("a.mar", batch_size=4, initial_workers=2)),
        ("=url=a.mar&url=b.mar&==url=c.mar", Registration("a.mar")),
        ("url=a.mar&batch_size=-1&max_batch_delay=-100&response_timeout=-1&startup_timeout=-1", Registration("a.mar")),
        (
            "url=a.mar&model_name=m%2F1&handler=h:f&runtime=python3&batch_size=4&max_batch_delay=20&initial_workers=2"
            "&synchronous=TRUE&response_timeout=30&startup_timeout=60&s3_sse_kms=true",
            Registration("a.mar", "m/1", "python3", "h:f", 4, 20, 2, True, 30, 60, True),
        ),
    ],
)
def test_register_from_the_query(site: Any, query: str, spec: Registration) -> None:
    assert site.ask("management", "POST", f"/models?{query}").status in (200, 202)
    assert site.plane.registered == [spec]


def test_register_from_a_json_body_ignores_the_query(site: Any) -> None:
    body = b'{"url": "b.mar", "batch_size": "8", "max_batch_delay": 50, "initial_workers": 1, "synchronous": false, "x": 1}'
    answer = site.ask("management", "POST", "/models?url=a.mar", body, Content_Type="application/json; charset=utf-8")
    assert status(answer) == (202, PROCESSING)
    assert site.plane.registered == [Registration("b.mar", None, None, None, 8, 50, 1, False)]


def test_whole_numbers_of_a_json_body_may_have_a_point(site: Any) -> None:
    body = b'{"url": "b.mar", "batch_size": 4.0, "response_timeout": 7e0}'
    assert site.ask("management", "POST", "/models", body, Content_Type="application/json").status == 200
    assert site.plane.registered == [Registration("b.mar", batch_size=4, response_timeout=7)]


def test_a_json_body_may_begin_with_a_byte_order_mark(site: Any) -> None:
    body = b'\xef\xbb\xbf{"url": "b.mar"}'
    assert site.ask("management", "POST", "/models", body, Content_Type="application/json").status == 200
    assert site.plane.registered == [Registration("b.mar")]


def test_an_empty_runtime_is_none(site: Any) -> None:
    answer = site.ask("management", "POST", "/models?url=a.mar&runtime=")
    assert error(answer) == (400, "BadRequestException", "Invalid RuntimeType value: ")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "the body is not JSON"),
        (b'{"url": ', "the body is not JSON"),
        (b"[]", "must be a JSON object"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"{}", "Parameter url is required."),
        (b'{"url": 3}', "parameter 'url' is '3': expected a string"),
        (b'{"url": "a", "batch_size": "many"}', "parameter 'batch_size' is 'many': expected an integer"),
        (b'{"url": "a", "batch_size": 1e40}', "expected an integer"),
        (b'{"url": "a", "batch_size": true}', "expected an integer"),
        (b'{"url": "a", "synchronous": 1}', "expected true or false"),
        (b'{"url": "a", "runtime": "cobol"}', "Invalid RuntimeType value: cobol"),
    ],
)
def test_a_bad_json_registration_is_refused_with_its_reason(site: Any, body: bytes, text: str) -> None:
    answer = site.ask("management", "POST", "/models", body, Content_Type="application/json")
    assert error(answer)[:2] == (400, "BadRequestException") and text in error(answer)[2]
    assert site.plane.registered == []


def test_registering_needs_a_url(site: Any) -> None:
    expected = (400, "BadRequestException", "Parameter url is required.")
    assert error(site.ask("management", "POST", "/models")) == expected
    form = site.ask("management", "POST", "/models", b"url=a.mar", Content_Type="application/x-www-form-urlencoded")
    assert error(form) == expected


def test_what_a_registration_answers(site: Any) -> None:
    text = (
        'Model "archive" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers for the model.'
    )
    assert status(site.ask("management", "POST", "/models?url=a")) == (200, text)
    text = 'Model "archive" Version: 1.0 registered with 2 initial workers'
    assert status(site.ask("management", "POST", "/models?url=a&initial_workers=2")) == (200, text)
    assert status(site.ask("management", "POST", "/models?url=a&initial_workers=2&synchronous=false")) == (202, PROCESSING)


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (UrlRefused("", "", "empty"), (404, "ModelNotFoundException", "empty url")),
        (UrlRefused("", "../x", "relative"), (404, "ModelNotFoundException", "Relative path is not allowed in url: ../x")),
        (UrlRefused("", "x", "no_store"), (404, "ModelNotFoundException", "Model store has not been configured.")),
        (
            UrlRefused("", "http://x", "private"),
            (404, "ModelNotFoundException", "Given URL http://x does not match any allowed URL(s)"),
        ),
        (UrlRefused("", "x.mar"), (404, "ModelNotFoundException", "Model not found at: x.mar")),
        (DownloadFailed("", "http://x"), (400, "DownloadArchiveException", "Failed to download archive from: http://x")),
        (ArchiveExists("f.mar"), (500, "InternalServerException", "Model file already exists f.mar")),
        (SaveFailed("", "http://x"), (500, "InternalServerException", "Failed to save model: http://x")),
        (InvalidArchive("", "model_name"), (400, "InvalidModelException", "Model name is not defined.")),
        (InvalidArchive("it is a bomb", "too_large"), (400, "InvalidModelException", "it is a bomb")),
        (
            DependencyInstallFailed("m", "pip", "why"),
            (400, "ModelException", "Custom pip package installation failed for model m"),
        ),
        (AlreadyRegistered("m", "1"), (409, "ConflictStatusException", "Model version 1 is already registered for model m")),
        (
            LoadFailed("why", model="m", version="1"),
            (500, "InternalServerException", "Failed to start workers for model m version: 1"),
        ),
        (
            LoadFailed("why", True, "m", "1"),
            (507, "InternalServerException", "Failed to start workers for model m version: 1"),
        ),
    ],
)
def test_errors_of_registering(site: Any, raised: JitneyError, expected: tuple[int, str, str]) -> None:
    site.plane.refusal = raised
    assert error(site.ask("management", "POST", "/models?url=x")) == expected


# -- scale, set-default, unregister --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "call", "expected"),
    [
        ("echo", ("echo", None, 1, 1, False), (202, PROCESSING)),
        ("echo?min_worker=2&synchronous=true", ("echo", None, 2, 2, True), (200, "Workers scaled to 2 for model: echo")),
        ("echo?min_worker=abc&synchronous=true", ("echo", None, 1, 1, True), (200, "Workers scaled to 1 for model: echo")),
        (
            "echo/1.0?min_worker=0&max_worker=3&synchronous=true",
            ("echo", "1.0", 0, 3, True),
            (200, "Workers scaled to 0 for model: echo, version: 1.0"),
        ),
        (
            "echo?model_version=1.0&synchronous=true&number_gpu=1&timeout=3",
            ("echo", "1.0", 1, 1, True),
            (200, "Workers scaled to 1 for model: echo, version: 1.0"),
        ),
    ],
)
def test_scale(site: Any, path: str, call: tuple[Any, ...], expected: tuple[int, str]) -> None:
    assert status(site.ask("management", "PUT", f"/models/{path}")) == expected
    assert site.plane.scaled == [call]


def test_scaling_that_has_not_finished_is_206(site: Any) -> None:
    site.plane.running = 1
    answer = site.ask("management", "PUT", "/models/echo?min_worker=2&synchronous=true")
    assert status(answer) == (206, "Workers scaling in progress...")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("echo?min_worker=3&max_worker=2", (400, "BadRequestException", "max_worker cannot be less than min_worker.")),
        ("echo?max_worker=0", (400, "BadRequestException", "max_worker cannot be less than min_worker.")),
        ("echo?min_worker=-1", (400, "BadRequestException", "min_worker must be at least 0, got -1")),
        ("echo?min_worker=-1&max_worker=-2", (400, "BadRequestException", "max_worker cannot be less than min_worker.")),
        ("nosuch?min_worker=-1", (404, "ModelNotFoundException", "Model not found: nosuch")),
        ("nosuch", (404, "ModelNotFoundException", "Model not found: nosuch")),
        ("echo/9.9", (404, "ModelVersionNotFoundException", "Model version: 9.9 does not exist for model: echo")),
        (
            "echo/set-default",
            (404, "ModelVersionNotFoundException", "Model version: set-default does not exist for model: echo"),
        ),
        ("echo/1.0/other", (404, "ResourceNotFoundException", NOT_FOUND)),
        ("echo/7/set-default", (404, "ModelVersionNotFoundException", "Model version 7 does not exist for model echo")),
        ("nosuch/1.0/set-default", (404, "ModelNotFoundException", "Model not found: nosuch")),
    ],
)
def test_errors_of_scaling_and_set_default(site: Any, path: str, expected: tuple[int, str, str]) -> None:
    assert error(site.ask("management", "PUT", f"/models/{path}")) == expected


def test_set_default_and_unregister(site: Any) -> None:
    site.plane.add("echo", echo, "2.0")
    text = 'Default version successfully updated for model "echo" to "2.0"'
    assert status(site.ask("management", "PUT", "/models/echo/2.0/set-default")) == (200, text)
    for path in ("/models/echo", "/models/echo/2.0"):
        text = "Cannot remove default version for model echo"
        assert error(site.ask("management", "DELETE", path)) == (403, "InvalidModelVersionException", text)
    assert status(site.ask("management", "DELETE", "/models/echo/1.0")) == (200, 'Model "echo" unregistered')
    assert status(site.ask("management", "DELETE", "/models/echo")) == (200, 'Model "echo" unregistered')
    assert error(site.ask("management", "DELETE", "/models/echo"))[0] == 404


def test_the_model_api_can_be_switched_off(open_site: Any) -> None:
    site = open_site(enable_model_api=False)
    for method, path in (
        ("POST", "/models?url=a"),
        ("POST", "/models"),
        ("DELETE", "/models/echo"),
        ("DELETE", "/models/no/1"),
    ):
        answer = site.ask("management", method, path)
        assert error(answer) == (405, "MethodNotAllowedException", NOT_ALLOWED)
        assert answer.header("Allow") == ("GET" if method == "POST" else "GET, PUT, OPTIONS")
    assert site.ask("management", "PUT", "/models/echo").status == 202
    assert site.ask("management", "GET", "/models").status == 200


# -- the rest ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/models", "GET, POST"),
        ("PUT", "/models", "GET, POST"),
        ("OPTIONS", "/models", "GET, POST"),
        ("BREW", "/models", "GET, POST"),
        ("POST", "/models/echo", "GET, PUT, DELETE, OPTIONS"),
        ("PATCH", "/models/echo", "GET, PUT, DELETE, OPTIONS"),
        ("POST", "/models/echo/1.0/set-default", "GET, PUT, DELETE, OPTIONS"),
        ("POST", "/v1/models/echo", "GET"),
        ("GET", "/", "OPTIONS"),
        ("PUT", "/workflows", "GET, POST"),
        ("POST", "/workflows/w", "GET, DELETE"),
    ],
)
def test_other_methods_are_405_and_the_answer_names_those_that_there_are(
    site: Any, method: str, path: str, allowed: str
) -> None:
    answer = site.ask("management", method, path)
    assert error(answer) == (405, "MethodNotAllowedException", NOT_ALLOWED)
    assert answer.header("Allow") == allowed
    for right in allowed.split(", "):
        assert site.ask("management", right, path).status != 405, right


def test_head_is_405_without_a_body(site: Any) -> None:
    answer = site.ask("management", "HEAD", "/models")
    assert answer.status == 405 and int(answer.header("content-length") or 0) == 136


@pytest.mark.parametrize("path", ["/ping", "/predictions/echo", "/nope", "/models/a/b/c", "/token"])
def test_other_paths_are_404(site: Any, path: str) -> None:
    assert error(site.ask("management", "GET", path)) == (404, "ResourceNotFoundException", NOT_FOUND)


def test_kserve_v1_readiness(site: Any) -> None:
    assert json.loads(site.ask("management", "GET", "/v1/models/echo").body) == {"name": "echo", "ready": False}
    assert error(site.ask("management", "GET", "/v1/models/no"))[0] == 404


def test_there_are_no_workflows(site: Any) -> None:
    assert json.loads(site.ask("management", "GET", "/workflows").body) == {"workflows": []}
    assert error(site.ask("management", "POST", "/workflows?url=x"))[2] == "Registering new workflows is disabled."
    assert error(site.ask("management", "POST", "/workflows")) == (400, "BadRequestException", "Parameter url is required.")
    expected = (404, "WorkflowNotFoundException", "Workflow not found: w")
    assert error(site.ask("management", "DELETE", "/workflows/w")) == expected
    assert error(site.ask("management", "DELETE", "/workflows/w/x")) == expected
    assert error(site.ask("management", "DELETE", "/workflows/w/x/y")) == (404, "ResourceNotFoundException", NOT_FOUND)


@pytest.mark.parametrize(
    ("port", "method", "path", "title", "paths"),
    [
        ("inference", "OPTIONS", "/", "TorchServe APIs", 8),
        ("inference", "GET", "/api-description", "TorchServe APIs", 8),
        ("management", "OPTIONS", "/", "TorchServe APIs", 7),
        ("metrics", "OPTIONS", "/", "TorchServe APIs", 1),
        ("inference", "OPTIONS", "/predictions/echo", "RESTful API for: echo", 3),
        ("management", "OPTIONS", "/models/echo/1.0", "RESTful Management API for: echo", 3),
    ],
)
def test_openapi_documents(site: Any, port: str, method: str, path: str, title: str, paths: int) -> None:
    document = json.loads(site.ask(port, method, path).body)
    assert document["openapi"] == "3.0.1" and title in document["info"]["title"] and len(document["paths"]) == paths
    for operations in document["paths"].values():
        for operation in operations.values():
            assert {"operationId", "parameters", "responses"} <= set(operation)


def test_documents_of_what_does_not_exist(site: Any) -> None:
    assert error(site.ask("inference", "OPTIONS", "/predictions/no"))[0] == 404
    assert error(site.ask("management", "OPTIONS", "/models/echo/9"))[0] == 404
