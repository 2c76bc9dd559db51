"""The registry: for each descriptor, the registered events and the function that handles them."""

from __future__ import annotations

from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector
from typing import Any, Protocol

from reactor.errors import UsageError
from reactor.loop.selector import ERRORS, EXCLUSIVE, FlatSelector, poll_of

__all__ = ["ERRORS", "EVENT_READ", "EVENT_WRITE", "EXCLUSIVE", "FileDescriptorLike", "OnEvent", "Registry"]

#: Handler of EVENT_READ, EVENT_WRITE or both, or ERRORS: `on_event(owner, events)`, with the owner that the
#: descriptor was registered with. Raises only KeyboardInterrupt and the like.
OnEvent = Callable[[Any, int], None]


class HasFileno(Protocol):
    def fileno(self) -> int: ...


FileDescriptorLike = int | HasFileno


class Registry:
    """A table by descriptor over one selector: a function and its owner for each, as in Redis's `ae.c`.

    A method taken from its class and the instance beside it: a bound method would take 64 bytes of each
    connection, and `owner.on_event` would have to be a name that users of a connection see.

    selector: closed with the registry.

    on_events: the function of each descriptor. owners: its first argument, or None for a free descriptor.
    poll: takes a timeout in seconds (None: for ever) and a limit of events, and returns pairs of a
        descriptor and its event bits, as `fold` understands them.
    fold: converts the event bits of a descriptor into its registered ones of EVENT_READ and EVENT_WRITE.
    stale: descriptors whose events in the current batch are outdated: they were removed, added, or lost
        interest in an event. Selectors are level-triggered: the next poll reports what is true then.
    reports_errors: whether the selector supports `ERRORS` and `EXCLUSIVE`.
    leftover: events beyond the limit, for the next ticks.
    """

    def __init__(self, selector: BaseSelector) -> None:
        self.selector = selector
        self.on_events: list[OnEvent] = []
        self.owners: list[Any] = []
        self.stale: set[int] = set()
        self.leftover: list[tuple[int, int]] = []
        self._interest = bytearray()
        self._poll, self.fold = poll_of(selector)
        self._unsure = False  # an interrupt came in the middle of a change
        self.reports_errors = isinstance(selector, FlatSelector)
        self._change = selector.change if isinstance(selector, FlatSelector) else self._change_keys
        self.poll = self._poll if self.reports_errors else self._poll_bounded

    def _poll_bounded(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        return self.batch(self._poll(timeout, limit), limit)

    def batch(self, events: list[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
        """Return the first `limit` of `events`, and keep the others as `leftover`."""
        self.leftover = events[limit:]
        return events[:limit]

    def register(self, fd: int, events: int, on_event: OnEvent, owner: Any) -> None:
        """Register `on_event(owner, events)`, called when `fd` is ready for `events`. The owner owns `fd`.

        Raises OSError for a descriptor that can't be registered, such as a regular file.
        """
        if fd >= len(self.owners):
            more = max(fd + 1, len(self.owners) * 2, 64) - len(self.owners)
            self.on_events.extend([_ignore] * more)
            self._interest.extend(bytes(more))
            self.owners.extend([None] * more)
        elif self.owners[fd] is not None:
            # Its owner closed it without `unregister`, and the kernel has reused the number.
            self.unregister(fd)
        self.on_events[fd] = on_event
        self.owners[fd] = owner
        try:
            self.modify(fd, events)
        except (OSError, ValueError):
            self.owners[fd] = None
            raise

    def replace(self, fd: int, on_event: OnEvent, owner: Any) -> None:
        """Replace the function and owner of `fd`."""
        self.on_events[fd] = on_event
        self.owners[fd] = owner

    def modify(self, fd: int, events: int) -> None:
        """Change the `events` of `fd`; 0 removes it from the selector, but keeps its owner.

        Events in the current batch that are no longer registered, or were not yet, are dropped: selectors are
        level-triggered, and the next poll reports what is true then.
        """
        before = self._interest[fd]
        if events == before:
            return
        unsure, self._unsure = self._unsure, True
        self._interest[fd] = events  # first: `recover` adjusts the selector after an interrupt
        try:
            if unsure:
                self._force(fd, events)
            else:
                self._change(fd, before, events)
        except (OSError, ValueError):
            self._interest[fd] = 0
            self._unsure = unsure
            raise
        self._unsure = unsure
        if not before or before & ~events:
            self.stale.add(fd)

    def _change_keys(self, fd: int, before: int, events: int) -> None:
        """As `FlatSelector.change`, for another selector."""
        if not before:
            self.selector.register(fd, events)
            return
        if not events:
            self.selector.unregister(fd)
            return
        try:
            self.selector.modify(fd, events)
        except OSError:
            # Some selectors have dropped the descriptor by then, and some have not.
            if fd in self.selector.get_map():
                self.selector.unregister(fd)
            raise

    def unregister(self, fd: int) -> None:
        """Unregister `fd` and its owner. To be called before the descriptor is closed."""
        self.modify(fd, 0)
        self.owners[fd] = None

    def recover(self) -> None:
        """Restore the selector's registrations, after an interrupt in the middle of a change."""
        self._unsure = False
        for fd, owner in enumerate(self.owners):
            events = self._interest[fd] = 0 if owner is None else self._interest[fd]
            try:
                self._force(fd, events)
            except OSError:
                self._interest[fd] = 0  # its owner gets the same error at the next change

    def _force(self, fd: int, events: int) -> None:
        if isinstance(self.selector, FlatSelector):
            self.selector.force(fd, events)
            return
        if fd in self.selector.get_map():
            self.selector.unregister(fd)
        if events:
            self.selector.register(fd, events)

    def interest(self, fd: int) -> int:
        """Return the registered events of `fd`."""
        return self._interest[fd]

    def owner_of(self, fd: int) -> Any:
        """Return the owner of `fd`, or None."""
        return self.owners[fd] if 0 <= fd < len(self.owners) else None

    def owned(self) -> list[Any]:
        """Return the owners of all descriptors, in the order of descriptors."""
        return [owner for owner in self.owners if owner is not None]

    def dispatch(self, fd: int, events: int) -> None:
        """Handle `events` of `fd` now, as if the selector had reported them."""
        self.on_events[fd](self.owners[fd], events)

    def watch(
        self,
        fileobj: FileDescriptorLike,
        event: int,
        call: Callable[..., None],
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        """Register `callback(*args)`, which `call` runs whenever `fileobj` is ready for `event`."""
        fd = _descriptor(fileobj)
        watch = self.owner_of(fd)
        if watch is None:
            try:
                self.register(fd, event, _Watch.on_event, _Watch(call, event, callback, args))
            except PermissionError as exc:  # epoll_ctl(2)
                cause = (
                    f"{fileobj!r} can't be waited for: a regular file is always ready, read it on a thread"
                )
                raise PermissionError(exc.errno, cause) from exc
        elif isinstance(watch, _Watch):
            watch.callbacks[event] = (callback, args)
            self.modify(fd, watch.events())
        else:
            raise UsageError(f"descriptor {fd} belongs to {watch}: use its own methods")

    def unwatch(self, fileobj: FileDescriptorLike, event: int) -> bool:
        """Undo `watch` for one event; return whether it was registered."""
        fd = _descriptor(fileobj)
        watch = self.owner_of(fd)
        if not isinstance(watch, _Watch) or event not in watch.callbacks:
            return False
        del watch.callbacks[event]
        if watch.callbacks:
            self.modify(fd, watch.events())
        else:
            self.unregister(fd)
        return True

    def detach(self, refuse: Callable[[], None]) -> None:
        """Detach after fork: call `refuse` instead of every function and of the poll.

        The selector is not changed, because its kernel object belongs to the parent.
        """
        self.on_events[:] = [_Refusal.on_event] * len(self.owners)
        self.owners[:] = [_Refusal(refuse)] * len(self.owners)
        self.leftover = []
        self.poll = _Refusal(refuse).poll

    def close(self) -> None:
        """Unregister every descriptor, and close the selector."""
        self.on_events.clear()
        self.owners.clear()
        self._interest.clear()
        self.leftover = []
        self.selector.close()


class _Watch:
    """A user's descriptor, with a callback and its arguments for each direction."""

    __slots__ = ("_call", "callbacks")

    def __init__(
        self,
        call: Callable[..., None],
        event: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
    ) -> None:
        self._call = call
        self.callbacks = {event: (callback, args)}

    def events(self) -> int:
        return sum(self.callbacks)

    def on_event(self, events: int) -> None:
        for event in (EVENT_READ, EVENT_WRITE):
            if events & event and event in self.callbacks:
                callback, args = self.callbacks[event]
                self._call(callback, *args)


class _Refusal:
    """The poll and handler of a forked child: every call raises."""

    def __init__(self, refuse: Callable[[], None]) -> None:
        self._refuse = refuse

    def on_event(self, events: int) -> None:
        self._refuse()

    def poll(self, timeout: float | None, limit: int) -> list[tuple[int, int]]:
        self._refuse()
        return []


def _ignore(owner: Any, events: int) -> None:
    """Do nothing: the handler of every descriptor that is not registered."""


def _descriptor(fileobj: FileDescriptorLike) -> int:
    if not (isinstance(fileobj, int) or hasattr(fileobj, "fileno")):
        raise TypeError(f"fd must be a descriptor or have fileno(), not {fileobj!r}")
    fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
    if fd < 0:
        raise ValueError(f"{fileobj!r} is closed: it has no descriptor to wait for")
    return fd
