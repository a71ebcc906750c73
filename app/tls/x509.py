"""Making and reading the webhook's certificates.

Nothing here reads a clock, a file or a network; random numbers go into keys and serial numbers alone.

Lifetimes: the webhook fails open, so an expired certificate means virtual machines that silently go without the
product. A short life would buy nothing against that: whoever can read the serving key in the Secret can read the CA's
key beside it. Hence a leaf of one year, renewed at two thirds of it: four months for somebody to notice that renewing
does not work. The CA is trusted for one webhook only and lives for ten years.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_CERT: Final = "ca.crt"
CA_KEY: Final = "ca.key"
CERT: Final = "tls.crt"
KEY: Final = "tls.key"

CA_LIFETIME: Final = timedelta(days=3650)
LEAF_LIFETIME: Final = timedelta(days=365)
CLOCK_SKEW: Final = timedelta(hours=1)
"""Certificates are valid from this long before they are made: API servers have clocks of their own."""

_PEM_CERTIFICATE: Final = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_DNS_NAME: Final = re.compile(r"(\*\.)?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\.)*[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion, x509.DuplicateExtension)
"""What `cryptography` raises for bytes that it cannot decode; extensions are decoded only when asked for."""


SigningKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class CertificateError(ValueError):
    """A certificate, key or name that can't be used; the message says which and why, in one line."""


@dataclass(frozen=True, slots=True)
class CertificateBundle:
    """What a server needs, as PEM: its certificate with intermediates, its key, and whom clients have to trust."""

    cert_pem: bytes
    key_pem: bytes = field(repr=False)
    ca_pem: bytes = b""
    """CA certificates, newest first; empty where the CA is not known, which leaves the chain unchecked."""


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA that can sign."""

    certificate: x509.Certificate
    key: SigningKey = field(repr=False)

    @property
    def cert_pem(self) -> bytes:
        """The CA certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The CA's private key, PKCS#8 PEM."""
        return key_pem(self.key)


def new_ca(now: datetime, lifetime: timedelta = CA_LIFETIME) -> Authority:
    """Make an ECDSA P-256 CA; its name carries the time, so that several in one bundle can be told apart."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"vm-consistency CA {now:%Y%m%dT%H%M%SZ}")
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    certificate = (
        _builder(name, name, key.public_key(), now, now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def new_leaf(
    ca: Authority, names: Iterable[str], now: datetime, lifetime: timedelta = LEAF_LIFETIME
) -> CertificateBundle:
    """Make an ECDSA P-256 serving certificate for `names` (DNS names and IP addresses); it never outlives its CA.

    Raises CertificateError for a name that is neither.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = ca.certificate
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    expires = min(now + lifetime, issuer.not_valid_after_utc)
    certificate = (
        _builder(_name("vm-consistency"), issuer.subject, key.public_key(), now, expires)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False)
        .sign(ca.key, hashes.SHA256())
    )
    return CertificateBundle(certificate.public_bytes(serialization.Encoding.PEM), key_pem(key), ca.cert_pem)


def general_name(name: str) -> x509.IPAddress | x509.DNSName:
    """Read a DNS name or an IP address; raises CertificateError for anything else."""
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        pass
    lower = name.lower()
    if len(lower) > 253 or not _DNS_NAME.fullmatch(lower):
        raise CertificateError(f"{name!r} is neither a DNS name nor an IP address")
    return x509.DNSName(lower)


def key_pem(key: PrivateKeyTypes) -> bytes:
    """A private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_certificates(pem: bytes, label: str = CERT) -> list[x509.Certificate]:
    """Read one or more certificates; raises CertificateError that calls them `label`."""
    if not pem.strip():
        raise CertificateError(f"{label} is empty")
    try:
        return x509.load_pem_x509_certificates(pem)
    except UNREADABLE as error:
        raise CertificateError(f"{label} holds no readable PEM certificate") from error


def read_key(pem: bytes, label: str = KEY) -> PrivateKeyTypes:
    """Read an unencrypted private key; raises CertificateError that calls it `label`."""
    if not pem.strip():
        raise CertificateError(f"{label} is empty")
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except UNREADABLE as error:
        raise CertificateError(f"{label} holds no readable, unencrypted PEM private key") from error


def ca_certificates(pem: bytes) -> list[x509.Certificate]:
    """The self-signed CA certificates among `pem`, in their order, once each; anything else there is passed over."""
    found: list[x509.Certificate] = []
    for block in _PEM_CERTIFICATE.findall(pem):
        try:
            certificate = x509.load_pem_x509_certificate(block)
            if _is_root(certificate) and certificate not in found:
                found.append(certificate)
        except UNREADABLE:
            continue
    return found


def same_key(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Whether `certificate` was made for `key`."""
    return certificate.public_key() == key.public_key()


def renew_at(certificate: x509.Certificate) -> datetime:
    """The moment when two thirds of the certificate's life are over."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin + (end - begin) * 2 / 3


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, expires: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(expires)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _is_root(certificate: x509.Certificate) -> bool:
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        certificate.verify_directly_issued_by(certificate)  # also finds what was damaged
    except (x509.ExtensionNotFound, InvalidSignature):
        return False
    return constraints.ca
