"""Programs as they are written on `asyncore`, unchanged but for the import; the clients are real."""

import contextlib
import ftplib
import importlib
import io
import resource
import select
import shutil
import smtplib
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import deque

import pytest

from reactor.compat import asynchat, asyncore
from tests.helpers import DEADLINE


@pytest.fixture(autouse=True)
def closed(descriptors):
    assert not asyncore.socket_map
    yield
    asyncore.close_all(ignore_all=True)


class Server(asyncore.dispatcher):
    """A listening dispatcher, as all of these programs have one."""

    def __init__(self, handler, map=None):
        super().__init__(map=map)
        self.handler = handler
        self.create_socket(socket.AF_INET, socket.SOCK_STREAM)
        self.set_reuse_addr()
        self.bind(("127.0.0.1", 0))
        self.listen(64)
        self.address = self.socket.getsockname()

    def handle_accepted(self, sock, addr):
        self.handler(sock, self._map)


class Lines(asynchat.async_chat):
    def __init__(self, sock, map):
        super().__init__(sock, map)
        self.set_terminator(b"\r\n")

    def collect_incoming_data(self, data):
        self._collect_incoming_data(data)

    def reply(self, line):
        self.push(f"{line}\r\n".encode())


@contextlib.contextmanager
def serving(server, loop=asyncore.loop, **options):
    """Run the server's loop on a thread of its own; it ends when the map is empty."""
    map = server._map

    def run():
        loop(map=map, **options)

    thread = threading.Thread(target=run)
    stopping = Stop(map)
    thread.start()
    try:
        yield server.address
    finally:
        stopping.push.send(b"x")
        thread.join(DEADLINE)
        stopping.push.close()
        assert not thread.is_alive()


class Stop(asyncore.dispatcher):
    """Closes everything when its peer sends something."""

    def __init__(self, map):
        ours, self.push = socket.socketpair()
        super().__init__(ours, map)

    def handle_read(self):
        self.recv(1)
        asyncore.close_all(self._map)


# FTP: commands on one connection, files on others, sent by producers


class FileProducer:
    def __init__(self, file):
        self.file = file

    def more(self):
        return self.file.read(50_000)


class Upload(asynchat.async_chat):
    def __init__(self, sock, map, done):
        super().__init__(sock, map)
        self.set_terminator(None)
        self.done = done
        self.content = b""

    def collect_incoming_data(self, data):
        self.content += data

    def handle_close(self):
        self.close()
        self.done(self.content)


class Download(asynchat.async_chat):
    def __init__(self, sock, map, content, done):
        super().__init__(sock, map)
        self.set_terminator(None)
        self.done = done
        self.push_with_producer(FileProducer(io.BytesIO(content)))
        self.close_when_done()

    def handle_close(self):
        self.close()
        self.done()


class Ftp(Lines):
    files = {}

    def __init__(self, sock, map):
        super().__init__(sock, map)
        self.passive = None
        self.accepted = []
        self.waiting = []
        self.reply("220 ready")

    def found_terminator(self):
        command, _, argument = self._get_data().decode().partition(" ")
        getattr(self, f"do_{command.lower()}", self.unknown)(argument)

    def unknown(self, argument):
        self.reply("502 not here")

    def do_user(self, argument):
        self.reply("230 in")

    def do_type(self, argument):
        self.reply("200 as you like")

    def do_quit(self, argument):
        self.reply("221 bye")
        self.close_when_done()

    def do_pasv(self, argument):
        self.passive = Server(self.data_connection, self._map)
        host, port = self.passive.address
        numbers = ",".join([*host.split("."), str(port >> 8), str(port & 255)])
        self.reply(f"227 ({numbers})")

    def data_connection(self, sock, map):
        self.passive.close()
        self.accepted.append(sock)
        self.transfer()

    def transfer(self):
        if self.accepted and self.waiting:
            self.waiting.pop()(self.accepted.pop())

    def do_retr(self, name):
        if name not in self.files:
            self.passive.close()
            while self.accepted:
                self.accepted.pop().close()
            self.reply("550 no such file")
            return
        self.reply("150 here it comes")
        self.waiting.append(
            lambda sock: Download(sock, self._map, self.files[name], lambda: self.reply("226 sent"))
        )
        self.transfer()

    def do_stor(self, name):
        def done(content):
            self.files[name] = content
            self.reply("226 stored")

        self.reply("150 send it")
        self.waiting.append(lambda sock: Upload(sock, self._map, done))
        self.transfer()


@pytest.mark.parametrize("use_poll", [False, True])
@pytest.mark.parametrize("private", [False, True])
def test_ftp(use_poll, private):
    content = bytes(range(256)) * 8000
    with serving(Server(Ftp, {} if private else None), use_poll=use_poll) as address:
        with ftplib.FTP(timeout=DEADLINE) as client:
            client.connect(*address)
            assert client.login("me") == "230 in"
            assert client.storbinary("STOR file", io.BytesIO(content)) == "226 stored"
            got = []
            assert client.retrbinary("RETR file", got.append) == "226 sent"
            assert b"".join(got) == content
            with pytest.raises(ftplib.error_perm, match="550"):
                client.retrbinary("RETR none", got.append)


