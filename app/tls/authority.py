"""What the replicas share in their Secret, and what has to be made anew in it.

A CA certificate leaves ca.crt when it expired, when an administrator takes it out, or as the oldest of more than
MAX_CAS; for no other reason, because an API server or a replica that has not seen its successor may still depend on
it. So the CA changes without a gap: the new one is put in front of the old one, the serving certificate stays, and
when its own turn comes it is signed by the new CA, which everybody trusts by then. The same holds where the Secret
was emptied: a replica that remembers the serving certificate and its CAs puts them back beside the new CA. Only a
replica that remembers nothing, as all do after a restart, has nothing to put back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from app.tls.problems import problem_with, validity_problem
from app.tls.x509 import (
    CA_CERT,
    CA_KEY,
    CERT,
    CLOCK_SKEW,
    KEY,
    Authority,
    CertificateBundle,
    CertificateError,
    SigningKey,
    ca_certificates,
    new_ca,
    new_leaf,
    read_certificates,
    read_key,
    renew_at,
    same_key,
)

SETTLING: Final = timedelta(hours=1)
"""How long a new CA is in the bundle before a serving certificate that is still good is replaced by one of its own."""

MAX_CAS: Final = 16
"""Of more CA certificates than this the oldest go: a Secret that somebody keeps breaking must not grow for ever."""


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """The contents of the Secret, PEM under the four keys ca.crt, ca.key, tls.crt and tls.key; empty where absent."""

    ca_pem: bytes = b""
    ca_key_pem: bytes = field(default=b"", repr=False)
    cert_pem: bytes = b""
    key_pem: bytes = field(default=b"", repr=False)

    @classmethod
    def from_data(cls, data: Mapping[str, bytes]) -> Self:
        """Take the four keys out of a Secret's decoded data."""
        return cls(data.get(CA_CERT, b""), data.get(CA_KEY, b""), data.get(CERT, b""), data.get(KEY, b""))

    def as_data(self) -> dict[str, bytes]:
        """The Secret's data, not yet base64."""
        return {CA_CERT: self.ca_pem, CA_KEY: self.ca_key_pem, CERT: self.cert_pem, KEY: self.key_pem}

    @property
    def bundle(self) -> CertificateBundle:
        """What a server needs of it."""
        return CertificateBundle(self.cert_pem, self.key_pem, self.ca_pem)


@dataclass(frozen=True, slots=True)
class Ensured:
    """Material that is good, and why it isn't what was held; no reasons: it is."""

    material: KeyMaterial
    reasons: tuple[str, ...] = ()


def ensure(held: KeyMaterial, remembered: CertificateBundle, names: Sequence[str], now: datetime) -> Ensured:
    """Keep of `held` whatever is good at `now` and make the rest.

    `remembered` was in the Secret earlier. Its CA certificates are put back only where `held` has none that fits its
    CA key, so that an administrator can take a CA out; its serving certificate only where another one would be signed
    by a CA that nobody has seen yet, so that an administrator can have another one made by deleting tls.crt.
    """
    authority, cas, ca_reasons = _ensure_ca(held, remembered.ca_pem, now)
    bundle = CertificateBundle(held.cert_pem, held.key_pem, _pem(cas))
    leaf_reason = problem_with(bundle, names, now)
    if leaf_reason:
        bundle = _put_back(remembered, authority, cas, names, now) or new_leaf(authority, names, now)
    elif leaf_reason := _leaf_due(held.cert_pem, authority, now):
        bundle = new_leaf(authority, names, now)
    if not ca_reasons and not leaf_reason:
        return Ensured(held)
    material = KeyMaterial(_pem(cas), authority.key_pem, bundle.cert_pem, bundle.key_pem)
    return Ensured(material, tuple(filter(None, (*ca_reasons, leaf_reason))))


def _put_back(
    remembered: CertificateBundle,
    authority: Authority,
    cas: list[x509.Certificate],
    names: Sequence[str],
    now: datetime,
) -> CertificateBundle | None:
    if authority.certificate in ca_certificates(remembered.ca_pem):
        return None
    bundle = replace(remembered, ca_pem=_pem(cas))
    return None if problem_with(bundle, names, now) else bundle


def _ensure_ca(
    held: KeyMaterial, remembered: bytes, now: datetime
) -> tuple[Authority, list[x509.Certificate], list[str]]:
    """The CA to sign with, every CA to be trusted, and the reasons for changes."""
    cas = _unexpired(ca_certificates(held.ca_pem), now)
    try:
        key = _signing_key(held.ca_key_pem)
    except CertificateError as error:
        return _with_new_ca(_merged(cas, remembered, now), str(error), now)
    issuer = _issuer(cas, key)
    if issuer is None:
        cas = _merged(cas, remembered, now)
        issuer = _issuer(cas, key)
    if issuer is None:
        return _with_new_ca(cas, f"{CA_CERT} holds no valid certificate for {CA_KEY}", now)
    if reason := validity_problem(issuer, CA_CERT, now) or _due(issuer, CA_CERT, now):
        return _with_new_ca(cas, reason, now)
    changed = [] if _pem(cas) == held.ca_pem else [f"{CA_CERT} is not just the valid CA certificates, newest first"]
    return Authority(issuer, key), cas, changed


def _with_new_ca(
    cas: list[x509.Certificate], reason: str, now: datetime
) -> tuple[Authority, list[x509.Certificate], list[str]]:
    authority = new_ca(now)
    return authority, _unexpired([authority.certificate, *cas], now), [reason]


def _signing_key(pem: bytes) -> SigningKey:
    key = read_key(pem, CA_KEY)
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise CertificateError(f"{CA_KEY} is neither an ECDSA nor an RSA key")
    return key


def _issuer(cas: Iterable[x509.Certificate], key: SigningKey) -> x509.Certificate | None:
    return next((ca for ca in cas if same_key(ca, key)), None)


def _unexpired(cas: Iterable[x509.Certificate], now: datetime) -> list[x509.Certificate]:
    """Newest first; one that is not valid yet stays, for a clock may be wrong."""
    return sorted(
        (ca for ca in cas if now < ca.not_valid_after_utc), key=lambda ca: ca.not_valid_before_utc, reverse=True
    )[:MAX_CAS]


def _merged(cas: list[x509.Certificate], remembered: bytes, now: datetime) -> list[x509.Certificate]:
    return _unexpired([*cas, *(ca for ca in ca_certificates(remembered) if ca not in cas)], now)


def _due(certificate: x509.Certificate, label: str, now: datetime) -> str | None:
    moment = renew_at(certificate)
    return f"{label} was due for renewal at {moment:%Y-%m-%dT%H:%M:%SZ}" if now >= moment else None


def _leaf_due(pem: bytes, authority: Authority, now: datetime) -> str | None:
    made = authority.certificate.not_valid_before_utc + CLOCK_SKEW
    return _due(read_certificates(pem)[0], CERT, now) if now >= made + SETTLING else None


def _pem(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
