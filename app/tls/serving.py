"""The TLS context of a running server, whose certificate can be replaced between two handshakes."""

import hashlib
import os
import ssl
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from app.tls.problems import problem_with
from app.tls.x509 import CertificateBundle, CertificateError, general_name, read_certificates


def utc_now() -> datetime:
    """The wall clock."""
    return datetime.now(UTC)


class ServingContext:
    """Serves one certificate at a time.

    A server is given one context for its life, and OpenSSL asks it at each handshake, with or without a server name
    (a client that connects to an IP address sends none), which context to go on with. A live context is never changed:
    loading a pair that doesn't match leaves it broken, and loading an ECDSA key beside an RSA key serves either
    (measured, Python 3.11, OpenSSL 3.0). Connections that exist go on with the certificate they began with.
    """

    def __init__(self, names: Sequence[str] = (), clock: Callable[[], datetime] = utc_now) -> None:
        """`names` have to be covered by whatever is served; raises CertificateError for one that can't be."""
        for name in names:
            general_name(name)
        self.names = tuple(names)
        self._clock = clock
        self._bundle: CertificateBundle | None = None
        self._context: ssl.SSLContext | None = None
        self._front = _new_context()
        self._front.sni_callback = self._choose

    @property
    def bundle(self) -> CertificateBundle | None:
        """What is served; None before the first certificate, when every handshake is refused."""
        return self._bundle

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of the certificate served, as 64 hexadecimal digits; None before the first one."""
        return fingerprint(self._bundle) if self._bundle else None

    def replace(self, bundle: CertificateBundle) -> None:
        """Serve `bundle` from the next handshake on.

        Raises CertificateError where it is not good; what was served before stays.
        """
        if problem := problem_with(bundle, self.names, self._clock()):
            raise CertificateError(problem)
        context = _new_context()
        try:
            with _as_file(bundle.key_pem.rstrip() + b"\n" + bundle.cert_pem) as path:
                context.load_cert_chain(path)
        except OSError as error:  # ssl.SSLError is one
            raise CertificateError(f"OpenSSL can't load the certificate or its key: {error}") from error
        self._context, self._bundle = context, bundle

    def problem(self, ca_pem: bytes | None = None) -> str | None:
        """Why a client would refuse what is served right now; None if it wouldn't.

        The client trusts `ca_pem`, or else the CA that came with the certificate.
        """
        if self._bundle is None:
            return "there is no serving certificate yet"
        bundle = self._bundle if ca_pem is None else replace(self._bundle, ca_pem=ca_pem)
        return problem_with(bundle, self.names, self._clock())

    def ssl_context_factory(self, config: object, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """The context for a server to listen with, in the shape of uvicorn's setting `ssl_context_factory`."""
        return self._front

    def _choose(self, connection: Any, server_name: str | None, front: ssl.SSLContext) -> int | None:
        if self._context is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._context
        return None


def fingerprint(bundle: CertificateBundle) -> str:
    """SHA-256 of the bundle's serving certificate, as 64 hexadecimal digits."""
    return hashlib.sha256(read_certificates(bundle.cert_pem)[0].public_bytes(Encoding.DER)).hexdigest()


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A resumed session skips the certificate, and would outlive the one that it began with.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context


@contextmanager
def _as_file(pem: bytes) -> Iterator[str]:
    """Give `pem` a path, which is all that Python's ssl can load from, without writing the key to a disk."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("tls"), "wb") as memory:
            memory.write(pem)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
    else:  # not Linux: a developer's machine
        with tempfile.NamedTemporaryFile() as private:
            private.write(pem)
            private.flush()
            yield private.name
