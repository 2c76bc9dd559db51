"""Modules of the standard library with the reactor under them."""
