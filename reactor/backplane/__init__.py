"""Messages between reactors, processes and machines: topics, and presence.

`LocalBackplane` is in memory, for one process and for tests; `RedisBackplane` goes over Redis or Valkey, and
needs the extra `redis`. Both are a `Backplane`, and behave alike.
"""

from reactor.backplane.interface import (
    Backplane,
    BackplaneState,
    BackplaneStats,
    Membership,
    Subscription,
)
from reactor.backplane.local import LocalBackplane

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reactor.backplane.redis import RedisBackplane

__all__ = [
    "Backplane",
    "BackplaneState",
    "BackplaneStats",
    "LocalBackplane",
    "Membership",
    "RedisBackplane",
    "Subscription",
]

if not TYPE_CHECKING:  # for a type checker, every name would be in a module that has `__getattr__`

    def __getattr__(name: str) -> object:
        """Import `RedisBackplane`, and with it hiredis, when it is first used (PEP 562)."""
        if name != "RedisBackplane":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from reactor.backplane.redis import RedisBackplane  # noqa: PLC0415 - not needed without a first use

        globals()[name] = RedisBackplane
        return RedisBackplane
