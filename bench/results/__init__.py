"""What benchmarks have measured: the schema, its tables and plots, and comparisons of two runs."""