# SMTP: terminators that change


class Smtp(Lines):
    messages = []

    def __init__(self, sock, map):
        super().__init__(sock, map)
        self.in_data = False
        self.reply("220 here")

    def found_terminator(self):
        text = self._get_data()
        if self.in_data:
            self.in_data = False
            self.set_terminator(b"\r\n")
            self.messages.append(text.replace(b"\r\n..", b"\r\n."))
            self.reply("250 taken")
            return
        command = text.split(b" ")[0].split(b":")[0].upper()
        if command == b"DATA":
            self.in_data = True
            self.set_terminator(b"\r\n.\r\n")
            self.reply("354 go on")
        elif command == b"QUIT":
            self.reply("221 bye")
            self.close_when_done()
        else:
            self.reply("250 fine")


def test_smtp():
    Smtp.messages.clear()
    body = "Subject: hello\r\n\r\n.dots\r\n..\r\n" + "long line " * 20_000
    with serving(Server(Smtp)) as (host, port):
        with smtplib.SMTP(host, port, timeout=DEADLINE) as client:
            for number in range(3):
                client.sendmail("me@localhost", ["you@localhost"], f"{body}{number}")
    assert Smtp.messages == [f"{body}{number}".encode() for number in range(3)]


def test_swaks():
    assert shutil.which("swaks"), "swaks is missing: install the package swaks"
    Smtp.messages.clear()
    with serving(Server(Smtp)) as (host, port):
        done = subprocess.run(
            ["swaks", "--server", f"{host}:{port}", "--from", "me@localhost", "--to", "you@localhost",
             "--body", "hello from swaks", "--timeout", str(int(DEADLINE))],
            capture_output=True,
            text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert b"hello from swaks" in Smtp.messages[0]


#: Servers of the standard library that import `asyncore` and `asynchat` themselves.
MAIL_SERVERS = ["ours", *(["smtpd"] if sys.version_info < (3, 12) else [])]


@pytest.fixture(params=MAIL_SERVERS)
def mail_server(request, monkeypatch):
    """Makes a server that appends each message to a list."""
    if request.param == "ours":
        return lambda received: Server(type("Mail", (Smtp,), {"messages": received}))
    monkeypatch.setitem(sys.modules, "asyncore", asyncore)
    monkeypatch.setitem(sys.modules, "asynchat", asynchat)
    monkeypatch.delitem(sys.modules, "smtpd", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        smtpd = importlib.import_module("smtpd")
    monkeypatch.delitem(sys.modules, "smtpd")

    class Mail(smtpd.SMTPServer):
        def process_message(self, peer, mailfrom, rcpttos, data, **kwargs):
            self.received.append(data)

    def make(received):
        server = Mail(("127.0.0.1", 0), None)
        server.received, server.address = received, server.socket.getsockname()
        return server

    return make


def test_mail_servers(mail_server):
    received = []
    with serving(mail_server(received)) as (host, port):
        with smtplib.SMTP(host, port, timeout=DEADLINE) as client:
            client.sendmail("me@localhost", ["you@localhost"], "Subject: hello\r\n\r\nbody")
    assert received == [b"Subject: hello\r\n\r\nbody"] or received == [b"Subject: hello\n\nbody"]


# A chat room: each line goes to all, some of it by producers


class Room(Lines):
    members = []

    def __init__(self, sock, map):
        super().__init__(sock, map)
        self.members.append(self)

    def found_terminator(self):
        line = self._get_data() + b"\r\n"
        for member in self.members:
            member.push_with_producer(asynchat.simple_producer(line, 7))

    def handle_close(self):
        self.members.remove(self)
        self.close()


def test_chat_room():
    Room.members.clear()
    with serving(Server(Room), use_poll=True) as address, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, DEADLINE)) for _ in range(5)]
        files = [stack.enter_context(client.makefile("rb")) for client in clients]
        for client, file in zip(clients, files, strict=True):  # each is a member when it hears itself
            client.sendall(b"hello\r\n")
            assert file.readline() == b"hello\r\n"
        clients[0].sendall(b"to all " * 100 + b"\r\n")
        for file in files:
            while (heard := file.readline()) == b"hello\r\n":
                pass
            assert heard == b"to all " * 100 + b"\r\n"


# A loop of one's own over the map, as supervisord's


def own_loop(map):
    while map:
        poller = select_of(map)
        for fd, flags in poller.poll(50):
            obj = map.get(fd)
            if obj is not None:
                asyncore.readwrite(obj, flags)


