"""`python -m tests.hosts NAME`: a host of each kind, with an echo server and its client in its own loop.

The client talks until it has had so many answers, and until the host's own timer has ticked so often, so that
neither keeps the other from its turn. Then a line tells of both, and the program ends. With `--idle` there
is a connection on which nothing happens: `before` and `after` are written around half a second of that. It
imports nothing but the reactor, for not every host has more.
"""

import contextlib
import os
import sys
import threading

from reactor import Protocol, Reactor, Timeouts
from reactor.apps.echo import Echo

EXCHANGES = 1000
TICKS = 20
EVERY = 0.005  # seconds between two ticks
IDLE = 0.5  # seconds


class Talk(Protocol):
    """The client: one message after the other, while `more()` says so."""

    def __init__(self, world):
        self.world = world
        self.missing = 0

    def connection_made(self, connection):
        self.connection = connection
        self.world.connected()
        if not self.world.idle:
            self.say()

    def say(self):
        self.missing = 100
        self.connection.write(bytes(100))

    def data_received(self, data):
        self.world.on_thread()
        self.missing -= len(data)
        if self.missing:
            return
        self.world.exchanges += 1
        self.world.after_exchange()
        if self.world.more():
            self.say()
        else:
            self.connection.close()

    def connection_lost(self, exc):
        if not self.world.idle:
            self.world.quit()


class World:
    """What all hosts have in common. quit: ends the host's loop."""

    def __init__(self, idle=False):
        self.idle = idle
        self.exchanges = self.ticks = 0
        self.thread = threading.get_ident()
        self.quit = lambda: None
        self.connected = lambda: None
        self.after_exchange = lambda: None
        self.reactor = Reactor()

    def start(self):
        """Listen and connect. On the thread that is the host's."""
        timeouts = Timeouts(idle=3600.0, read=1800.0)
        listener = self.reactor.listen("127.0.0.1:0", Echo, timeouts=timeouts)
        self.reactor.connect(listener.addresses[0], lambda: Talk(self), timeouts=timeouts)

    def tick(self):
        """The host's own timer has come."""
        self.ticks += 1

    def more(self):
        return self.exchanges < EXCHANGES or self.ticks < TICKS

    def on_thread(self):
        assert threading.get_ident() == self.thread, "a callback on another thread"

    def __str__(self):
        return f"{self.exchanges >= EXCHANGES} {self.ticks >= TICKS}"


def mark(word):
    """Leave a mark in the trace of the system calls."""
    os.write(1, f"{word}\n".encode())


def watch_idle(world, call_later):
    """In half a second, write a mark; in another half, the second one, and quit."""

    def begin():
        mark("before")
        call_later(IDLE, end)

    def end():
        mark("after")
        world.quit()

    world.connected = lambda: call_later(IDLE / 5, begin)


def keep_time(world, call_later):
    """Run the host's own timer, or, if the world is idle, the marks."""

    def tick():
        world.tick()
        call_later(EVERY, tick)

    if world.idle:
        watch_idle(world, call_later)
    else:
        tick()


def in_asyncio(world, new_loop=None):
    import asyncio

    from reactor.embed.asyncio import attach

    async def main():
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        world.quit = lambda: over.set_result(None)

        keep_time(world, loop.call_later)
        with attach(world.reactor):
            world.start()
            await over

    loop = asyncio.new_event_loop() if new_loop is None else new_loop()
    loop.run_until_complete(main())
    loop.close()


def in_uvloop(world):
    import uvloop

    in_asyncio(world, uvloop.new_event_loop)


def in_trio(world):
    import trio

    from reactor.embed.trio import run

    async def tick():
        while not world.idle:
            await trio.sleep(EVERY)
            world.tick()

    async def main():
        async with trio.open_nursery() as nursery:

            async def later(seconds, callback):
                await trio.sleep(seconds)
                callback()

            world.quit = nursery.cancel_scope.cancel
            if world.idle:
                watch_idle(world, lambda seconds, callback: nursery.start_soon(later, seconds, callback))
            nursery.start_soon(tick)
            await nursery.start(run, world.reactor)
            world.start()

    trio.run(main)


