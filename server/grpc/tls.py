"""What gRPC servers speak TLS with: the files that the settings name, read and checked. Without grpcio."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...core.errors import InvalidConfig
from ..settings.settings import Settings


class Pem(NamedTuple):
    """Private key, its certificate with the chain, and what clients' certificates are signed by (None: they need none)."""

    key: bytes
    chain: bytes
    roots: bytes | None


def pem(settings: Settings, service: str) -> Pem | None:
    """For "triton", "inference" or "management", None without TLS; InvalidConfig names the key whose file is of no use."""
    grpc = settings.grpc
    if service != "triton":
        if not grpc.torchserve_ssl:
            return None
        key = _content("private_key_file", settings.private_key_file, "PRIVATE KEY")
        return Pem(key, _content("certificate_file", settings.certificate_file, "CERTIFICATE"), None)
    if not (grpc.use_ssl or grpc.use_ssl_mutual):
        return None
    key = _content("grpc_server_key", grpc.server_key, "PRIVATE KEY")
    chain = _content("grpc_server_cert", grpc.server_cert, "CERTIFICATE")
    roots = _content("grpc_root_cert", grpc.root_cert, "CERTIFICATE") if grpc.use_ssl_mutual else None
    return Pem(key, chain, roots)


def _content(name: str, path: str, kind: str) -> bytes:
    if not path:
        raise InvalidConfig(f"{name} is not set: TLS over gRPC needs it, a file in PEM")
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidConfig(f"{name}: '{path}' cannot be read: {error.strerror}") from None
    if f"{kind}-----".encode() not in content:
        raise InvalidConfig(f"{name}: '{path}' holds no {kind.lower()} in PEM")
    return content