def select_of(map):
    poller = select.poll()
    for fd, obj in list(map.items()):
        flags = (select.POLLIN if obj.readable() else 0) | (select.POLLOUT if obj.writable() else 0)
        if obj.accepting:
            flags &= ~select.POLLOUT
        if flags:
            poller.register(fd, flags)
    return poller


class Shout(Lines):
    def found_terminator(self):
        self.reply(self._get_data().decode().upper())


def talk(address, lines=3):
    with socket.create_connection(address, DEADLINE) as client, client.makefile("rb") as file:
        for _ in range(lines):
            client.sendall(b"hello\r\n")
            assert file.readline() == b"HELLO\r\n"


def test_own_loop_over_the_map():
    with serving(Server(Shout), loop=own_loop) as address:
        talk(address)


def test_own_loop_of_single_passes():
    passes = []

    def loop(map):
        while map:
            asyncore.loop(timeout=0.01, use_poll=True, map=map, count=1)
            passes.append(len(map))

    with serving(Server(Shout), loop=loop) as address:
        talk(address)
    assert passes[-1] == 0


# Another thread writes without a wake-up, as hazelcast's clients do


class Queued(asyncore.dispatcher):
    def __init__(self, sock, map):
        super().__init__(sock, map)
        self.queue, self.got = deque(), b""

    def handle_read(self):
        self.got += self.recv(65536)

    def handle_close(self):
        self.close()

    def writable(self):
        return bool(self.queue)

    def handle_write(self):
        data = self.queue.popleft()
        sent = self.send(data)
        if sent < len(data):
            self.queue.appendleft(data[sent:])


def test_another_thread_fills_the_queue():
    ours, theirs = socket.socketpair()
    map, lock, stopped = {}, threading.Lock(), threading.Event()
    queued = Queued(ours, map)

    def run():
        while not stopped.is_set():
            with lock:
                asyncore.loop(timeout=0.01, map=map, count=1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        theirs.settimeout(DEADLINE)
        for number in range(20):
            queued.queue.append(b"%d" % number * 100)
            got = b""
            while len(got) < len(b"%d" % number * 100):
                got += theirs.recv(1000)
            assert got == b"%d" % number * 100
    finally:
        stopped.set()
        thread.join(DEADLINE)
    queued.close()
    theirs.close()


class Sink(asyncore.dispatcher):
    def handle_read(self):
        self.recv(100)

    def handle_close(self):
        self.close()


def test_a_queue_beside_a_stock_dispatcher_is_seen_at_once():
    # The standard loop never waits where there is a dispatcher that is always writable.
    pairs = [socket.socketpair() for _ in range(2)]
    map = {}
    queued = Queued(pairs[0][0], map)
    Sink(pairs[1][0], map)
    thread = threading.Thread(target=asyncore.loop, kwargs={"timeout": 3600, "map": map})
    thread.start()
    pairs[0][1].settimeout(DEADLINE)
    for word in (b"one", b"two"):
        queued.queue.append(word)
        assert pairs[0][1].recv(10) == word
    for _, theirs in pairs:
        theirs.close()
    thread.join(DEADLINE)
    assert map == {}


# Predicates that look at the clock and at others


class Timed(asyncore.dispatcher):
    """Is writable each `delay` seconds, and does its work in `readable`, at most so many times."""

    delay = 0.005

    def __init__(self, sock, map):
        super().__init__(sock, map)
        self.due = time.monotonic()
        self.worked = self.ticks = 0

    def readable(self):
        self.worked += 1
        return False

    def writable(self):
        return time.monotonic() >= self.due

    def handle_write(self):
        self.due = time.monotonic() + self.delay
        self.ticks += 1
        if self.ticks == 5:
            self.close()


def test_timed_predicates():
    ours, theirs = socket.socketpair()
    timed = Timed(ours, map := {})
    started = time.monotonic()
    asyncore.loop(timeout=0.001, map=map)
    assert time.monotonic() - started >= 4 * timed.delay
    assert timed.worked >= timed.ticks == 5
    theirs.close()


class Held(Server):
    """Holds back accepting while the map is full, as waitress does."""

    limit = 3
    most = 0

    def readable(self):
        self.most = max(self.most, len(self._map))
        return len(self._map) < self.limit + 2  # itself, and what stops it


def test_predicate_that_counts_the_map():
    server = Held(Shout)
    with serving(server, timeout=0.01) as address, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(address, DEADLINE)) for _ in range(6)]
        for client in clients:
            client.sendall(b"hello\r\n")
        for client in clients:
            with client, client.makefile("rb") as file:
                assert file.readline() == b"HELLO\r\n"
    assert server.most <= 5


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_descriptors_than_select_can_wait_for(many_descriptors):
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            for sock in socket.socketpair():
                stack.enter_context(sock)
        server = Server(Shout)
        assert server._fileno > 1024
        with serving(server) as address:
            talk(address)
