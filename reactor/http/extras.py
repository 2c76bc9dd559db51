"""The error for a package of an extra that is not installed."""

from __future__ import annotations

__all__ = ["missing_package"]


def missing_package(module: str, package: str, extra: str) -> ImportError:
    """Return the error of `module`: `package` is missing, and the extra that installs it."""
    return ImportError(
        f"{module} needs {package}: pip install 'selectors-reactor[{extra}]', "
        f"or in a checkout pip install -e '.[{extra}]'",
        name=package,
    )
