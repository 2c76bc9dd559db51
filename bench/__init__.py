"""Benchmarks beside asyncio, uvloop and a bare `selectors` loop. `python -m bench` lists them."""

__all__ = ["missing"]


def missing(exc: ImportError) -> str:
    """Return the line that says what is not installed, and how to get it."""
    return f"{exc.name} is missing: pip install 'selectors-reactor[bench]'"
