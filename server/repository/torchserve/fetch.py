"""Fetching an archive by URL, without opening the network behind the server.

A host name is resolved once, every address it has is judged, and the connection goes to a judged address: a name that
resolves differently the next moment gains nothing. Redirects are followed only to URLs that pass the same rules. Proxies
are not used, because the proxy would resolve the name. What arrives is bounded in bytes and in time.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from ....core.errors import DownloadFailed, UrlRefused

Progress = Callable[[int, int], None]

SCHEMES = ("http", "https", "file")
REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
CHUNK = 1 << 18
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Rules:
    """What may be fetched. `allowed`: regular expressions, each matched against the whole URL without regard to case.

    allow_private   also from loopback, private and link-local addresses
    """

    allowed: Sequence[str]
    allow_private: bool = False
    max_bytes: int = 64 * 2**30
    seconds: float = 600.0


def has_scheme(url: str) -> bool:
    """Whether `url` is a URL (`ftp://…` too), not a name in the model store."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url) is not None


def check_url(url: str, rules: Rules) -> SplitResult:
    """The parts of a URL that may be fetched. UrlRefused with kind "relative", "missing" (another scheme) or "not_allowed"."""
    if ".." in unquote(url):
        raise UrlRefused(f"'{url}' has '..' in it", url, "relative")
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise UrlRefused(f"'{url}' has the scheme '{scheme}', expected http, https or file", url, "missing")
    if re.search(r"[\x00-\x20\x7f\\]", url) or not url.isascii():
        raise UrlRefused(f"{url!r} has blanks, backslashes or control characters in it", url, "not_allowed")
    if not any(re.fullmatch(pattern, url, re.IGNORECASE) for pattern in rules.allowed):
        raise UrlRefused(f"'{url}' matches none of allowed_urls", url, "not_allowed")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UrlRefused(f"'{url}' is no URL: {error}", url, "not_allowed") from None
    if parts.username is not None or (scheme != "file" and not parts.hostname):
        raise UrlRefused(f"'{url}': expected a host, and no user name", url, "not_allowed")
    if scheme == "file" and parts.netloc not in ("", "localhost"):
        raise UrlRefused(f"'{url}' names a host, expected file:///path", url, "not_allowed")
    return parts


