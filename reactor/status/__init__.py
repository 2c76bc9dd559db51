"""Metrics for Prometheus, and a page to look at: of one process, or of all workers of a supervisor.

`StatusPage` needs the extra `status`; what workers need, `add_check` included, does not.
"""

from reactor.status.checks import add_check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from reactor.status.server import StatusPage

__all__ = ["StatusPage", "add_check"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import the server, with h11 and prometheus_client, at its first use: workers need neither."""
        if name != "StatusPage":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from reactor.status.server import StatusPage  # noqa: PLC0415 - see above

        globals()[name] = StatusPage
        return StatusPage
