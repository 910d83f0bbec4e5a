"""`RelayListener`: the scheduler's own listener where front ends answer the address: for what they relay alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Container
from dataclasses import replace
from typing import Any

from ..http.engine.channel import Refuse
from ..http.engine.listener import SOON_S, open_socket
from ..http.plan import PlanTable
from ..ipc.io_context import IoContext
from ..settings.addresses import Address
from .adopting_listener import AdoptingListener


class RelayListener(AdoptingListener):
    """Opens the listening socket for the front ends, and never accepts from it."""

    def __init__(
        self, app: Callable[..., Any], address: Address, *, name: str, threads: int, max_body: int, refuse: Refuse,
        setting: str, ports: Collection[str], plans: PlanTable | None, inline: Container[str], io: IoContext,
    ) -> None:  # fmt: skip
        sock = open_socket(address, setting)
        super().__init__(
            app, replace(address, scheme="http") if address.tls else address, name=name, threads=threads, max_body=max_body,
            refuse=refuse, setting=setting, ports=ports, plans=plans, inline=inline, sock=sock, io=io,
        )  # fmt: skip
        self._owns_path = bool(address.path)
        self._server.adj.url_scheme = "https" if address.tls else "http"

    @property
    def fd(self) -> int:
        """The listening socket's descriptor."""
        return self._sock.fileno()

    def stop_listening(self) -> None:
        """Lets go of the listening socket; what is adopted goes on to be answered, and more of it may come."""

        def leave() -> None:
            with contextlib.suppress(OSError):
                self._server.del_channel()
                self._server.socket.close()

        if self._thread.is_alive():
            self._on_loop(leave).wait(SOON_S)
        else:
            self._sock.close()
