"""The benchmarks' tools: servers and loads as processes, clients, comparisons and reports."""

__all__ = ["missing"]


def missing(exc: ImportError) -> str:
    """Return the error line for a missing package of the `bench` extra, with the command that installs it.

    The benchmarks are in the checkout and the source archive, not in the wheel: the command is for those.
    """
    package = (exc.name or str(exc)).partition(".")[0]
    return f"{package} is missing: run pip install -e '.[bench]' in the directory that holds bench/"
