"""waitress' servers: a listening socket whose connections are `front.Channel`s, served by a `loop.Loop`."""

from __future__ import annotations

import socket
from collections.abc import Container

from waitress import wasyncore
from waitress.server import TcpWSGIServer, UnixWSGIServer

from .front import Channel, Refuse
from .loop import Loop
from .plan import PlanTable


class Server(TcpWSGIServer):  # type: ignore[misc]
    """One listening socket. `draining`: every answer closes its connection, and new ones are refused."""

    channel_class = Channel
    draining = False
    refuse: Refuse
    loop: Loop
    plans: PlanTable | None = None
    inline: Container[str] = ()

    def maintenance(self, now: float) -> None:
        for channel in list(self.active_channels.values()):
            if channel.overdue(now):
                channel.will_close = True

    def drain(self) -> None:
        """Closes the listening socket and idle connections; the others close with their next answer. Loop's thread only."""
        self.draining, self.accepting = True, False
        self.del_channel()
        self.socket.close()
        for channel in list(self.active_channels.values()):
            if not channel.requests and channel.request is None and not channel.total_outbufs_len:
                channel.handle_close()

    def close(self) -> None:
        self.trigger.close()
        for channel in list(self.active_channels.values()):
            channel.handle_close()
        wasyncore.dispatcher.close(self)


class UnixServer(Server, UnixWSGIServer):  # type: ignore[misc]
    """The same on a Unix socket."""

    getsockname = UnixWSGIServer.getsockname
    fix_addr = UnixWSGIServer.fix_addr

    def set_socket_options(self, conn: socket.socket) -> None:
        """TCP's options have no meaning here."""
