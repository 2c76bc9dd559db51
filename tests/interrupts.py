"""`python -m tests.interrupts`: a signal handler raises a thousand times, anywhere in the loop.

Afterwards the reactor works as before, and the program prints "fine".
"""

import contextlib
import gc
import select
import signal
import sys
import threading

from reactor import Reactor
from tests.helpers import DEADLINE, Echo, pair, spin

TIMES = 1000


class Interrupt(BaseException):
    """The exception of the signal handler."""


def interrupt(signum, frame):
    raise Interrupt


def storm(reactor):
    """Return the futures of what was submitted between the interrupts."""
    futures = []
    signal.signal(signal.SIGALRM, interrupt)
    gc.disable()  # what is raised in a finalizer is swallowed, and none would come again
    for number in range(TIMES):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00003 + number % 50 * 0.000005)
            while True:
                reactor.call_later(0, int)
                futures.append(reactor.submit(int))
                reactor.run_once(0, budget=0.01 if number % 2 else None)
        except Interrupt:
            pass
    return futures


def readable(reactor, wait=0.0):
    return bool(select.select([reactor.fileno()], [], [], wait)[0])


def check(reactor, futures, peer):
    """Check that no call is lost, and that timers, other threads and connections work."""
    while reactor.run_once(0) or reactor.next_timeout() == 0:
        pass  # the first may find no more than the byte of a wake-up that an interrupt kept from being read
    assert [future for future in futures if not future.done()] == []
    assert not readable(reactor)
    ran = []
    reactor.call_later(0.001, ran.append, "timer")
    assert readable(reactor, DEADLINE)
    spin(reactor, lambda: ran)
    thread = threading.Thread(target=reactor.call_soon_threadsafe, args=(ran.append, "thread"))
    thread.start()
    assert readable(reactor, DEADLINE)
    thread.join()
    spin(reactor, lambda: ran == ["timer", "thread"])
    peer.send(b"still here")
    answer = b""
    while answer != b"still here":
        reactor.run_once(DEADLINE)
        with contextlib.suppress(BlockingIOError):
            answer += peer.recv(100)


def main():
    with Reactor() as reactor:
        reactor.fileno()
        _, peer = pair(reactor, Echo())
        with peer:
            check(reactor, storm(reactor), peer)
    sys.stdout.write("fine\n")


if __name__ == "__main__":
    main()
