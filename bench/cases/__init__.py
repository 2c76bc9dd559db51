"""The benchmarks: `python -m bench NAME` runs the module of that name.

Each has `add_options(parser)`, which adds its options to an `argparse` parser, and
`run(options, report, progress)`, which measures and adds its tables to the report.
"""
