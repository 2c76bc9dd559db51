"""The app that `serve` runs: a built-in one, or a factory of a module, which is imported and checked."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from reactor.apps import APPS, App
from reactor.protocol import Factory

__all__ = ["chosen_app", "name_of", "parse_app"]

# The methods of a protocol that --udp needs.
_DATAGRAMS_NEED = ("connection_made", "datagram_received", "connection_lost")


def name_of(app: App) -> str:
    """Return the name of a built-in app."""
    return next(name for name, known in APPS.items() if known is app)


def parse_app(name: str) -> App | str:
    """Return the app of that name, or the name of a factory, which is imported where it serves.

    Raises ArgumentTypeError for a name that can be neither.
    """
    known = APPS.get(name)
    if known is not None:
        return known
    module_name, separator, path = name.partition(":")
    if module_name.endswith(".py") or module_name.startswith(".") or os.sep in module_name:
        raise argparse.ArgumentTypeError(_not_a_module(name, module_name, path))
    if not (separator and module_name and path):
        raise argparse.ArgumentTypeError(
            f"there is no app {name!r}: choose {', '.join(APPS)}, or give module:factory"
        )
    return name


def chosen_app(options: argparse.Namespace) -> App:
    """Return the app of `options.app`, which may be a factory's.

    With `options.udp` its protocols are to be those of datagrams. A factory is imported, and checked as
    far as that is possible without calling it; `options.error` is called with what is wrong with it.
    """
    name: App | str = options.app
    if isinstance(name, App):
        return name
    factory = _import(options, name)
    problem = _problem_of_factory(factory, _DATAGRAMS_NEED if options.udp else ())
    if problem is not None:
        options.error(f"argument APP: {name!r} {problem}")
    summary = f"serves the protocols of {name}"
    if options.udp:
        return App(summary, lambda: factory, datagrams=lambda: factory)
    if isinstance(factory, type):
        return App(summary, lambda: factory)
    return App(summary, lambda: _checking(name, factory))


def _not_a_module(name: str, file: str, path: str) -> str:
    module = os.path.normpath(file).removesuffix(".py").replace(os.sep, ".")
    importable = all(map(str.isidentifier, module.split(".")))
    mend = f"{module}:{path or 'FACTORY'}" if importable else "module:factory"
    return f"{name!r} names a file: name the module as Python imports it, {mend}"


def _import(options: argparse.Namespace, name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the installed command finds modules where `python -m` does
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as exc:  # whatever the module raises is its author's to fix
        options.error(f"argument APP: cannot import {name!r}: {type(exc).__name__}: {exc}{_place(exc)}")
    return found


def _place(exc: BaseException) -> str:
    """Return the file and line where the code of a module raised `exc`; "" if the import itself did."""
    frames = traceback.extract_tb(exc.__traceback__)
    ours = {__file__, importlib.__file__}
    own = [frame for frame in frames if frame.filename not in ours and not frame.filename.startswith("<")]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _problem_of_factory(factory: Any, needed: Iterable[str]) -> str | None:
    """Return why `factory` can't return a protocol; None if nothing shows that without calling it.

    needed: the methods of a protocol; none: those of a connection's.
    """
    if not callable(factory):
        return f"is not a factory: it is a {type(factory).__name__}, which can't be called"
    if inspect.iscoroutinefunction(factory):
        return "is a coroutine function: give the factory that reactor.streams.handler makes of it"
    try:
        inspect.signature(factory).bind()
    except TypeError as exc:
        return f"can't be called without arguments: {exc}"
    except ValueError:
        pass  # written in C, without a signature
    if isinstance(factory, type) and not hasattr(factory, "__getattr__"):
        missing = _missing_callback(factory, needed)
        if missing is not None:
            base = "reactor.datagrams.DatagramProtocol" if needed else "reactor.Protocol"
            return f"is not a protocol class: it has no {missing}; derive it from {base}"
    return None


def _missing_callback(protocol: object, needed: Iterable[str] = ()) -> str | None:
    """Return the name of a callback in `needed` that `protocol` lacks; none: those of a connection."""
    receive = "get_buffer" if hasattr(protocol, "buffer_updated") else "data_received"
    needed = needed or ("connection_made", receive, "eof_received", "connection_lost")
    return next((name for name in needed if not hasattr(protocol, name)), None)


def _checking(name: str, factory: Factory) -> Factory:
    """Return a factory that raises TypeError if `factory` returns no protocol."""

    def make() -> Any:
        protocol = factory()
        missing = _missing_callback(protocol)
        if missing is not None:
            kind = type(protocol).__name__
            raise TypeError(f"{name} must return a protocol: it returned a {kind}, without {missing}")
        return protocol

    if hasattr(factory, "take_over"):
        make.take_over = factory.take_over  # type: ignore[attr-defined]
    return make
