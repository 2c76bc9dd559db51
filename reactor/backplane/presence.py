"""`Presence`: the names of a process, and the key by which the broker knows that it lives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from secrets import token_hex

from reactor.backplane.commands import Commands
from reactor.backplane.interface import Membership
from reactor.backplane.scripts import FORGET, GIVE, HAND_OVER, TAKE
from reactor.reactor import Reactor

__all__ = ["Presence"]


class Presence:
    """The names of a process. After a lost connection, and after it was counted as dead, all are taken anew.

    commands: to the broker. ttl: milliseconds from a renewal of its key to its expiry.
    call: calls back to the program, as `call(what, callback, *args)`.
    """

    def __init__(self, reactor: Reactor, commands: Commands, ttl: int, call: Callable[..., object]) -> None:
        self._reactor = reactor
        self._commands = commands
        self._ttl = ttl
        self._call = call
        self._held: dict[tuple[str, str], Membership] = {}
        self._node = b""  # the key

    def count(self) -> int:
        """Return how many names it has."""
        return sum(membership.held is True for membership in self._held.values())

    def groups(self) -> set[bytes]:
        """Return the keys of the groups in which it has names, or is about to."""
        return {self._key_of(membership) for membership in self._held.values()}

    def claim_all(self) -> None:
        """Take all names under a new key, so that those given back meanwhile are free with the old one."""
        old, self._node = self._node, self._commands.key("n", token_hex(8))
        self._commands.send(None, "SET", self._node, "1", "PX", self._ttl)
        for membership in self._held.values():
            self._claim(membership, old)
        if old:
            self._commands.send(None, "DEL", old)

    def renew(self, on_answer: Callable[[], object]) -> None:
        """Renew the key; `on_answer` is called when the broker has taken that."""
        handler = partial(self._renewed, self._node, on_answer)
        self._commands.send(handler, "SET", self._node, "1", "XX", "PX", self._ttl)

    def _renewed(self, node: bytes, on_answer: Callable[[], object], reply: str | None) -> None:
        if reply is None:
            self._claim_again(node)
        on_answer()

    def _claim_again(self, node: bytes) -> None:
        """Take all names again, as the key had expired: this process was held up, and counted as dead."""
        if node == self._node:
            self.claim_all()

    def _claim(self, membership: Membership, old: bytes) -> None:
        self._commands.run(
            partial(self._claimed, membership, self._node), TAKE, (self._key_of(membership),),
            membership.name, self._node, membership.token, FORGET, old,
        )  # fmt: skip

    def _claimed(self, membership: Membership, node: bytes, taken: int) -> None:
        where = membership.group, membership.name
        if taken < 0:
            self._claim_again(node)
        elif self._held.get(where) is membership:
            if not taken:
                del self._held[where]
            self._call("on_result or on_lost of take", membership.answered, bool(taken))

    def take(self, membership: Membership) -> None:
        """Take a name; the membership gets the answer."""
        where = membership.group, membership.name
        known = self._held.get(where)
        if known is not None and known.token != membership.token:
            self._reactor.call_soon(self._call, "on_result of take", membership.answered, False)
            return
        self._held[where] = membership
        self._claim(membership, b"")

    def give_back(self, membership: Membership, *, hand_over: bool) -> None:
        """Free a name, or reserve it for as long as a dead process would have it."""
        where = membership.group, membership.name
        if self._held.get(where) is not membership:
            return
        del self._held[where]
        keys, owner = (self._key_of(membership),), (membership.name, self._node, membership.token)
        if hand_over:
            self._commands.run(None, HAND_OVER, keys, *owner, self._ttl)
        else:
            self._commands.run(None, GIVE, keys, *owner)

    def end(self, on_answer: Callable[[], object] = lambda: None) -> None:
        """Free all names; `on_answer` is called when the broker has done that."""
        self._commands.send(lambda _: on_answer(), "DEL", self._node)
        self._held.clear()

    def _key_of(self, membership: Membership) -> bytes:
        return self._commands.key("g", membership.group)
