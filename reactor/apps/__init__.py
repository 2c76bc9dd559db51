"""The programs behind `python -m reactor serve`: each is an example, and usable for real."""

from collections.abc import Callable

from reactor.apps.discard import Discard
from reactor.apps.echo import Echo
from reactor.apps.greet import Greet
from reactor.protocol import Protocol

__all__ = ["APPS"]

#: The name that the command line knows, and what makes a connection's protocol.
APPS: dict[str, Callable[[], Protocol]] = {"echo": Echo, "discard": Discard, "greet": Greet}
