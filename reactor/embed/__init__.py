"""The reactor inside the loop of another program: a module for each host, imported when it is used.

`reactor.embed.asyncio` (and so uvloop), `tkinter`, `qt`, `glib` and `twisted` have `attach(reactor, ...)`:
the host watches `reactor.fileno()`, and calls `run_once` when there is something to do. `reactor.embed.guest`
is for hosts that can only be handed a callback from another thread, `reactor.embed.trio` has `run(reactor)`.

There is none for gevent: it replaces `selectors` and `socket` for the whole process, and a callback of ours
would run in its hub, where nothing may wait.
"""

from reactor.embed.attachment import BUDGET, Attachment

__all__ = ["BUDGET", "Attachment"]
