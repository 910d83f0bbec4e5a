"""Rules of HTTP that hold for every request, whatever parses it: pure functions of what the client sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote_to_bytes

from ...core.errors import JitneyError

#: RFC 3986: an address in brackets or a name, and a port. Empty where a URL has no host (RFC 9112).
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%A-Za-z_~-]+\]|(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)(?::[0-9]*)?")
_SLASH = re.compile(rb"%(?=2[Ff])")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadEscape(JitneyError):
    """A `%` in the path or the query is not followed by two hexadecimal digits."""


def host_problem(version: str, hosts: Sequence[str]) -> str:
    """Why a request with these values of `Host` has to be refused with 400, "" where it has not (RFC 9112, section 3.2).

    Two of them are read differently by a proxy and by what stands behind it; HTTP/1.1 wants exactly one.
    """
    if len(hosts) > 1:
        return "Host was sent more than once"
    if not hosts:
        return "" if version in ("0.9", "1.0") else "Host is missing, which HTTP/1.1 requires"
    return "" if _HOST.fullmatch(hosts[0]) else "Host is no host name or address with an optional port"


def path_of(uri: str) -> str:
    """The path of a request's target, as it was sent: `/path?query`, `http://host/path?query`."""
    uri = uri.partition("?")[0].partition("#")[0]
    return uri if uri.startswith("/") else "/" + uri.partition("://")[2].partition("/")[2]


def decoded(path: str) -> str:
    """A path without its percent escapes, but for `%2F`, which is no separator and stays as it was sent (RFC 3986, 2.2).

    So a proxy that guards routes by their paths sees the same segments as the server. Bytes that are not
    ASCII become the characters with the same numbers, as in WSGI.
    """
    kept = _SLASH.sub(b"%25", path.encode("latin-1"))
    return unquote_to_bytes(kept).decode("latin-1")


def refuse_bad_escapes(uri: str, *, query: bool = True) -> None:
    """Raises BadEscape for a percent sign that begins no escape, in the words of TorchServe's network library.

    `query`: also for one behind the question mark.
    """
    path = uri.partition("?")[0]
    found = _BAD_ESCAPE.search(uri if query else path)
    if found is None:
        return
    at = found.start()
    ends = "?" if at < len(path) else "&;=#"
    if at + 3 > min((end for each in ends if (end := uri.find(each, at)) >= 0), default=len(uri)):
        raise BadEscape(f"unterminated escape sequence at index {at} of: {uri}")
    raise BadEscape(f"invalid hex byte '{uri[at + 1 : at + 3]}' at index {at + 1} of '{uri}'")
