"""Certificates from files: of a developer's machine, or of a mounted Secret that something else keeps."""

import asyncio
import logging
from pathlib import Path

from app.tls.serving import ServingContext
from app.tls.x509 import CA_CERT, CERT, KEY, CertificateBundle, CertificateError

_log = logging.getLogger("vm-consistency.certificates")


class FileSource:
    """Serves tls.crt and tls.key of a directory, and what replaces them.

    The contents are compared, not the times: a Secret that the kubelet mounts changes through a symbolic link. Where
    ca.crt is there too, the certificate has to lead to it.
    """

    def __init__(self, serving: ServingContext, directory: Path, poll: float = 10.0) -> None:
        """`poll` is in seconds; it is also how soon a pair that was caught half written is read again."""
        self._serving, self._directory, self._poll = serving, directory, poll
        self.refused: str | None = None
        """Why what the files hold now is not served; None if it is."""

    def load(self) -> None:
        """Serve what the files hold now, if that is new; raises CertificateError where it can't be."""
        try:
            self._load()
            self.refused = None
        except CertificateError as error:
            self.refused = str(error)
            raise

    def _load(self) -> None:
        bundle = self._read()
        if bundle != self._serving.bundle:
            self._serving.replace(bundle)
            _log.info("serving certificate loaded", extra={"fingerprint": self._serving.fingerprint})

    async def run(self) -> None:
        """Look for a new certificate until cancelled; a bad one is logged and the one served stays."""
        while True:
            known = self.refused
            try:
                self.load()
            except CertificateError:
                if self.refused != known:
                    _log.warning("serving certificate not replaced", extra={"reason": self.refused})
            await asyncio.sleep(self._poll)

    def problem(self) -> str | None:
        """Why a client would refuse what is served, and what is wrong with the files; None where none would."""
        problem = self._serving.problem()
        return f"{problem}; {self._directory}: {self.refused}" if problem and self.refused else problem

    def _read(self) -> CertificateBundle:
        try:
            cert, key = ((self._directory / name).read_bytes() for name in (CERT, KEY))
            ca = self._directory / CA_CERT
            return CertificateBundle(cert, key, ca.read_bytes() if ca.exists() else b"")
        except OSError as error:
            raise CertificateError(f"{error.filename}: {error.strerror}") from error