def in_tkinter(world):
    import tkinter as tk

    from reactor.embed.tkinter import attach

    root = tk.Tk()
    world.quit = root.quit

    def tick():
        world.tick()
        root.after(round(EVERY * 1000), tick)

    def later(seconds, callback):
        root.after(round(seconds * 1000), callback)

    def modal():
        if world.exchanges == EXCHANGES // 2:  # a dialog, as long as it is open
            closed = tk.BooleanVar(root)
            world.reactor.call_soon_threadsafe(int)
            root.after(20, closed.set, True)
            root.wait_variable(closed)

    button = tk.Button(root, text="Connect", command=world.start)
    button.pack(fill="both", expand=True)
    root.geometry("200x100+0+0")
    root.update()
    with attach(world.reactor, root):
        if world.idle:
            watch_idle(world, later)
            world.start()
        else:
            world.after_exchange = modal
            tick()
            place = button.winfo_rootx() + 100, button.winfo_rooty() + 50
            sys.stdout.write(f"click {place[0]} {place[1]}\n")
            sys.stdout.flush()
        root.mainloop()
    root.destroy()


def in_qt(world, core):
    from reactor.embed.qt import attach

    application = core.QCoreApplication([])
    world.quit = application.quit
    timer = core.QTimer()
    timer.timeout.connect(world.tick)

    def modal():
        if world.exchanges == EXCHANGES // 2:
            dialog = core.QEventLoop()
            world.reactor.call_soon_threadsafe(int)
            core.QTimer.singleShot(20, dialog.quit)
            dialog.exec()

    if world.idle:
        watch_idle(world, lambda seconds, call: core.QTimer.singleShot(round(seconds * 1000), call))
    else:
        world.after_exchange = modal
        timer.start(round(EVERY * 1000))
    with attach(world.reactor):
        world.start()
        application.exec()


def in_pyside6(world):
    from PySide6 import QtCore, QtGui

    QtCore.QCoreApplication = QtGui.QGuiApplication  # with a screen, if only an offscreen one
    in_qt(world, QtCore)


def in_pyqt6(world):
    from PyQt6 import QtCore

    in_qt(world, QtCore)
    assert "PySide6" not in sys.modules


def in_glib(world):
    from gi.repository import GLib

    from reactor.embed.glib import attach

    loop = GLib.MainLoop()
    world.quit = loop.quit

    def tick():
        world.tick()
        return True

    def later(seconds, callback):
        GLib.timeout_add(round(seconds * 1000), lambda: bool(callback()))

    if world.idle:
        watch_idle(world, later)
    else:
        GLib.timeout_add(round(EVERY * 1000), tick)
    with attach(world.reactor):
        world.start()
        loop.run()


def in_twisted(world):
    from twisted.internet import reactor as host

    from reactor.embed.twisted import attach

    world.quit = host.stop

    keep_time(world, host.callLater)
    with attach(world.reactor):
        world.start()
        host.run()


def in_guest(world):
    """A host that has nothing but a queue of callbacks, and a few timers."""
    import queue
    import time

    from reactor.embed.guest import attach

    callbacks = queue.SimpleQueue()
    timers = []
    over = []
    world.quit = lambda: over.append(True)

    def later(seconds, callback):
        timers.append((time.monotonic() + seconds, callback))
        timers.sort(key=lambda timer: timer[0])

    keep_time(world, later)
    with attach(world.reactor, callbacks.put):
        world.start()
        while not over:
            if timers and timers[0][0] <= time.monotonic():
                timers.pop(0)[1]()
                continue
            wait = max(0.0, timers[0][0] - time.monotonic()) if timers else None
            with contextlib.suppress(queue.Empty):
                callback = callbacks.get(timeout=wait)
                callback()


HOSTS = {
    name.removeprefix("in_"): host
    for name, host in list(globals().items())
    if name.startswith("in_") and name != "in_qt"
}


def main(name, *options):
    world = World(idle="--idle" in options)
    with world.reactor:
        HOSTS[name](world)
    sys.stdout.write(f"{world}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
