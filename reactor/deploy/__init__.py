"""Running for real: workers on all cores, and restarts that no client notices.

`Supervisor` starts worker processes, each with a reactor, keeps their listening sockets, and replaces them,
or itself, while they serve. `python -m reactor serve APP --workers N` is the same for the command line.
"""

from reactor.deploy.handover import HandOver, TakeOver, Transfer, hand_over, take_over
from reactor.deploy.supervisor import Supervisor

__all__ = ["HandOver", "Supervisor", "TakeOver", "Transfer", "hand_over", "take_over"]
