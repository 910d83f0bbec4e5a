"""What the dialects take from a WSGI request besides what Falcon offers."""

from __future__ import annotations

from collections.abc import Callable

import falcon


def body_of(req: falcon.Request) -> memoryview:
    """The whole request body; a view, without a copy where the front keeps it in memory."""
    stream = req.env["wsgi.input"]
    if hasattr(stream, "getbuffer"):
        return memoryview(stream.getbuffer()).cast("B")
    return memoryview(req.bounded_stream.read())


def on_disconnect(req: falcon.Request, callback: Callable[[], object]) -> None:
    """Has `callback` called, once and on another thread, if the client goes away before its answer is complete."""
    register = req.env.get("jitney.on_disconnect")
    if register is not None:
        register(callback)


def at_end(req: falcon.Request, callback: Callable[[], object]) -> None:
    """Has `callback` called when the answer has been sent whole, streams included, or was given up."""
    callbacks = req.env.get("jitney.at_end")
    if callbacks is None:  # another front: as late as the application can tell
        callbacks = req.context.at_end = getattr(req.context, "at_end", [])
    callbacks.append(callback)
