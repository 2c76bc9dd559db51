"""The benchmarks, one to a module, which is all there is to adding one.

A module's docstring begins with its name and what is measured, in one line. `add_options(parser)` adds the
options of its own; `run(options, result, progress)` measures, and records the figures in the `Result`.
"""
