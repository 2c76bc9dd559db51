"""Clients of a status page."""

import http.client
import json
import socket
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families

from tests.helpers import DEADLINE


class UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.host)


def connection_to(address):
    text = str(address)
    if text.startswith("unix:"):
        return UnixConnection(text.removeprefix("unix:"), timeout=DEADLINE)
    return http.client.HTTPConnection(text, timeout=DEADLINE)


def get(address, path="/", method="GET", **headers):
    """Return the status, the fields and the body of an answer."""
    connection = connection_to(address)
    fields = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    try:
        connection.request(method, path, headers=fields)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def samples(text):
    """Return the figures by name and the values of their labels, in the order of the labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def metrics(address):
    status, _, text = get(address, "/metrics")
    assert status == 200
    return samples(text)


@contextmanager
def page_of(address):
    """Open a page's stream of figures; yield a function that returns the sections of the next event."""
    connection, answer = connection_to(address), None
    try:
        connection.request("GET", "/events", headers={"Host": "localhost"})
        answer = connection.getresponse()
        assert answer.headers["Content-Type"] == "text/event-stream"

        def next_event():
            while not (line := answer.readline()).startswith(b"data: "):
                assert line, "the stream has ended"
            return json.loads(line.removeprefix(b"data: "))

        yield next_event
    finally:
        if answer is not None:
            answer.close()
        connection.close()
