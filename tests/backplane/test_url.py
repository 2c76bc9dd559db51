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
     "redis://[::1"],
)  # fmt: skip
def test_invalid_urls_are_refused_with_the_forms_that_are_known(url):
    with pytest.raises(AddressError, match="redis://"):
        BrokerURL.parse(url)


def test_password_is_not_shown():
    assert repr(BrokerURL.parse("redis://user:secret@host/1")) == "<host:6379/1>"
    with pytest.raises(AddressError) as caught:
        BrokerURL.parse("redis://user:secret@host/x")
    assert "secret" not in str(caught.value)
