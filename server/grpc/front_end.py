"""A gRPC front end: `python -m jitney.server.grpc.front_end`, started by `frontends.frontend_process` alone.

    main thread       the event loop: gRPC, answers from the scheduler     blocks on the kernel
    gRPC's thread     socket I/O and HTTP/2                                blocks on the kernel
    reading thread    lends its socket to the event loop; long frames      blocks on the socket
    writing thread    what the socket did not take at once                 sleeps
    relay's threads   calls that the scheduler answers                     block on a socket

It ends when it is told to drain, when the scheduler's end of the socket closes, and when the scheduler dies without a word.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from ..frontends.child.main import _LAST_S, FrontEnd, main
from ..frontends.child.remote_dataplane import RemoteDataPlane
from ..frontends.child.remote_services import RemoteRegions, RemoteRequestMetrics, RemoteTokens, SharedPlaces
from ..frontends.messages import Ready
from ..process import exits, gc_tuning, threads
from .calls import Services
from .draining import Drain
from .pressure import Pressure
from .reactor import AioReactor, Gathering
from .relay import Relay
from .server import places, servers


class GatheringDataPlane(RemoteDataPlane):
    """The data plane of an event loop: what one round of it submits leaves together."""

    def __init__(self, gathering: Gathering, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._gathering, self._thread = gathering, threading.get_ident()

    def infer(self, *arguments: Any, **options: Any) -> Any:
        self._gathering.begin()
        return super().infer(*arguments, **options)

    def predict(self, *arguments: Any, **options: Any) -> Any:
        if threading.get_ident() == self._thread:  # what is decoded in a thread beside the loop leaves at once
            self._gathering.begin()
        return super().predict(*arguments, **options)


class GrpcFrontEnd(FrontEnd):
    """The life of this process."""

    def serve(self) -> int:
        """Answers until told to end; returns the exit code."""
        with threads.needed("a gRPC front end"):
            self._link.start()
        asyncio.run(self._run())
        self.send_queue.close(_LAST_S)
        return exits.STOPPED

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._listening.close()  # each gRPC server has a socket of its own
        reactor = AioReactor(loop, self._io.reactors)
        try:
            services = self._services(loop)
            running = servers(services)
            for bound in running:
                await bound.server.start()
            gc_tuning.freeze_heap()
            self.send_queue.put(Ready())
            settings = services.settings
            pressure = Pressure(services.calls, {bound.port for bound in running}, 2 * settings.held_bytes, places(settings))
            watching = asyncio.create_task(pressure.watch())
            seconds = await loop.run_in_executor(None, self._drains.get)
            await Drain(running, services.calls, services.streams).run(seconds)
            watching.cancel()
        finally:
            reactor.close()

    def _services(self, loop: asyncio.AbstractEventLoop) -> Services:
        hello, link, counters = self.hello, self._link, self._counters
        settings = hello.settings
        places = SharedPlaces(settings.max_waiting, counters, hello.index + 1)
        regions = RemoteRegions(link, counters, settings.allow_client_shm)
        tokens = RemoteTokens(link, counters) if hello.asks_keys else None
        plane = GatheringDataPlane(Gathering(loop, self._io.coalescer, lambda: link.open), link, counters)
        metrics = RemoteRequestMetrics(self.send_queue)
        return Services(plane, regions, places, Relay(self._door), settings, tokens, metrics, tracing=link.tracing)


if __name__ == "__main__":
    main(kind=GrpcFrontEnd)
