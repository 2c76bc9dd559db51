"""The standard `asyncore` and `asynchat`: of Python 3.11, or the packages that go on with them after it."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import asynchat
    import asyncore

__all__ = ["asynchat", "asyncore"]
