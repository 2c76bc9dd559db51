"""The examples of the README with other programs: the DNS forwarder between dnslib's client and resolver."""

import re
from pathlib import Path

import pytest
from dnslib import QTYPE, RR, A, DNSRecord

import reactor.datagrams
from reactor.datagrams import DatagramLimits, DatagramProtocol
from reactor.testing import DatagramRecorder, MemoryNetwork

README = Path(reactor.datagrams.__file__).with_name("README.md")


@pytest.fixture(scope="module")
def forwarder():
    """The names of the example, without the lines that run it."""
    (program,) = re.findall(
        r"^```python\n(import random.*?)^with Reactor", README.read_text(), re.MULTILINE | re.DOTALL
    )
    names = {}
    exec(compile(program, str(README), "exec"), names)
    return names


class Resolver(DatagramProtocol):
    """Answers with an address that tells the name's length, but for names that it is silent about."""

    def connection_made(self, endpoint):
        self.endpoint = endpoint
        self.ids = []

    def datagram_received(self, data, address, info=None):
        question = DNSRecord.parse(data)
        self.ids.append(question.header.id)
        name = str(question.q.qname)
        if name != "silent.example.":
            answer = question.reply()
            answer.add_answer(RR(name, QTYPE.A, rdata=A(f"192.0.2.{len(name)}"), ttl=60))
            self.endpoint.send(answer.pack(), address)


@pytest.fixture
def served(forwarder):
    """The network, a client, the resolver's protocol, and the forwarder's upstream side."""
    with MemoryNetwork(latency=(0.01, 0.02)) as network:
        resolver = network.reactor("10.0.0.9").bind_datagram(":53", Resolver).get_protocol()
        middle = network.reactor("10.0.0.3", "10.0.0.1")
        upstream = middle.connect_datagram("10.0.0.9:53", forwarder["Upstream"]).get_protocol()
        limits = DatagramLimits(prefix_datagrams=10)
        middle.bind_datagram(":53", lambda: forwarder["Forwarder"](upstream), limits=limits, info=True)
        client = network.reactor("10.0.0.2").connect_datagram("10.0.0.1:53", DatagramRecorder).get_protocol()
        yield network, client, resolver, upstream


def test_answers_find_their_questions(served):
    network, client, resolver, upstream = served
    questions = [DNSRecord.question(name) for name in ("a.example", "bb.example", "ccc.example")]
    for question in questions:
        client.endpoint.send(question.pack())
    network.run_out()
    answers = {answer.header.id: str(answer.a.rdata) for answer in map(DNSRecord.parse, client.received)}
    assert answers == {question.header.id: f"192.0.2.{len(str(question.q.qname))}" for question in questions}
    assert len(set(resolver.ids)) == 3
    assert upstream.asked == {}


def test_question_without_an_answer_is_forgotten(served):
    network, client, _, upstream = served
    client.endpoint.send(DNSRecord.question("silent.example").pack())
    client.endpoint.send(b"no DNS")
    network.advance(1)
    assert len(upstream.asked) == 1
    network.run_out()
    assert (upstream.asked, client.received) == ({}, [])


def test_one_client_can_t_make_it_flood_another(served):
    network, client, resolver, _ = served
    for number in range(50):
        client.endpoint.send(DNSRecord.question(f"{number}.example").pack())
    network.advance(0.5)
    assert len(resolver.ids) == len(client.received) == 10
