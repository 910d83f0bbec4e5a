"""Addresses a listener binds: `http://host:port`, `https://host:port`, `unix:/path` (TorchServe's forms)."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

#: (http, https) port where an address names none: TorchServe's `Connector`.
DEFAULT_PORTS = {"inference": (80, 443), "management": (8081, 8444), "metrics": (8082, 8445)}
FORMS = "expected http://host:port, https://host:port or unix:/path"


def is_local_host(host: str) -> bool:
    """Whether only this machine can reach what listens there: `localhost` or a loopback address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a host name: what it resolves to may change


def parse_host(text: str) -> str:
    """A host name or an IP address (IPv6 also in brackets), without a port; ValueError says what was expected."""
    host = text.strip().removeprefix("[").removesuffix("]")
    if not host or not re.fullmatch(r"[0-9A-Za-z._:%-]{1,255}", host) or (":" in host and host.count(":") < 2):
        raise ValueError("expected a host name or an IP address, without a port")
    return host


@dataclass(frozen=True)
class Address:
    """Where to listen. `path` for unix sockets, `host` (no brackets) and `port` otherwise."""

    scheme: Literal["http", "https", "unix"]
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it: a unix socket, `localhost` or a loopback address."""
        return self.scheme == "unix" or is_local_host(self.host)

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def changed(address: Address, reference: str, default: Address) -> Address:
    """Another host or port for an address: `//host:port`, `//host` or `//:port`. Its scheme stays, so a port with TLS has TLS; a
    unix socket gives way to `default`. ValueError for a port that is none."""
    parts = urlsplit(reference)
    base = default if address.scheme == "unix" else address
    return replace(base, host=parts.hostname or base.host, port=base.port if parts.port is None else parts.port)


def parse_address(text: str, listener: str = "inference") -> Address:
    """Reads an address; ValueError says what was expected. Port 0 asks the system for a free one."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("//"):
            path = path[2:]
        if not path or "\0" in path or len(path.encode()) > 107:
            raise ValueError("expected unix:/path with a path of 1 to 107 bytes")
        return Address("unix", path=path)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError(FORMS)
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError(f"{FORMS}, without a path")
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f"{FORMS}, with a port from 0 to 65535") from None
    defaults = DEFAULT_PORTS[listener]
    default = defaults[parts.scheme == "https"]
    return Address("https" if parts.scheme == "https" else "http", parts.hostname, default if port is None else port)
