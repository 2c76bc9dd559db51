"""TLS contexts with safe settings for servers and clients (RFC 9325)."""

from reactor.tls.contexts import check_alpn, client_context, server_context

__all__ = ["check_alpn", "client_context", "server_context"]
