"""Factories of TLS contexts with safe defaults, and with one-line errors for files that can't be used."""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable, Mapping, Sequence

from reactor.errors import TLSContextError

__all__ = ["check_alpn", "client_context", "server_context"]

_Path = str | os.PathLike[str]


def server_context(
    cert: _Path,
    key: _Path | None = None,
    *,
    password: str | Callable[[], str] | None = None,
    client_ca: _Path | None = None,
    alpn: Sequence[str] = (),
    names: Mapping[str, ssl.SSLContext] | None = None,
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
) -> ssl.SSLContext:
    """Return a server's TLS context, for `Reactor.listen` and `Connection.start_tls`.

    cert: path of the certificate chain, PEM. key: path of its private key, PEM; None if it is in the same
        file. password: of the key, or a function that returns it.
    client_ca: path of the CA certificates one of which must have signed the client's certificate; None to
        request no certificate. alpn: the application protocols, preferred one first (RFC 7301).
    names: contexts by host name, for clients that ask for one of them (SNI, RFC 6066, 3). If there are any,
        CPython writes a traceback to standard error for each client that asks for a name that is not ASCII.
    min_version: the lowest version of TLS.
    Raises TLSContextError, in one line: for a file that can't be used, which it names; for a name in `alpn`
    that does not have 1 to 255 ASCII characters; and for a context in `names` that differs from this one in
    whether it requires a client certificate, or in `min_version`: OpenSSL takes certificates, authorities
    and protocols from it, but not these two.

    >>> server_context("cert.pem", "key.pem", alpn=["h2", "http/1.1"]).minimum_version
    <TLSVersion.TLSv1_2: 771>
    >>> server_context("missing.pem")
    Traceback (most recent call last):
    reactor.errors.TLSContextError: cannot read missing.pem: No such file or directory
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = min_version
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    _load_key(context, cert, key, password)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, client_ca)
    if alpn:
        check_alpn(alpn)
        context.set_alpn_protocols(list(alpn))
    if not names:
        return context
    others = {name.lower(): other for name, other in names.items()}
    for name, other in others.items():
        if other.protocol is not ssl.PROTOCOL_TLS_SERVER or other.verify_mode is not context.verify_mode:
            raise TLSContextError(f"the context for {name} must ask for certificates as this one does")
        if other.minimum_version is not context.minimum_version:
            raise TLSContextError(f"the context for {name} must have the min_version of this one")

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        other = others.get((name or "").lower())
        if other is not None:
            connection.context = other

    context.sni_callback = choose
    return context


def client_context(
    ca: _Path | None = None,
    *,
    cert: _Path | None = None,
    key: _Path | None = None,
    password: str | Callable[[], str] | None = None,
    alpn: Sequence[str] = (),
    verify: bool = True,
    min_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
) -> ssl.SSLContext:
    """Return a client's TLS context, for `Reactor.connect` and `Connection.start_tls`.

    ca: path of the trusted CA certificates, PEM; None for the system's.
    cert, key, password: as for `server_context`, of the client's own certificate, if the server requires one.
    alpn: the application protocols to offer, preferred one first.
    verify: False accepts any certificate, so that anyone on the network path can read and change everything.
    min_version: the lowest version of TLS.
    Raises TLSContextError, in one line, for a file that can't be used, which it names, and for a name in
    `alpn` that does not have 1 to 255 ASCII characters.

    >>> client_context("ca.pem").check_hostname
    True
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = min_version
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is None:
        context.load_default_certs()
    else:
        _load_authorities(context, ca)
    if cert is not None:
        _load_key(context, cert, key, password)
    if alpn:
        check_alpn(alpn)
        context.set_alpn_protocols(list(alpn))
    return context


def check_alpn(names: Sequence[str]) -> None:
    """Check the names of application protocols, which have 1 to 255 bytes each (RFC 7301, 3.1).

    Raises TLSContextError for a name that can't be sent, TypeError for a str instead of a sequence.

    >>> check_alpn(["h2", "http/1.1"])
    """
    if isinstance(names, str):
        raise TypeError(f"alpn must be a sequence of names, as ({names!r},), not a str")
    for name in names:
        if not (name.isascii() and 1 <= len(name) <= 255):
            raise TLSContextError(f"the ALPN name {name!r} must have 1 to 255 ASCII characters")
    if sum(len(name) + 1 for name in names) > 65535:
        raise TLSContextError(f"{len(names)} ALPN names are too many: 65535 bytes hold all of them")


def _load_key(
    context: ssl.SSLContext, cert: _Path, key: _Path | None, password: str | Callable[[], str] | None
) -> None:
    asked = []

    def answer() -> str:
        asked.append(True)
        if password is None:
            return ""  # else OpenSSL would prompt on the terminal
        return password if isinstance(password, str) else password()

    for path in (cert, cert if key is None else key):
        _check_readable(path)
    try:
        context.load_cert_chain(cert, key, answer)
    except OSError as exc:  # an SSLError is one too
        where = f"{cert} and {key}" if key is not None else f"{cert}"
        if isinstance(exc, ssl.SSLError) and exc.reason == "KEY_VALUES_MISMATCH":
            message = f"the key of {key or cert} does not belong to the certificate of {cert}"
        elif asked:
            message = f"{key or cert} is encrypted, and " + (
                "no password was given" if password is None else "the password is wrong"
            )
        else:
            message = f"no certificate and private key in PEM could be read from {where}"
        raise TLSContextError(message) from exc


def _load_authorities(context: ssl.SSLContext, path: _Path) -> None:
    _check_readable(path)
    try:
        context.load_verify_locations(path)
    except OSError as exc:
        raise TLSContextError(f"no certificate in PEM could be read from {path}") from exc


def _check_readable(path: _Path) -> None:
    # Opened in non-blocking mode: on a FIFO, open would wait for a writer, and OpenSSL for its bytes.
    try:
        found = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except OSError as exc:
        raise TLSContextError(f"cannot read {path}: {exc.strerror}") from exc
    try:
        mode = os.fstat(found).st_mode
    finally:
        os.close(found)
    if not stat.S_ISREG(mode):
        raise TLSContextError(f"cannot read {path}: it is not a regular file")
