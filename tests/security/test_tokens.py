"""Hole 9, 20: every call of every service needs its key; keys are compared in constant time."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitney.tests.security.conftest import Everything, everything, methods

ROOT = Path(__file__).parents[2]
#: What a call is answered with that has no key, or the wrong one.
DENIED = ("UNAUTHENTICATED", "PERMISSION_DENIED")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    with everything(tmp_path_factory.mktemp("guarded"), disable_token_authorization="false") as found:
        yield found


def test_every_call_of_grpc_needs_a_key(guarded: Everything) -> None:
    called, missing = 0, set()
    for port, method in methods():
        for metadata in (None, (("authorization", "Bearer wrong"),), (("authorization", ""),)):
            status, details = guarded.call(port, method, b"", metadata)
            if status == "UNIMPLEMENTED":
                missing.add(method.path.rpartition("/")[2])
                continue
            assert status in DENIED and "Token Authorization failed" in details, (method.path, status, details)
            called += 1
    assert missing == {"ServerMetadata"}  # which TorchServe's own Open Inference Protocol does not have
    assert called > 90


def test_the_key_for_inference_manages_nothing(guarded: Everything) -> None:
    keys = json.loads((guarded.folder / "key_file.json").read_text())
    bearer = (("protocol", "gRPC"), ("authorization", f"Bearer {keys['inference']['key']}"))
    changing = (
        "RepositoryModelLoad",
        "RepositoryModelUnload",
        "RegisterModel",
        "UnregisterModel",
        "ScaleWorker",
        "SetDefault",
    )
    tried = [method for _, method in methods() if method.path.rpartition("/")[2] in changing]
    assert len(tried) == len(changing)
    for port, method in methods():
        if method in tried:
            assert guarded.call(port, method, b"", bearer)[0] in DENIED, method.path


def test_http_needs_a_key_through_front_ends_too(guarded: Everything) -> None:
    for path in (
        "/predictions/echo",
        "/v2/models/m/infer",
        "/v2/repository/index",
        "//predictions/echo",
        "/predictions/%65cho",
    ):
        answer = guarded.site.ask("inference", "POST", path, b"{}")
        assert answer.status == 400 and b"Token Authorization failed" in answer.body, path


def test_secrets_are_compared_in_constant_time() -> None:
    """Nothing in the files that check keys compares with `==` what a client has sent."""
    for path in ("server/http/middleware/guard.py", "server/http/middleware/tokens.py", "server/grpc/guard.py"):
        tree = ast.parse((ROOT / path).read_text())
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "compare_digest" in names, path
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq | ast.In) for op in node.ops):
                words = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
                    n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
                }
                assert not words & {"authorization", "given", "bearer", "token", "key"}, f"{path}:{node.lineno}"
