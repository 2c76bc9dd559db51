"""`StatusAddress`: the listening sockets of a supervisor's status page, which outlive the supervisor."""

from __future__ import annotations

import logging
import socket
from typing import TYPE_CHECKING

from reactor.address import Address
from reactor.listening.binding import UnixPath, bind
from reactor.loop.system import KERNEL
from reactor.reactor import Reactor

if TYPE_CHECKING:  # needs the extra `status`
    from reactor.status.collector import Collect
    from reactor.status.server import StatusPage

__all__ = ["StatusAddress"]

log = logging.getLogger("reactor")

_BACKLOG = 1024


class StatusAddress:
    """Where a supervisor serves its status page: nowhere, if `address` is None.

    is_open: whether others than processes of this machine may look.
    """

    def __init__(self, reactor: Reactor, address: Address | None, is_open: bool) -> None:
        self._reactor = reactor
        self._address = address
        self._is_open = is_open
        self._sockets: list[socket.socket] = []
        self._path: UnixPath | None = None
        self._page: StatusPage | None = None

    def bind(self) -> None:
        """Bind what was not inherited. Raises as `StatusPage.listen`, and ImportError without the extra."""
        if self._address is None:
            return
        from reactor.status.server import check_open  # noqa: PLC0415 - needs the extra `status`

        for sock in self._sockets:
            check_open(sock, self._is_open)
        if not self._sockets:
            check_open(self._address, self._is_open)
            self._sockets = bind(self._address, backlog=_BACKLOG, reuse_port=False, options=())
        self._path = None if self._address.path is None else UnixPath(self._address.path)

    def serve(self, collect: Collect, name: str) -> None:
        """Begin to serve."""
        if self._address is None:
            return
        from reactor.status.server import StatusPage  # noqa: PLC0415 - see above

        self._page = StatusPage(self._reactor, name=name, collect=collect)
        for sock in self._sockets:
            listener = self._page.listen(sock.dup(), open=self._is_open)
            where = str(listener.addresses[0])
            log.info("status page: %s", where if where.startswith("unix:") else f"http://{where}/")

    def is_served(self) -> bool:
        """Return whether there is a page."""
        return self._page is not None

    def refresh(self) -> None:
        """Show at once what has happened."""
        if self._page is not None:
            self._page.refresh()

    def leave(self) -> None:
        """Answer what was asked; the rest is for the successor, which has the sockets."""
        if self._page is not None:
            self._page.drain()
        self._close_sockets()

    def close(self, *, remove: bool) -> None:
        """Serve no more. remove: the file of a Unix socket too."""
        if self._page is not None:
            self._page.close()
        self._close_sockets()
        if remove and self._path is not None:
            self._path.remove()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets = []

    # Over to another supervisor

    def exported(self) -> tuple[dict[str, object], list[int]]:
        """Return the fields and descriptors of a message, for `take`."""
        return {"address": str(self._address)}, [sock.fileno() for sock in self._sockets]

    def take(self, address: str, descriptors: list[int]) -> None:
        """Take the sockets of the supervisor that this one replaces, unless it had another address."""
        self._sockets = [KERNEL.listening_socket(fd) for fd in descriptors]
        if address != str(self._address):
            self._close_sockets()
