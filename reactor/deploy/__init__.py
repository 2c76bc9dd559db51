"""Running for real: workers on all cores, and restarts that no client notices.

`Supervisor` starts worker processes, each with a reactor, keeps their listening sockets, and replaces them,
or itself, while they serve. `python -m reactor serve APP --workers N` is the same for the command line.
"""

from reactor.deploy.handing_over import HandOver, hand_over
from reactor.deploy.handover import Transfer
from reactor.deploy.supervisor import Supervisor
from reactor.deploy.taking_over import TakeOver, take_over

__all__ = ["HandOver", "Supervisor", "TakeOver", "Transfer", "hand_over", "take_over"]
