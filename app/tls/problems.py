"""Why a certificate is not good: in the words of whoever can replace it, and as of a moment that comes in."""

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from app.tls.x509 import (
    CA_CERT,
    CERT,
    KEY,
    UNREADABLE,
    CertificateBundle,
    CertificateError,
    general_name,
    read_certificates,
    read_key,
    same_key,
)


def validity_problem(certificate: x509.Certificate, label: str, now: datetime) -> str | None:
    """Why `certificate` is not valid at `now`; None if it is."""
    if now < certificate.not_valid_before_utc:
        return f"{label} is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
    if now >= certificate.not_valid_after_utc:
        return f"{label} expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
    return None


def problem_with(bundle: CertificateBundle, names: Sequence[str], now: datetime) -> str | None:
    """Why a client that trusts the bundle's CA would refuse it at `now` under one of `names`; None if it is good."""
    try:
        leaf, *intermediates = read_certificates(bundle.cert_pem)
        if not same_key(leaf, read_key(bundle.key_pem)):
            return f"{KEY} does not belong to {CERT}"
        return (
            validity_problem(leaf, CERT, now)
            or _purpose_problem(leaf)
            or _names_problem(leaf, names)
            or (_chain_problem(leaf, intermediates, bundle.ca_pem, now) if bundle.ca_pem else None)
        )
    except CertificateError as error:
        return str(error)
    except UNREADABLE as error:  # extensions are only decoded when they are asked for
        return f"{CERT} can't be decoded: {error}"


def _purpose_problem(leaf: x509.Certificate) -> str | None:
    try:
        usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    allowed = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    return None if any(usage in allowed for usage in usages) else f"{CERT} is not made for a server (serverAuth)"


def _names_problem(leaf: x509.Certificate, names: Sequence[str]) -> str | None:
    if not names:
        return None
    try:
        present = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return f"{CERT} has no subjectAltName"
    missing = [name for name in names if not _covers(present, general_name(name))]
    return f"{CERT} is not made for {', '.join(missing)}" if missing else None


def _covers(present: x509.SubjectAlternativeName, wanted: x509.IPAddress | x509.DNSName) -> bool:
    if isinstance(wanted, x509.IPAddress):
        return wanted.value in present.get_values_for_type(x509.IPAddress)
    wildcard = "*." + wanted.value.partition(".")[2]  # a wildcard stands for exactly one label (RFC 6125, 6.4.3)
    return any(name.lower() in (wanted.value, wildcard) for name in present.get_values_for_type(x509.DNSName))


def _chain_problem(
    leaf: x509.Certificate, intermediates: list[x509.Certificate], ca_pem: bytes, now: datetime
) -> str | None:
    roots = read_certificates(ca_pem, CA_CERT)
    lenient = ExtensionPolicy.permit_all()  # the Web PKI's further demands are not those of a cluster's own CA
    ca_policy = lenient.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    policy = PolicyBuilder().store(Store(roots)).time(now)
    verifier = policy.extension_policies(ca_policy=ca_policy, ee_policy=lenient).build_client_verifier()
    try:
        verifier.verify(leaf, intermediates)
    except VerificationError as error:
        return f"{CERT} does not lead to a valid CA in {CA_CERT}: {error}"
    return None
