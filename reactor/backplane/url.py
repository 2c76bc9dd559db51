"""`BrokerURL`: where a broker is, and how to sign in."""

from __future__ import annotations

from functools import partial
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from reactor.address import Address
from reactor.errors import AddressError

__all__ = ["BrokerURL"]

_FORMS = "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// over TLS, or unix:///PATH[?db=DATABASE]"

_unquote = partial(unquote, errors="strict")


@attrs.frozen
class BrokerURL:
    """A broker's address, credentials and database, from a URL of redis-py's forms.

    address: as `Reactor.connect` takes it. secure: over TLS. database: its number.

    >>> BrokerURL.parse("redis://:secret@broker.example/2")
    <broker.example:6379/2>
    >>> BrokerURL.parse("unix:///run/redis.sock").address
    'unix:/run/redis.sock'
    """

    address: str | tuple[str, int]
    username: str | None
    password: str | None
    database: int
    secure: bool

    def __repr__(self) -> str:
        return f"<{Address.of(self.address)}/{self.database}>"  # without the password: it is for the log

    @classmethod
    def parse(cls, url: str) -> BrokerURL:
        """Return the broker of `url`. Raises AddressError if it is of no form that is known."""
        try:
            return cls._parse(url)
        except AddressError:
            raise  # it names the host or path
        except ValueError:  # its text may have a part of the password
            raise AddressError(
                f"the broker's URL is invalid: give {_FORMS},"
                " and of the password / ? # @ and % as %2F %3F %23 %40 %25"
            ) from None

    @classmethod
    def _parse(cls, url: str) -> BrokerURL:
        """Return the broker of `url`. Raises ValueError if it is of no form that is known."""
        parts = urlsplit(url)
        port = parts.port
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
        host = _unquote(parts.hostname or "")
        if parts.scheme in {"unix", "redis+unix"}:
            address: str | tuple[str, int] = f"unix:{_unquote(parts.path)}"
            valid = bool(parts.path.strip("/")) and not host
            named = ""
        else:
            address = (host or "localhost", 6379 if port is None else port)
            valid = parts.scheme in {"redis", "rediss"} and port != 0
            named = parts.path.strip("/")
        database = int(query.pop("db", [named or "0"])[0])
        username, password = (each and _unquote(each) for each in (parts.username, parts.password))
        if not valid or query or parts.fragment or database < 0 or (username and password is None):
            raise ValueError
        Address.of(address)
        f"{username}{password}".encode()  # what a command line has that is no UTF-8 can't be sent
        if not username:  # AUTH with an empty password is for a user that needs none
            username, password = None, password or None
        return cls(address, username, password, database, parts.scheme == "rediss")
