"""`BrokerURL`: where a broker is, and how to sign in."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit

import attrs

from reactor.errors import AddressError

__all__ = ["BrokerURL"]

_FORMS = "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// over TLS, or unix:///PATH[?db=DATABASE]"


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
        where = self.address if isinstance(self.address, str) else ":".join(map(str, self.address))
        return f"<{where}/{self.database}>"  # without the password: it is for the log

    @classmethod
    def parse(cls, url: str) -> BrokerURL:
        """Return the broker of `url`. Raises AddressError if it is of no form that is known."""
        try:
            parts = urlsplit(url)
            port = parts.port
            query = parse_qs(parts.query, strict_parsing=bool(parts.query))
            unix = parts.scheme in {"unix", "redis+unix"}
            if unix:
                address: str | tuple[str, int] = f"unix:{unquote(parts.path)}"
                valid = bool(parts.path.strip("/")) and not parts.hostname
                named = ""
            else:
                address = (parts.hostname or "localhost", 6379 if port is None else port)
                valid = parts.scheme in {"redis", "rediss"}
                named = parts.path.strip("/")
            database = int(query.pop("db", [named or "0"])[0])
        except ValueError as exc:
            raise AddressError(f"the broker's URL is invalid, {exc}: give {_FORMS}") from exc
        if not valid or query or parts.fragment or database < 0:
            raise AddressError(f"the broker's URL is invalid: give {_FORMS}")
        username, password = (each and unquote(each) for each in (parts.username, parts.password))
        return cls(address, username or None, password or None, database, parts.scheme == "rediss")
