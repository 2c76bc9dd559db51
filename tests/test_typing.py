"""Type hints: mypy accepts a program's right calls, and reports the lines of wrong ones."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

PROGRAM = """\
import asyncio
import signal
from functools import partial

from reactor import BufferedProtocol, Connection, Protocol, Reactor, Timeouts
from reactor.embed.asyncio import call, complete
from reactor.pool import BlockingSocket, Pool
from reactor.streams import Stream, handler


class Echo(Protocol):
    def connection_made(self, connection: Connection) -> None:
        self.connection = connection

    def data_received(self, data: bytes) -> None:
        self.connection.write(data)


class Into(BufferedProtocol):
    def get_buffer(self, sizehint: int) -> bytearray:
        return bytearray(sizehint)


class Foreign(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...


class Nothing: ...


def say(word: str, times: int = 1) -> int:
    return times


def blocking(connection: BlockingSocket) -> None: ...


async def serve(stream: Stream) -> None: ...


def use(reactor: Reactor, future: asyncio.Future[int], connection: Connection) -> None:
    reactor.call_soon(say, "x")
    reactor.call_later(1, say, "x", 2)
    reactor.call_later(1, partial(say, "x"))
    reactor.call_at(1, lambda: None)
    reactor.call_soon_threadsafe(future.cancel)
    number: int = reactor.submit(say, "x").result()
    reactor.add_signal_handler(signal.SIGTERM, reactor.stop)
    complete(future, number)
    complete(future, ValueError("no"))
    for factory in (Echo, Into, Foreign):
        reactor.listen(":0", factory, timeouts=Timeouts(idle=60))
    reactor.listen(":0", lambda: Echo())
    reactor.listen(":0", Pool(blocking))
    reactor.listen(":0", handler(serve))
    reactor.connect(":1", Foreign)
    connection.set_protocol(Into())
    reactor.call_soon(say)  # wrong
    reactor.call_later(1, say)  # wrong
    reactor.call_later(1, say, 5)  # wrong
    reactor.call_at(1, say, "x", 2, 3)  # wrong
    reactor.call_soon_threadsafe(say)  # wrong
    reactor.call_soon(None)  # wrong
    reactor.submit(say)  # wrong
    reactor.add_reader(0, say)  # wrong
    reactor.call_at_close(say)  # wrong
    reactor.call_each_tick(say)  # wrong
    complete(future, "x")  # wrong
    reactor.listen(":0", Nothing)  # wrong
    reactor.listen(":0", lambda: None)  # wrong
    reactor.listen(":0", Echo())  # wrong
    reactor.connect(":1", Nothing)  # wrong
    reactor.listen(":0", Echo, timeouts=60)  # wrong
    connection.set_protocol(None)  # wrong


async def ask(reactor: Reactor) -> int:
    return await call(reactor, say, "x")
"""


def test_type_checker_accepts_right_calls_and_reports_wrong_ones(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    words = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    done = subprocess.run([*words, str(program)], cwd=ROOT, capture_output=True, text=True)
    reported = {int(line) for line in re.findall(r"program\.py:(\d+): error: ", done.stdout)}
    wrong = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}
    assert reported == wrong, done.stdout + done.stderr
