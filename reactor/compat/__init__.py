"""Modules of the standard library, on the reactor."""
