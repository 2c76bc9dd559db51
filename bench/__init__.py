"""Benchmarks beside asyncio, uvloop and a bare `selectors` loop. `python -m bench` lists them."""
