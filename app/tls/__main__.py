"""`python -m app.tls DIR`: a CA and a serving certificate for where the webhook does not make its own."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.tls.serving import utc_now
from app.tls.x509 import CA_CERT, CERT, KEY, CertificateError, new_ca, new_leaf

DEFAULT_NAMES = (
    "vm-consistency.vm-consistency.svc",
    "vm-consistency.vm-consistency",
    "vm-consistency.vm-consistency.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "::1",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write ca.crt, tls.crt and tls.key; exit code 0, or 2 for a name or a directory that can't be used."""
    parser = argparse.ArgumentParser(
        prog="python -m app.tls",
        description="Make a CA and a serving certificate that it signed. The CA's key is thrown away.",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to write ca.crt, tls.crt and tls.key")
    parser.add_argument(
        "--name",
        action="append",
        dest="names",
        help=f"DNS name or IP address of the server, repeatable (default: {', '.join(DEFAULT_NAMES)})",
    )
    given = parser.parse_args(arguments)
    try:
        write(given.directory, given.names or DEFAULT_NAMES)
    except (CertificateError, OSError) as error:
        parser.error(str(error))
    print(f"{CA_CERT}, {CERT} and {KEY} written to {given.directory}")
    return 0


def write(directory: Path, names: Sequence[str]) -> None:
    """Write the three files, the key for its owner alone; raises CertificateError or OSError."""
    now = utc_now()
    bundle = new_leaf(new_ca(now), names, now)
    directory.mkdir(parents=True, exist_ok=True)
    for name, pem in ((KEY, bundle.key_pem), (CERT, bundle.cert_pem), (CA_CERT, bundle.ca_pem)):
        _write_atomically(directory / name, pem, mode=0o600 if name == KEY else 0o644)


def _write_atomically(path: Path, content: bytes, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # readable by its owner alone
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    raise SystemExit(main())
