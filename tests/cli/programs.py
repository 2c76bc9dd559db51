"""Programs of the command line as child processes, and clients of their sockets."""

import re
import select
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

from reactor.cli.main import main
from tests.helpers import DEADLINE


@contextmanager
def command(*words, **options):
    """Run `python -m reactor` with `words`; yield the process, and kill it at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "reactor", *words],
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def server(*words, **options):
    """Run a server; yield the process and the address that it reports."""
    with command(*words, **options) as process:
        yield process, listening_on(process)


def listening_on(process):
    ready, _, _ = select.select([process.stderr], [], [], DEADLINE)
    assert ready, "the server said nothing"
    line = process.stderr.readline().decode()
    found = re.search(r"listening on (\S+)\n$", line)
    assert found, line
    return found[1]


@contextmanager
def listening_socket():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(DEADLINE)
        yield listening, f"127.0.0.1:{listening.getsockname()[1]}"


def read_all(client):
    data = b""
    while more := client.recv(65536):
        data += more
    return data


def usage_error(capfd, *words):
    """Return the one line of the error for `words`."""
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@contextmanager
def redirected(redirection, *words, **options):
    """Run `python -m reactor` with `words` and a redirection of the shell."""
    with subprocess.Popen(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "reactor", *words],
        stdin=options.pop("stdin", subprocess.PIPE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def connected(redirection, data=b"x", app="echo"):
    """Return the status, output and errors of a client of the command line that is redirected."""
    with server("serve", app, "--listen", "127.0.0.1:0") as (_, address):
        with redirected(redirection, "connect", address) as process:
            out, err = process.communicate(data, timeout=DEADLINE)
    return process.returncode, out, err
