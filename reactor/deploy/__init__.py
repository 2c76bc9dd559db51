"""Running for real: restarts that no client notices."""

from reactor.deploy.handover import HandOver, TakeOver, Transfer, hand_over, take_over

__all__ = ["HandOver", "TakeOver", "Transfer", "hand_over", "take_over"]
