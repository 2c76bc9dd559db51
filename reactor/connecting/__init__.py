"""Outgoing connections: name resolution, happy eyeballs (RFC 8305), and reconnecting."""
