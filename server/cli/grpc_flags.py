"""The flags of `jitney serve` about gRPC, which are tritonserver's and a few more."""

from __future__ import annotations

import argparse

#: What every gRPC flag of tritonserver's is called, what it takes, and what it does.
_FLAGS = (
    ("allow-grpc", "BOOL", "serve gRPC (where the package grpcio is installed)"),
    ("grpc-port", "PORT", "port of Triton's gRPC service (8001)"),
    ("grpc-address", "HOST", "address of that port (127.0.0.1)"),
    ("grpc-front-ends", "N", "processes that answer gRPC (1)"),
    ("grpc-header-forward-pattern", "REGEX", "metadata that becomes parameters of requests for models"),
    ("grpc-infer-response-compression-level", "LEVEL", "none, low, medium or high (none)"),
    ("grpc-use-ssl", "BOOL", "speak TLS on the gRPC port, with --grpc-server-cert and --grpc-server-key"),
    ("grpc-use-ssl-mutual", "BOOL", "and have clients show a certificate that --grpc-root-cert signed"),
    ("grpc-server-cert", "FILE", "certificate and its chain, PEM"),
    ("grpc-server-key", "FILE", "its private key, PEM"),
    ("grpc-root-cert", "FILE", "certificates that clients' are signed by, PEM"),
    ("grpc-keepalive-time", "MS", "milliseconds without data after which a client is pinged (7200000)"),
    ("grpc-keepalive-timeout", "MS", "milliseconds that it has to answer (20000)"),
    ("grpc-keepalive-permit-without-calls", "BOOL", "ping also where no call is under way (false)"),
    ("grpc-http2-max-pings-without-data", "N", "pings that are sent without data between them (2)"),
    ("grpc-http2-min-recv-ping-interval-without-data", "MS", "shortest time between a client's pings (300000)"),
    ("grpc-http2-max-ping-strikes", "N", "pings that may come too soon before the connection is closed (2)"),
    ("grpc-max-connection-age", "MS", "how long a connection may last (0: any time)"),
    ("grpc-max-connection-age-grace", "MS", "how long its calls may go on then (0: any time)"),
)
OPTIONS = {"--grpc-restricted-protocol", *(f"--{name}" for name, _, _ in _FLAGS)}
#: Those of its flags that may stand alone, for true.
_ALONE = ("allow-grpc", "grpc-use-ssl", "grpc-use-ssl-mutual", "grpc-keepalive-permit-without-calls")


def add_grpc(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of gRPC; `Settings` reads and checks their values."""
    for name, metavar, text in _FLAGS:
        if name in _ALONE:
            parser.add_argument(f"--{name}", metavar=metavar, help=text, nargs="?", const="true")
        else:
            parser.add_argument(f"--{name}", metavar=metavar, help=text)
    parser.add_argument(
        "--grpc-restricted-protocol",
        action="append",
        metavar="API,…:KEY=VALUE",
        help="calls that need metadata triton-grpc-protocol-KEY, e.g. model-repository:admin-key=secret; repeatable",
    )
