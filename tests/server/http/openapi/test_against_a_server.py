"""A real server's answers to requests made of its document, good and bad ones, are what the document says.

Bounded: a few examples of each operation, always the same ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from jitney.tests.fakes.grpc import repository
from jitney.tests.fakes.torchserve_server import archive
from jitney.tools.bench.served import ServedProcess, serving

CHECKS = [content_type_conformance, response_headers_conformance, response_schema_conformance, status_code_conformance]
#: Examples of each operation.
EXAMPLES = {GenerationMode.POSITIVE: 5, GenerationMode.NEGATIVE: 2}
#: Names that exist, so that not every request ends with "no such model".
KNOWN = {"model": ["double", "count", "sum"], "version": ["1"], "file": ["page.css", "page.js", "rapidoc.js"]}
#: What would end the models that others are asked for.
CHANGES = ("PUT", "DELETE", "/v2/repository/models/{model}/unload", "/v2/repository/models/{model}/load")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedProcess]:
    folder = tmp_path_factory.mktemp("models")
    archive(folder / "store", "capitals")
    flags = ["--model-control-mode=explicit", "--load-model=*", "--model-store", str(folder / "store")]
    with serving(repository(folder / "models"), flags=flags) as server:
        yield server


def operations(url: str) -> list[Any]:
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    return [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]


@pytest.mark.parametrize("port", ["inference", "management"])
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["right", "wrong"])
def test_answers_are_as_documented(server: ServedProcess, port: str, mode: GenerationMode) -> None:
    url = getattr(server, port)
    for operation in operations(url):
        ask(operation, url, mode)
    assert server.process.poll() is None
    assert server.get_json("/v2/models/double")["name"] == "double"


def ask(operation: Any, url: str, mode: GenerationMode) -> None:
    strategy = operation.as_strategy(generation_mode=mode)
    changes = operation.path in CHANGES or operation.method.upper() in CHANGES

    @hypothesis.settings(
        max_examples=EXAMPLES[mode], deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck), phases=[hypothesis.Phase.generate],
    )  # fmt: skip
    @hypothesis.given(case=strategy, data=hypothesis.strategies.data())
    def run(case: Any, data: Any) -> None:
        for name, values in KNOWN.items():
            if name in case.path_parameters and not changes:
                case.path_parameters[name] = data.draw(hypothesis.strategies.sampled_from(values))
        response = case.call(base_url=url, timeout=20)
        case.validate_response(response, checks=CHECKS)

    try:
        run()
    except hypothesis.errors.Unsatisfiable:
        if mode is GenerationMode.POSITIVE:
            raise  # else the operation has nothing that could be wrong
