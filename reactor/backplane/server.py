"""`Server`: what a broker says of itself when a connection signs in, and what it refuses. It does no I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from reactor.backplane.scripts import RIGHTS
from reactor.errors import BrokerError

__all__ = ["OPTIONS", "SECTIONS", "Server", "check_rights", "describe"]

#: What is asked of INFO, each, and of CONFIG GET, which may be refused.
SECTIONS = ("server", "replication", "memory")
OPTIONS = ("appendonly", "appendfsync")

_OLDEST = (6, 2)

# What a server adds to the error of a command in a script: Redis 6.2 before it, later ones behind it.
_WHERE = re.compile(r"^(@user_script: \d+: )?-?| script: .*$")

# Words of the error if it is for want of a right.
_RIGHT = ("NOPERM", "ACL", "The user")


@attrs.define(eq=False)
class Server:
    r"""The broker, by its answers to INFO and CONFIG GET.

    >>> server = Server()
    >>> server.add_info(b"# Server\r\nredis_version:7.0.15\r\nrun_id:5f1e\r\n")
    >>> server.add_option([b"appendonly", b"yes"])
    >>> server.run, server.evicts
    ('5f1e', None)
    """

    _facts: dict[str, str] = attrs.field(factory=dict)

    def add_info(self, reply: bytes) -> None:
        """Add an answer to INFO."""
        for line in reply.decode().splitlines():
            name, found, value = line.partition(":")
            if found:
                self._facts[name] = value

    def add_option(self, reply: Sequence[bytes] | None) -> None:
        """Add an answer to CONFIG GET. reply: None or empty: it was refused."""
        if reply:
            self._facts[reply[0].decode()] = reply[1].decode()

    def check_version(self) -> None:
        """Raise BrokerError if it is too old. Valkey gives the version of Redis that it is like."""
        version = self._facts.get("redis_version", "")
        numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
        if numbers and numbers < _OLDEST:
            raise BrokerError(f"the broker is Redis {version}; it must be 6.2 or newer, or Valkey")

    @property
    def run(self) -> str:
        """The name of the server's process, with "+" behind it if it is durable."""
        return self._facts.get("run_id", "-") + ("+" if self._is_durable() else "")

    def _is_durable(self) -> bool:
        """Return whether it has, started anew, all that it had acknowledged or published before.

        That is so if it waits for its disk before each answer, and has not replaced another server.
        """
        facts = self._facts
        replaced = facts.get("master_replid2", "").strip("0")
        return facts.get("appendonly") == "yes" and facts.get("appendfsync") == "always" and not replaced

    @property
    def evicts(self) -> str | None:
        """The policy by which it may evict keys; None if it evicts none. All our keys have an expiry."""
        policy = self._facts.get("maxmemory_policy", "noeviction")
        limited = self._facts.get("maxmemory", "0") != "0"
        return policy if limited and policy != "noeviction" else None


def check_rights(refused: Sequence[tuple[bytes, bytes]], prefix: str) -> None:
    """Raise BrokerError if there are commands that the broker refuses, to this user or to everybody.

    refused: the answer of `CHECK`. prefix: of our keys and channels.
    """
    missing: dict[str, None] = {}
    for command, error in refused:
        text = error.decode()
        if not any(word in text for word in _RIGHT):
            raise BrokerError(f"the broker has answered: {_WHERE.sub('', text).strip()}")
        if "channel" in text:
            missing[f"&{prefix}*"] = None
        elif "key" in text:
            missing[f"~{prefix}*"] = None
        else:
            missing[f"+{command.decode().lower()}"] = None
    if missing:
        raise BrokerError(f"the broker has answered: NOPERM its user lacks {' '.join(missing)}")


def describe(exc: BaseException | None, prefix: str) -> str:
    """Return why a connection has ended, for the log; if a right is missing, with all that are needed."""
    if exc is None:
        return "the broker has closed the connection"
    if "NOPERM" not in str(exc):
        return str(exc)
    return f"{exc}; what it needs is: resetchannels ~{prefix}* &{prefix}* {RIGHTS}"
