"""The Open Inference Protocol's metadata and health as TorchServe answers them, where its setting asks for that."""

import json
from typing import Any

import pytest


def asked(site: Any, method: str, path: str) -> tuple[int, Any]:
    answer = site.ask("inference", method, path)
    return answer.status, json.loads(answer.body) if answer.body else None


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
def test_torchserve_s_form(open_site: Any, method: str) -> None:
    site = open_site(ts_open_inference_protocol=True)
    metadata = {"name": "Torchserve", "version": "0.12.0", "extenstion": ["kserve", "kubeflow"]}
    assert asked(site, method, "/v2") == (200, metadata)
    assert asked(site, method, "/v2/health/live") == (200, {"live": True})
    assert asked(site, method, "/v2/health/ready") == (200, {"ready": True})
    assert site.ask("inference", method, "/v2").header("x-request-id")


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/echo/ready"])
@pytest.mark.parametrize("slashes", ["/", "//"])
def test_trailing_slashes_are_nothing_there(open_site: Any, path: str, slashes: str) -> None:
    site = open_site(ts_open_inference_protocol=True)
    with_slashes, without = asked(site, "GET", path + slashes), asked(site, "GET", path)
    assert with_slashes == without and without[0] == 200
    assert asked(open_site(), "GET", path + slashes)[0] == 404  # Triton


def test_what_is_not_there_is_told_in_torchserve_s_form_too(open_site: Any) -> None:
    site = open_site(ts_open_inference_protocol=True)
    for path in ("/v2/health", "/v2/health/nosuch", "/v2/models", "/v2/nosuch"):
        status, document = asked(site, "GET", path)
        assert (status, document["type"]) == (404, "ResourceNotFoundException"), path
    assert asked(site, "POST", "/v2/models/echo/explain")[0] == 200


def test_without_the_setting_it_is_triton_s(site: Any) -> None:
    assert asked(site, "GET", "/v2")[1]["name"] == "triton"
    assert asked(site, "GET", "/v2/health/live") == (200, None)
