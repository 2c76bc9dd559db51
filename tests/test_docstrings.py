"""Docstrings: every public class has an example, every example runs, and says first what a thing is."""

import ast
import doctest
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
from enum import Enum
from pathlib import Path

import pytest

from tests.embed.test_embed import command_of, display
from tests.helpers import DEADLINE

__all__ = ["display"]

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "reactor"

#: Where the public names are.
MODULES = [
    "reactor", "reactor.backplane",
    "reactor.compat.asynchat", "reactor.compat.asyncore", "reactor.compat.socketserver",
    "reactor.datagrams", "reactor.deploy", "reactor.framed", "reactor.framing", "reactor.http",
    "reactor.pool",
    "reactor.streams", "reactor.testing", "reactor.testing.plugin", "reactor.tls",
]  # fmt: skip

#: Modules for hosts, which may not be installed where the tests run, or need a display.
HOSTS = ["asyncio", "attachment", "glib", "guest", "qt", "tkinter", "trio", "twisted"]

#: Classes of `reactor.compat.socketserver` that combine two others, and add nothing.
COMBINED = re.compile(r"(Threading|Forking|Unix)\w*Server")

#: How the first sentence of a docstring must not begin: it says what a thing is, or, as a verb, what a
#: method does.
FORBIDDEN = re.compile(r"(What|Who|Let|Have|Told|Take note|The one)\b")

FILES = sorted(PACKAGE.rglob("*.py"))

INDENTED = re.compile(r"(?<=\n\n)(?:    .*\n|\n)+")


def public_objects():
    for module in map(importlib.import_module, MODULES):
        for name in module.__all__:
            found = getattr(module, name)
            if inspect.isclass(found) or inspect.isfunction(found):
                yield pytest.param(found, id=f"{module.__name__}.{name}")


def needs_example(found):
    """Whether it is a class of ours that one makes or subclasses."""
    return (
        inspect.isclass(found)
        and not issubclass(found, (BaseException, Enum))
        and found.__module__.startswith("reactor.")
        and not COMBINED.fullmatch(found.__name__)
    )


def program_in(docstring):
    """The indented program in a docstring; "" if there is none."""
    text = inspect.cleandoc(docstring) + "\n"
    return textwrap.dedent("".join(INDENTED.findall(text))).strip()


def docstrings(file):
    """The names and docstrings of a file, its own included, private ones too."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "name", file.stem), text


@pytest.fixture
def folder(tmp_path, monkeypatch, certificates):
    """The current directory, with the files that examples of TLS use."""
    for name, source in {"cert.pem": "server.pem", "key.pem": "server.key", "ca.pem": "ca.pem"}.items():
        (tmp_path / name).write_bytes(Path(certificates.file(source)).read_bytes())
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("found", [*public_objects()])
def test_examples_run(found, folder, capsys):
    docstring = inspect.getdoc(found) or ""
    program = program_in(found.__doc__ or "") if inspect.isclass(found) else ""
    exec(program, {"__name__": "__main__"})
    names = dict(vars(sys.modules[found.__module__]))
    test = doctest.DocTestParser().get_doctest(docstring, names, found.__name__, None, None)
    failed = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(test).failed
    assert not failed, capsys.readouterr().out
    assert program or test.examples or not needs_example(found), "it has no example"


@pytest.mark.parametrize("host", HOSTS)
def test_examples_of_hosts_run(host, display):
    command, environment = command_of(host)
    file = ROOT / "reactor" / "embed" / f"{host}.py"
    programs = {name: program for name, text in docstrings(file) if (program := program_in(text))}
    assert {"attach", "run", "Attachment"} & set(programs)
    for program in programs.values():
        done = subprocess.run(
            [command[0], "-c", program],
            env={**environment, "DISPLAY": display},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=3 * DEADLINE,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: os.fspath(file.relative_to(ROOT)))
def test_first_sentence_says_what_it_is_or_does(file):
    assert [name for name, text in docstrings(file) if FORBIDDEN.match(text)] == []