def fetch(url: str, target: Path, rules: Rules, progress: Progress | None = None) -> None:
    """Writes what `url` serves to `target`, which must not exist and does not afterwards where this raises.

    UrlRefused before anything was written or asked of the host; DownloadFailed where it could not be had whole.
    """
    parts = check_url(url, rules)
    try:
        if parts.scheme == "file":
            _copy(url, Path(unquote(parts.path)), target, rules, progress)
        else:
            _download(url, target, rules, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        target.unlink(missing_ok=True)
        raise DownloadFailed(f"cannot download '{url}': {error or type(error).__name__}", url) from None
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _copy(url: str, source: Path, target: Path, rules: Rules, progress: Progress | None) -> None:
    descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not make us wait
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise DownloadFailed(f"'{url}' is no plain file", url)
        _save(url, file, target, rules, status.st_size, progress)


def _download(url: str, target: Path, rules: Rules, progress: Progress | None) -> None:
    asked, deadline = url, time.monotonic() + rules.seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = check_url(url, rules)
        connection = _connect(url, parts, rules, deadline)
        with closing(connection), _ends_at(connection, deadline):
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Accept-Encoding": "identity", "User-Agent": "jitney"})
            with connection.getresponse() as response:
                if response.status not in REDIRECTS:
                    if response.status != 200:
                        raise DownloadFailed(f"'{url}' answers {response.status} {response.reason}", asked)
                    _save(asked, response, target, rules, response.length, progress)
                    return
                url = _redirected(url, parts, response.getheader("Location") or "")
    raise DownloadFailed(f"'{asked}' redirects more than {MAX_REDIRECTS} times", asked)


def _redirected(url: str, parts: SplitResult, location: str) -> str:
    target = urljoin(url, location)
    scheme = target.partition("://")[0].lower()
    if not location or scheme not in ("http", "https"):
        raise UrlRefused(f"'{url}' redirects to {location!r}, expected http or https", url, "not_allowed")
    if parts.scheme == "https" and scheme == "http":
        raise UrlRefused(f"'{url}' redirects to '{target}', which is not encrypted", url, "not_allowed")
    return target


def _connect(url: str, parts: SplitResult, rules: Rules, deadline: float) -> http.client.HTTPConnection:
    """A connection to an address of the host that was judged, its socket open."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    failure: OSError | None = None
    for family, address in _judged(url, host, port, rules):
        seconds = max(0.1, min(CONNECT_SECONDS, deadline - time.monotonic()))
        raw = socket.socket(family, socket.SOCK_STREAM)
        raw.settimeout(seconds)
        try:
            raw.connect(address)
            connection = http.client.HTTPConnection(host, port, timeout=seconds)
            connection.sock = _encrypted(raw, host) if parts.scheme == "https" else raw
            connection.sock.settimeout(max(0.1, deadline - time.monotonic()))
            return connection
        except OSError as error:
            raw.close()
            failure = error
    raise DownloadFailed(f"'{url}': cannot connect to {host}:{port}: {failure}", url)


def _encrypted(raw: socket.socket, host: str) -> ssl.SSLSocket:
    return ssl.create_default_context().wrap_socket(raw, server_hostname=host)


def _judged(url: str, host: str, port: int, rules: Rules) -> list[tuple[int, tuple[str, int] | tuple[str, int, int, int]]]:
    """Every address of the host; UrlRefused (kind "private") where one of them is not public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DownloadFailed(f"'{url}': host '{host}' cannot be resolved: {error}", url) from None
    addresses = []
    for family, _, _, _, address in found:
        if not rules.allow_private and not is_public(str(address[0])):
            raise UrlRefused(
                f"'{url}': host '{host}' is at {address[0]}, which is no public address; see allow_private_urls",
                url,
                "private",
            )
        addresses.append((int(family), address))
    return addresses  # type: ignore[return-value]  # only IPv4 and IPv6 have this kind of address


def is_public(text: str) -> bool:
    """Whether an address, and the IPv4 address that it may carry inside, belongs to the public Internet."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast


class _ends_at:  # noqa: N801 - a context manager
    """Cuts the connection at the deadline, however slowly its bytes keep coming."""

    def __init__(self, connection: http.client.HTTPConnection, deadline: float) -> None:
        self._socket = connection.sock
        self._timer = threading.Timer(max(0.0, deadline - time.monotonic()), self._cut)
        self._timer.daemon = True
        self.expired = False

    def _cut(self) -> None:
        self.expired = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._timer.cancel()
        self._timer.join()
        if self.expired and not isinstance(error, UrlRefused):
            raise TimeoutError("it took too long; see download_timeout") from None


def _save(
    url: str,
    source: http.client.HTTPResponse | BinaryIO,
    target: Path,
    rules: Rules,
    length: int | None,
    progress: Progress | None,
) -> None:
    """Copies `source`, of `length` bytes where that is known, and checks both bounds."""
    if length is not None and length > rules.max_bytes:
        raise DownloadFailed(f"'{url}' has {length} bytes, expected at most {rules.max_bytes}; see max_download_bytes", url)
    done = 0
    with target.open("xb") as out:
        while chunk := source.read(CHUNK):
            done += len(chunk)
            if done > rules.max_bytes:
                raise DownloadFailed(f"'{url}' has more than {rules.max_bytes} bytes; see max_download_bytes", url)
            out.write(chunk)
            if progress is not None:
                progress(done, length or 0)
    if length is not None and done < length:
        raise DownloadFailed(f"'{url}' ended after {done} of {length} bytes", url)
