"""Channels: messages keep their boundaries and their descriptors, and the end of a process is one of file."""

import os

import pytest

from reactor.deploy.channel import Channel, Message


def test_messages_come_one_by_one_and_none_is_waited_for(ends):
    one, other = ends
    assert other.receive() is None
    assert one.send("bind", key=["127.0.0.1:0", 1])
    assert one.send("ready")
    assert other.receive() == Message("bind", {"key": ["127.0.0.1:0", 1]}, [])
    assert other.receive(wait=True) == Message("ready", {}, [])
    assert other.receive() is None


def test_descriptors_are_of_the_same_file_and_not_inherited(ends):
    one, other = ends
    reading, writing = os.pipe()
    assert one.send("bound", [writing, reading])
    os.close(writing)
    os.close(reading)
    their_writing, their_reading = other.receive().descriptors
    os.write(their_writing, b"x")
    assert os.read(their_reading, 10) == b"x"
    assert not os.get_inheritable(their_writing)
    os.close(their_writing)
    os.close(their_reading)


def test_what_was_sent_before_the_end_is_received(ends):
    one, other = ends
    one.send("ready")
    one.close()
    assert other.receive().kind == "ready"
    with pytest.raises(EOFError):
        other.receive()
    assert not other.send("drain")


def test_process_that_reads_nothing_blocks_nobody(ends):
    one, _ = ends
    assert any(not one.send("drain") for _ in range(100_000))


def test_adopted_end_is_not_inherited(ends):
    one, other = ends
    fd = os.dup(one.fileno())
    os.set_inheritable(fd, True)
    adopted = Channel.adopt(fd)
    assert not os.get_inheritable(fd)
    adopted.send("go")
    assert other.receive().kind == "go"
    adopted.close()
