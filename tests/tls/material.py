"""Certificates that tests are made of, the odd ones included."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from app.tls.x509 import Authority, CertificateBundle, key_pem, new_ca, new_leaf

NAMES = ("vm-consistency.vm-consistency.svc", "127.0.0.1")
NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@cache
def ca(label: str = "ca", now: datetime = NOW) -> Authority:
    """A CA; the same one for the same arguments."""
    return new_ca(now)


def leaf(authority: Authority | None = None, names: Sequence[str] = NAMES, now: datetime = NOW) -> CertificateBundle:
    return new_leaf(authority or ca(), names, now)


def current_bundle(authority: Authority | None = None, names: Sequence[str] = NAMES) -> CertificateBundle:
    """A bundle that is good by the machine's own clock, which OpenSSL goes by."""
    now = datetime.now(UTC)
    return new_leaf(authority or new_ca(now), names, now)


def self_made(
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    *,
    issuer: Authority | None = None,
    now: datetime = NOW,
    lifetime: timedelta = 30 * DAY,
) -> CertificateBundle:
    """A certificate as an administrator's own tools make it: self-signed, or signed by `issuer`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "self-made")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + lifetime)
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    pem = builder.sign(issuer.key if issuer else key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return CertificateBundle(pem, key_pem(key), issuer.cert_pem if issuer else pem)


def san(*names: str) -> tuple[x509.ExtensionType, bool]:
    return x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False
