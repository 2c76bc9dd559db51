"""A worker process for the tests: serves an app, takes connections over, hands them over, dies on demand.

Arguments: the app; the descriptor of a listening socket; that of a channel to take over from, or -1; the
number of the call on the channel before which it kills itself, or 0. It hands over when a line with the
descriptor of a channel comes on standard input, and then drains.
"""

import os
import signal
import socket
import sys

from reactor import Reactor
from reactor.apps import APPS
from reactor.deploy import hand_over, take_over


class Deadly:
    """A socket that kills this process before a certain call."""

    def __init__(self, sock, at):
        self._sock = sock
        self._left = at

    def __getattr__(self, name):
        if name in {"send", "sendmsg", "recvmsg"}:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return getattr(self._sock, name)


def main(app, listening, channel, kill_at):
    def open_channel(descriptor):
        return Deadly(socket.socket(fileno=int(descriptor)), int(kill_at))

    def say(*words):
        sys.stdout.write(" ".join(map(str, words)) + "\n")
        sys.stdout.flush()

    def handed_over(transfer):
        say("handed over", transfer.moved, transfer.error)
        if transfer.error is None:
            listener.close()  # the socket is shared
            reactor.drain(0.1)

    def on_command():
        command = sys.stdin.readline()
        if not command:
            reactor.stop()
        else:
            hand_over(reactor, open_channel(command), timeout=20, on_done=handed_over)

    with Reactor() as reactor:
        listener = reactor.listen(socket.socket(fileno=int(listening)), APPS[app].start())
        reactor.add_reader(sys.stdin, on_command)
        if channel != "-1":
            take_over(
                reactor,
                open_channel(channel),
                timeout=20,
                on_done=lambda transfer: say("taken over", transfer.moved, transfer.error),
            )
        say("ready")
        reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
