"""Which group of routes a path falls into, and how restrictions are written."""

from __future__ import annotations

import pytest

from jitney.server.settings.restrictions import GROUPS, group_of, parse


@pytest.mark.parametrize(
    ("method", "path", "group"),
    [
        ("GET", "/v2/health/live", "health"),
        ("GET", "/v2/models/m/ready", "health"),
        ("GET", "/v2/models/m/versions/1/ready", "health"),
        ("GET", "/ping", "health"),
        ("GET", "/v2", "metadata"),
        ("GET", "/v2/models/m", "metadata"),
        ("GET", "/v2/models/infer", "metadata"),
        ("GET", "/v2/models/m/versions/3", "metadata"),
        ("GET", "/api-description", "metadata"),
        ("OPTIONS", "/", "metadata"),
        ("GET", "/models", "metadata"),
        ("GET", "/models/m/all", "metadata"),
        ("POST", "/v2/models/m/infer", "inference"),
        ("POST", "/v2/models/m/versions/1/infer", "inference"),
        ("POST", "/v2/models/versions/infer", "inference"),
        ("POST", "/v2/models/m/explain", "inference"),
        ("POST", "/v2/models/m/generate", "inference"),
        ("POST", "/v2/models/m/generate_stream", "inference"),
        ("PUT", "/predictions/m", "inference"),
        ("POST", "/predictions/m/1.0/some/path", "inference"),
        ("POST", "/explanations/m", "inference"),
        ("POST", "/invocations", "inference"),
        ("POST", "/models/m/invoke", "inference"),
        ("GET", "/models/m/invoke", "inference"),
        ("POST", "/m/predict", "inference"),
        ("POST", "/m/2.0/predict", "inference"),
        ("POST", "/v1/models/m:predict", "inference"),
        ("POST", "/v1/models/m:explain", "inference"),
        ("GET", "/v2/models/m/config", "model-config"),
        ("GET", "/v2/models/stats", "statistics"),
        ("GET", "/v2/models/m/stats", "statistics"),
        ("GET", "/metrics", "statistics"),
        ("GET", "/metrics/anything", "statistics"),
        ("POST", "/v2/repository/index", "model-repository"),
        ("POST", "/v2/repository/models/m/load", "model-repository"),
        ("POST", "/models", "model-repository"),
        ("DELETE", "/models/m/1.0", "model-repository"),
        ("PUT", "/models/m/1.0/set-default", "model-repository"),
        ("GET", "/models/m/1.0/set-default", "model-repository"),
        ("GET", "/v2/systemsharedmemory/status", "shared-memory"),
        ("POST", "/v2/cudasharedmemory/region/r/register", "shared-memory"),
        ("GET", "/v2/trace/setting", "trace"),
        ("POST", "/v2/models/m/trace/setting", "trace"),
        ("POST", "/v2/logging", "logging"),
        ("GET", "/status.json", "statistics"),
        ("GET", "/status", None),
        ("GET", "/status/page.js", None),
        ("POST", "/status/try/predictions/m", "inference"),
        ("POST", "/status/try/v2/models/m/versions/1/infer", "inference"),
        ("GET", "/nothing", None),
        ("GET", "/v2/nothing", None),
    ],
)
def test_groups(method: str, path: str, group: str | None) -> None:
    assert group_of(method, path) == group
    assert group is None or group in GROUPS


def test_restrictions() -> None:
    found = parse("model-repository,statistics:admin-key=s=e:c inference:x-key=1")
    assert found == {
        "model-repository": ("admin-key", "s=e:c"),
        "statistics": ("admin-key", "s=e:c"),
        "inference": ("x-key", "1"),
    }
    assert parse("") == {}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("inference", "expected group,…:header=value"),
        ("inference:key", "expected group,…:header=value"),
        ("inference:key=", "expected group,…:header=value"),
        (":key=1", "expected group,…:header=value"),
        ("inference:a key=1", "expected group,…:header=value"),
        ("models:key=1", "expected groups out of health, .*, got 'models'"),
        ("inference,health:a=1 health:b=2", "expected each group once, got 'health' again"),
    ],
)
def test_restrictions_that_are_refused(value: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse(value)
