"""The names of waitress' inside on which the engine builds: none of them is promised, so setup.py bounds the version.

Before the bound is raised, this file is run with the new version. A name that has gone fails here, with its name.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]

#: What is imported: module -> names.
IMPORTED = {
    "waitress": {"wasyncore"},
    "waitress.adjustments": {"Adjustments"},
    "waitress.buffers": {"OverflowableBuffer"},
    "waitress.channel": {"ClientDisconnected", "HTTPChannel"},
    "waitress.parser": {"ParsingError", "TransferEncodingNotImplemented", "crack_first_line", "split_uri"},
    "waitress.server": {"TcpWSGIServer", "UnixWSGIServer"},
    "waitress.task": {"ErrorTask", "Task", "ThreadedTaskDispatcher", "WSGITask"},
    "waitress.utilities": {
        "BadRequest", "Error", "InternalServerError", "RequestEntityTooLarge", "RequestHeaderFieldsTooLarge",
        "ServerNotImplemented", "build_http_date", "logger",
    },
}  # fmt: skip

#: What is overridden, called or read on objects of these classes.
USED = {
    "waitress.adjustments:Adjustments": {
        "backlog", "channel_request_lookahead", "clear_untrusted_proxy_headers", "connection_limit", "ident",
        "max_request_body_size", "max_request_header_size", "outbuf_high_watermark", "outbuf_overflow", "recv_bytes", "sockets",
        "url_scheme",
    },
    "waitress.channel:HTTPChannel": {
        "_fileno", "_flush_outbufs_below_high_watermark", "_flush_some", "accepting", "addr", "adj", "close_when_flushed",
        "connected", "current_outbuf_count", "error_task_class", "handle_close", "handle_error", "handle_read", "handle_write",
        "last_activity", "outbuf_lock", "outbufs", "readable", "received", "recv", "request", "requests", "requests_lock",
        "send", "send_continue", "sent_continue", "server", "service", "socket", "task_class", "total_outbufs_len", "will_close",
        "writable", "write_soon",
    },
    "waitress.server:TcpWSGIServer": {
        "_fileno", "_map", "accept_connections", "accepting", "active_channels", "add_task", "adj", "channel_class", "close",
        "del_channel", "effective_port", "fix_addr", "handle_accept", "handle_error", "in_connection_overflow", "maintenance",
        "readable", "set_socket_options", "socket", "task_dispatcher", "trigger", "writable",
    },
    "waitress.server:UnixWSGIServer": {"fix_addr", "getsockname", "set_socket_options"},
    "waitress.task:ErrorTask": {"execute"},
    "waitress.task:Task": {
        "build_response_header", "channel", "chunked_response", "close_on_finish", "complete", "content_bytes_written",
        "content_length", "has_body", "request", "response_headers", "service", "start_time", "status", "version", "write",
        "wrote_header",
    },
    "waitress.task:ThreadedTaskDispatcher": {
        "active_count", "add_task", "handler_thread", "lock", "queue", "queue_cv", "shutdown", "start_new_thread", "stop_count",
        "thread_exit_cv", "threads",
    },
    "waitress.task:WSGITask": {"environ", "get_environment"},
    "waitress.wasyncore:dispatcher": {"close"},
}  # fmt: skip


def _names(kind: type) -> set[str]:
    """What objects of this class have: the attributes of its classes, and those that their methods set."""
    found: set[str] = set()
    for base in kind.__mro__[:-1]:
        targets = re.findall(r"^\s*(self\.\w+(?:(?:, | = )self\.\w+)*) = ", inspect.getsource(base), re.MULTILINE)
        found.update(base.__dict__, re.findall(r"self\.(\w+)", " ".join(targets)))
    return found


@pytest.mark.parametrize(("module", "names"), IMPORTED.items(), ids=IMPORTED)
def test_waitress_has_what_is_imported(module: str, names: set[str]) -> None:
    assert not {name for name in names if not hasattr(importlib.import_module(module), name)}


@pytest.mark.parametrize(("kind", "names"), USED.items(), ids=USED)
def test_waitress_classes_have_what_is_used(kind: str, names: set[str]) -> None:
    module, _, name = kind.partition(":")
    assert not names - _names(getattr(importlib.import_module(module), name))


def test_a_map_of_sockets_is_served_by_these_functions() -> None:
    from waitress import wasyncore

    assert list(inspect.signature(wasyncore.readwrite).parameters) == ["obj", "flags"]


def test_the_list_has_every_import() -> None:
    found: dict[str, set[str]] = {}
    for folder in ("backends", "codecs", "core", "server", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.ImportFrom)
                    and (node.module or "").partition(".")[0] == "waitress"
                    and not node.level
                ):
                    found.setdefault(node.module or "", set()).update(alias.name for alias in node.names)
                elif isinstance(node, ast.Import):
                    assert not any(alias.name.startswith("waitress") for alias in node.names), path
    assert found == IMPORTED
