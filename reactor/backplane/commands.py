"""`Commands`: what a backplane asks of its broker, under its keys; nothing while the broker is away."""

from __future__ import annotations

from reactor.backplane.link import Link, ReplyHandler
from reactor.backplane.scripts import SCRIPTS, digest

__all__ = ["DIGESTS", "Commands", "ignore"]

#: The names by which the broker knows the scripts.
DIGESTS = {script: digest(script) for script in SCRIPTS}


class Commands:
    """Commands to the broker.

    prefix: of all keys and channels. link: the connection for commands, while it is ready for use.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.link: Link | None = None

    def key(self, kind: str, name: str) -> bytes:
        """Return the key or channel of a name; the kinds are listed in `scripts`."""
        return f"{self.prefix}{kind}:{name}".encode()

    def send(self, handler: ReplyHandler | None, *command: str | bytes | int) -> None:
        """Send a command, if the broker is there. handler: called with the reply, unless it is None."""
        if self.link is not None:
            self.link.send(handler or ignore, *command)

    def run(
        self, handler: ReplyHandler | None, script: str, keys: tuple[bytes, ...], *args: str | bytes | int
    ) -> None:
        """Run a script on the broker, as `send` sends a command."""
        if self.link is not None:  # not by `send`: each message that is published comes this way
            self.link.send(handler or ignore, "EVALSHA", DIGESTS[script], len(keys), *keys, *args)


def ignore(_: object) -> None:
    """Do nothing with a reply."""
