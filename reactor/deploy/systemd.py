"""The service manager: inherited sockets by name, and notifications. sd_listen_fds(3), sd_notify(3)."""

from __future__ import annotations

import os
import socket
import time

from reactor.address import Address
from reactor.errors import AddressError

__all__ = ["PRIVATE", "ServiceManager", "inherited"]

# The first inherited descriptor: SD_LISTEN_FDS_START.
_FIRST = 3

# Seconds for a service manager that reads nothing.
_TIMEOUT = 1.0

#: What is between the service manager and this process, and not for the workers.
PRIVATE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID")


def inherited(name: str) -> list[Address]:
    """Return the addresses, `fd:N`, of the sockets that the service manager passed under `name`.

    The name is that of the socket's unit, or its FileDescriptorName. Raises AddressError if there is none.
    """
    count = os.environ.get("LISTEN_FDS", "0")
    number = int(count) if count.isdigit() else 0
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")[:number]
    if os.environ.get("LISTEN_PID", str(os.getpid())) != str(os.getpid()):
        names = []  # they were for another process
    found = [Address(fd=_FIRST + place) for place, known in enumerate(names) if known == name]
    if not found:
        passed = ", ".join(dict.fromkeys(filter(None, names))) or "none"
        raise AddressError(
            f"systemd:{name}: no socket of this name was passed, the names are: {passed}; "
            "see FileDescriptorName= in systemd.socket(5)"
        )
    return found


class ServiceManager:
    """Notifications to systemd, if it started this process and waits for them; else they go nowhere.

    watchdog: seconds within which it expects a sign of life, or None.
    """

    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")
        usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", str(os.getpid()))
        wanted = bool(self._path) and usec.isdigit() and pid == str(os.getpid())
        self.watchdog = int(usec) / 1e6 if wanted and int(usec) else None

    def notify(self, *assignments: str) -> None:
        """Send assignments such as "READY=1"; a service manager that has gone is no error."""
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(_TIMEOUT)
            try:
                sock.connect(address)
                sock.send("\n".join(assignments).encode())
            except OSError:
                pass  # it restarts itself, and asks nothing of us, or it hangs

    def ready(self, status: str) -> None:
        """Say that the service works. status: a line about it."""
        self.notify("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Say that the service is being restarted inside; `ready` ends it."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=restarting")

    def stopping(self, status: str) -> None:
        """Say that the service ends."""
        self.notify("STOPPING=1", f"STATUS={status}")
