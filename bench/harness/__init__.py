"""The benchmarks' tools: servers and loads as processes, clients, comparisons and reports."""

__all__ = ["missing"]


def missing(exc: ImportError) -> str:
    """Return the error line for a package of the `bench` extra that can't be imported, and the mend.

    The benchmarks are in the checkout and the source archive, not in the wheel, so the mend is for those.
    """
    package = (exc.name or str(exc)).partition(".")[0]
    return f"{package} is missing: run pip install -e '.[bench]' in the directory that holds bench/"
