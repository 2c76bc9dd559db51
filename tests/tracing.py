"""An interrupt at a line of the package that is chosen beforehand."""

import gc
import linecache
import os
import sys
import warnings
from contextlib import contextmanager

import reactor as package

ROOT = os.path.dirname(package.__file__)


class Interrupt(BaseException):
    """What comes."""


class Tracer:
    """Counts the lines of the package that are run; raises an `Interrupt` at the one that is asked for, once.

    at: a line, as file name and number, and how many times it was run before; None counts only.
    """

    def __init__(self, at=None):
        self.at = at
        self.seen = {}
        self.done = False

    def __call__(self, frame, event, arg):
        name = frame.f_code.co_filename
        if not name.startswith(ROOT) or f"{os.sep}testing{os.sep}" in name:
            return None
        return self.line

    def line(self, frame, event, arg):
        if event == "line":
            place = frame.f_code.co_filename, frame.f_lineno
            count = self.seen[place] = self.seen.get(place, 0) + 1
            if self.at == (place, count) and not self.done:
                self.done = True
                raise Interrupt(f"{place[0]}:{place[1]}")
        return self.line

    def run(self, call, *args):
        """Call under the trace."""
        before = sys.gettrace()  # coverage's
        sys.settrace(self)
        try:
            call(*args)
        except Interrupt:
            pass
        finally:
            sys.settrace(before)


def ends_a_block(place):
    """Return whether the line is a `with` on a lock, which is run again when the block ends.

    An interrupt at that moment would leave it locked, and Python lets none come then.
    """
    return linecache.getline(*place).lstrip().startswith("with self._lock")


def places(scenario, folder=None, times=0):
    """Return the lines that `scenario(tracer)` runs under the trace, each the first and the last time.

    folder: only the lines of this package, the last time. times: so many of the first times too.
    """
    tracer = Tracer()
    scenario(tracer)
    where = ROOT if folder is None else os.path.join(ROOT, folder)
    first = times or folder is None
    return [
        (place, time)
        for place, count in sorted(tracer.seen.items())
        if (place[0] == where or place[0].startswith(os.path.join(where, ""))) and not ends_a_block(place)
        for time in sorted({*range(1, min(max(times, first), count) + 1), count})
    ]


@contextmanager
def without_collector():
    """Collect no garbage by itself: in a finalizer an interrupt would be swallowed.

    A descriptor may be lost by its owner in an interrupt: no warning is made of it.
    """
    gc.collect()
    gc.disable()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
            gc.collect()
    finally:
        gc.enable()


def failures(scenario, folder=None, times=0, share=0, shares=1):
    """Run `scenario(tracer)` once for each of its lines, with an interrupt there; return what failed.

    share, shares: only the lines of this share, of so many.
    """
    failed = []
    for number, (place, time) in enumerate(places(scenario, folder, times)[share::shares]):
        try:
            scenario(Tracer((place, time)))
        except BaseException as exc:
            failed.append(f"{place[0].removeprefix(ROOT)}:{place[1]} #{time}: {exc!r:.200}")
        if not number % 50:
            gc.collect()
    return failed
