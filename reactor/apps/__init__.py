"""The servers that `python -m reactor serve` runs: each is an example, and usable for real."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import attrs

from reactor.apps.chat import Hall
from reactor.apps.daytime import Daytime
from reactor.apps.discard import Discard
from reactor.apps.echo import Echo
from reactor.apps.files import Files
from reactor.apps.greet import Greet
from reactor.apps.lines import Upper
from reactor.apps.proxy import Proxy
from reactor.protocol import AnyProtocol

__all__ = ["APPS", "App"]


@attrs.frozen
class App:
    """An app for the command line.

    summary: its line in --help.
    start: returns the factory of the connections' protocols; called once for a server, with the value of
        `option` if there is one.
    option: the name of the command line's option that it needs, or None.
    own: what each process that serves it has of its own, where clients of several would miss it; or None.
    """

    summary: str
    start: Callable[..., Callable[[], AnyProtocol]]
    option: str | None = None
    own: str | None = None


#: The apps by their name on the command line.
APPS: dict[str, App] = {
    "echo": App("sends back what it receives", lambda: Echo),
    "discard": App("throws away what it receives", lambda: Discard),
    "greet": App("sends one line", lambda: Greet),
    "daytime": App("sends the date and the time", lambda: Daytime),
    "lines": App("sends back each line in upper case", lambda: Upper),
    "chat": App("chat rooms with nicknames", Hall, own="rooms and names"),
    "proxy": App("forwards to --to ADDRESS", lambda to: partial(Proxy, to), "to"),
    "files": App("sends the files of --root DIR", lambda root: partial(Files, root), "root"),
}
