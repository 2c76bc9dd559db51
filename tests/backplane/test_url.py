"""URLs of brokers."""

import pytest

from reactor import AddressError
from reactor.backplane.url import BrokerURL


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", (("localhost", 6379), None, None, 0, False)),
        ("redis://host", (("host", 6379), None, None, 0, False)),
        ("redis://host:1/2", (("host", 1), None, None, 2, False)),
        ("redis://host?db=3", (("host", 6379), None, None, 3, False)),
        ("redis://[::1]:7", (("::1", 7), None, None, 0, False)),
        ("redis://:p%40ss@host", (("host", 6379), None, "p@ss", 0, False)),
        ("redis://[fe80::1%25lo]", (("fe80::1%lo", 6379), None, None, 0, False)),
        ("redis://user:@host", (("host", 6379), "user", "", 0, False)),
        ("redis://:@host", (("host", 6379), None, None, 0, False)),
        ("rediss://user:pass@host/1", (("host", 6379), "user", "pass", 1, True)),
        ("unix:///run/a%20b.sock", ("unix:/run/a b.sock", None, None, 0, False)),
        ("redis+unix://:pass@/run/r.sock?db=4", ("unix:/run/r.sock", None, "pass", 4, False)),
    ],
)
def test_every_form_is_understood(url, expected):
    found = BrokerURL.parse(url)
    assert (found.address, found.username, found.password, found.database, found.secure) == expected


@pytest.mark.parametrize(
    "url",
    ["", "host", "http://host", "redis://host/x", "redis://host/-1", "redis://host:port", "redis://host:99999",
     "redis://host?unknown=1", "redis://host?db", "redis://host#part", "unix://", "unix://host/path",
     "redis://[::1", "redis://host:0", "redis://user@host", "redis://:p%ff@host",
     "redis://:p\udcff@host"],
)  # fmt: skip
def test_invalid_urls_are_refused_with_the_forms_that_are_known(url):
    with pytest.raises(AddressError, match="redis://"):
        BrokerURL.parse(url)


@pytest.mark.parametrize("url", ["redis://a b", "redis://" + "a" * 300, "unix:///" + "a" * 200])
def test_addresses_that_can_t_be_connected_to_are_refused(url):
    with pytest.raises(AddressError, match="a"):
        BrokerURL.parse(url)


@pytest.mark.parametrize(
    "url",
    ["redis://user:secret@host/x", "redis://:secret/x@host", "redis://:secret#x@host", "redis://:secret?x@host",
     "redis://:x/secret@host", "redis://:[secret@host", "redis://secret@host"],
)  # fmt: skip
def test_invalid_urls_are_refused_without_the_password(url):
    with pytest.raises(AddressError, match="%2F") as caught:
        BrokerURL.parse(url)
    assert "secret" not in str(caught.value)


def test_password_is_not_shown():
    assert repr(BrokerURL.parse("redis://user:secret@host/1")) == "<host:6379/1>"
    assert repr(BrokerURL.parse("redis://:secret@[::1]")) == "<[::1]:6379/0>"
