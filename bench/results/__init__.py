"""What benchmarks have measured: the schema, its tables and plots, and comparisons of two runs."""

__all__ = ["MARKS"]

#: The lines of a Markdown file between which `python -m bench report --into` puts the summary.
MARKS = ("<!-- bench report -->", "<!-- end of bench report -->")
