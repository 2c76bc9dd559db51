"""The error for a host whose package is not installed."""

from __future__ import annotations

__all__ = ["missing_host"]


def missing_host(extra: str, package: str) -> ImportError:
    """Return the error of `reactor.embed.EXTRA`: `package` is missing, and how to install it.

    extra: the name of the module, and of the extra with its package.
    """
    return ImportError(
        f"reactor.embed.{extra} needs {package}: pip install 'selectors-reactor[{extra}]', "
        f"or in a checkout pip install -e '.[{extra}]'"
    )
