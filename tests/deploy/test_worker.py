"""The worker's side of the channel, in this process: what it asks for, and what it makes of the answers."""

import socket
import threading
from functools import partial

import pytest

from reactor import ListenError, Protocol
from reactor.datagrams import EndpointState
from reactor.deploy.worker import SupervisorGone, WorkerReactor
from reactor.loop.registry import EVENT_READ, EXCLUSIVE
from reactor.reactor import loop_of
from reactor.testing import DatagramRecorder
from tests.helpers import DEADLINE


def answer(channel, *answers):
    """Answer the next requests on a thread; return what they were, and the thread."""
    asked = []

    def run():
        for kind, fds, fields in answers:
            asked.append(channel.receive(wait=True))
            channel.send("drain")  # may come at any time
            channel.send(kind, fds, **fields)

    thread = threading.Thread(target=run)
    thread.start()
    return asked, thread


def test_it_listens_on_what_the_supervisor_has_bound(ends):
    theirs, ours = ends
    with socket.create_server(("127.0.0.1", 0)) as bound, WorkerReactor(ours) as reactor:
        reply = ("bound", [bound.fileno()], {})
        asked, thread = answer(theirs, reply, reply)
        options = [
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.SOL_SOCKET, socket.SO_RCVBUF, b"\x00\x20\0\0"),
        ]
        listeners = [reactor.listen("127.0.0.1:0", Protocol, backlog=7, options=options) for _ in range(2)]
        thread.join()
        assert [message.fields["key"] for message in asked] == [["127.0.0.1:0", 0], ["127.0.0.1:0", 1]]
        assert asked[0].fields["backlog"] == 7
        assert [option[2] for option in asked[0].fields["options"]] == [1, "00200000"]
        assert listeners[0].addresses[0].port == bound.getsockname()[1]
        assert [message.kind for message in reactor.unread] == ["drain", "drain"]


def test_datagrams_are_received_on_what_the_supervisor_has_bound(ends):
    theirs, ours = ends
    with socket.socket(type=socket.SOCK_DGRAM) as bound, WorkerReactor(ours) as reactor:
        bound.bind(("127.0.0.1", 0))
        asked, thread = answer(theirs, *[("bound", [bound.fileno()], {})] * 3)
        reactor.bind_datagram("127.0.0.1:0", DatagramRecorder, reuse_port=True)
        reactor.bind_datagram("127.0.0.1:0", DatagramRecorder)
        with pytest.raises(TypeError):
            reactor.bind_datagram("127.0.0.1:0", Protocol)
        thread.join()
        asked = [(message.fields["key"], message.fields["spread"]) for message in asked]
        assert asked == [(["udp:127.0.0.1:0", number], number == 0) for number in range(3)]
        assert len(reactor.endpoints()) == 2


@pytest.mark.parametrize("replaced", [False, True])
def test_drain_leaves_datagrams_to_the_worker_that_replaces_this_one(ends, replaced):
    theirs, ours = ends
    with socket.socket(type=socket.SOCK_DGRAM) as bound, WorkerReactor(ours) as reactor:
        bound.bind(("127.0.0.1", 0))
        _, thread = answer(theirs, ("bound", [bound.fileno()], {}))
        shared = reactor.bind_datagram("127.0.0.1:0", DatagramRecorder)
        thread.join()
        client = reactor.connect_datagram(bound.getsockname(), DatagramRecorder)
        busy = [shared, client]
        for endpoint in busy:
            endpoint.get_protocol().draining = partial(busy.__contains__, endpoint)
        if replaced:
            reactor.leave_datagrams()
        reactor.drain(DEADLINE)
        while not reactor.stats().draining:
            reactor.run_once(1)
        client.send(b"waits")
        while not replaced and not shared.stats().received:
            reactor.run_once(1)
        busy.remove(shared)
        while shared.state is not EndpointState.LOST:
            reactor.run_once(1)
        bound.sendto(b"an answer", client.get_extra_info("sockname"))
        while not client.stats().received:  # its own socket
            reactor.run_once(1)
        busy.remove(client)
        while client.state is not EndpointState.LOST:
            reactor.run_once(1)
        assert shared.stats().received == (not replaced)
        if replaced:
            assert bound.recv(100) == b"waits"


def test_others_that_wait_for_the_same_socket_are_not_all_woken(ends):
    theirs, ours = ends
    with socket.create_server(("127.0.0.1", 0)) as bound, WorkerReactor(ours) as reactor:
        _, thread = answer(theirs, ("bound", [bound.fileno()], {}))
        listener = reactor.listen("127.0.0.1:0", Protocol)
        thread.join()
        registry = loop_of(reactor).registry
        (interest,) = {
            registry.interest(fd) for fd, owner in enumerate(registry.owners) if repr(owner) == repr(listener)
        }
        assert interest == EVENT_READ | EXCLUSIVE
        listener.pause()
        listener.resume()
        with socket.create_connection(bound.getsockname()):
            reactor.run_once(5)
            assert listener.connections == 1


def test_refusal_is_the_error_that_listen_raises(ends):
    theirs, ours = ends
    with WorkerReactor(ours) as reactor:
        _, thread = answer(theirs, ("bound", [], {"errno": 98, "error": "cannot listen on x: in use"}))
        with pytest.raises(ListenError, match="cannot listen on x: in use") as refused:
            reactor.listen("127.0.0.1:0", Protocol)
        thread.join()
        assert refused.value.errno == 98


def test_supervisor_that_has_gone_is_no_endless_wait(ends):
    theirs, ours = ends
    with WorkerReactor(ours) as reactor:
        theirs.close()
        with pytest.raises(SupervisorGone):
            reactor.listen("127.0.0.1:0", Protocol)
