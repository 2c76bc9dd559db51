"""The servers that `python -m reactor serve` runs: each is an example, and usable for real."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import attrs

from reactor.protocol import AnyProtocol

if TYPE_CHECKING:
    from reactor.datagrams import DatagramFactory

__all__ = ["APPS", "App"]


@attrs.frozen
class App:
    """An app for the command line.

    summary: its line in --help.
    start: returns the factory of the connections' protocols; called once for a server, with the value of
        `option` if there is one, and with those of `settings` that are given, by name.
    option: the name of the command line's option that it needs, or None.
    settings: the names of further options that it takes.
    datagrams: returns the factory of the protocol for `serve --udp`; None for an app without one.
    shared: what its processes have in common by a backplane, with which `start` is called if there are
        several; None: its processes have nothing in common.
    page: returns the factory of the protocols that serve its page, from that of `start`; or None.
    """

    summary: str
    start: Callable[..., Callable[[], AnyProtocol]]
    option: str | None = None
    settings: tuple[str, ...] = ()
    datagrams: Callable[[], DatagramFactory] | None = None
    shared: str | None = None
    page: Callable[[Any], Callable[[], AnyProtocol]] | None = None


def _load(module: str, name: str) -> Any:
    """Return a class of an app, which is imported when it is to be served: a supervisor serves none."""
    return getattr(import_module(f"reactor.apps.{module}"), name)


#: The apps by their name on the command line.
APPS: dict[str, App] = {
    "echo": App(
        "sends back what it receives",
        lambda: _load("echo", "Echo"),
        datagrams=lambda: _load("echo", "DatagramEcho"),
    ),
    "discard": App("throws away what it receives", lambda: _load("discard", "Discard")),
    "greet": App("sends one line", lambda: _load("greet", "Greet")),
    "daytime": App(
        "sends the date and the time",
        lambda: _load("daytime", "Daytime"),
        datagrams=lambda: _load("daytime", "DatagramDaytime"),
    ),
    "lines": App("sends back each line in upper case", lambda: _load("lines", "Upper")),
    "chat": App(
        "chat rooms with nicknames",
        lambda backplane=None: _load("chat", "Hall")(backplane),
        shared="rooms and names",
        page=lambda hall: _load("chat_web", "chat_page")(hall),  # noqa: PLW0108 - imported when it is called
    ),
    "proxy": App(
        "forwards to --to ADDRESS",
        lambda to, send_proxy=None: partial(_load("proxy", "Proxy"), to, send_proxy),
        "to",
        ("send_proxy",),
    ),
    "files": App(
        "sends the files of --root DIR", lambda root: partial(_load("files", "Files"), root), "root"
    ),
}
