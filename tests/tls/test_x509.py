"""Certificates as they are made, and how their parts are read."""

from contextlib import suppress
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st

from app.tls.x509 import (
    CA_LIFETIME,
    CLOCK_SKEW,
    LEAF_LIFETIME,
    CertificateBundle,
    CertificateError,
    ca_certificates,
    new_ca,
    new_leaf,
    read_certificates,
    read_key,
    renew_at,
    same_key,
)
from tests.tls.material import DAY, NAMES, NOW, ca, leaf, san, self_made


def certificate(bundle: CertificateBundle) -> x509.Certificate:
    return read_certificates(bundle.cert_pem)[0]


def extension(of: x509.Certificate, kind: type[x509.ExtensionType]) -> x509.Extension[x509.ExtensionType]:
    return of.extensions.get_extension_for_class(kind)


@pytest.mark.parametrize("name", [x509.DNSName(NAMES[0]), x509.IPAddress(ip_address(NAMES[1]))])
def test_leaf_passes_the_web_pki_rules_of_an_independent_verifier(name: x509.DNSName | x509.IPAddress) -> None:
    verifier = PolicyBuilder().store(Store([ca().certificate])).time(NOW).build_server_verifier(name)
    made = certificate(leaf())
    assert verifier.verify(made, []) == [made, ca().certificate]


def test_keys_are_ecdsa_p256() -> None:
    keys = [ca().certificate.public_key(), certificate(leaf()).public_key()]
    assert [key.curve.name for key in keys if isinstance(key, ec.EllipticCurvePublicKey)] == ["secp256r1"] * 2


def test_leaf_is_for_a_server_and_for_nothing_else() -> None:
    made = certificate(leaf())
    assert extension(made, x509.ExtendedKeyUsage).value == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert extension(made, x509.BasicConstraints) == x509.Extension(
        x509.BasicConstraints.oid, True, x509.BasicConstraints(ca=False, path_length=None)
    )


def test_leaf_names_its_issuer_by_key() -> None:
    by_leaf = extension(certificate(leaf()), x509.AuthorityKeyIdentifier).value
    of_ca = extension(ca().certificate, x509.SubjectKeyIdentifier).value
    assert isinstance(by_leaf, x509.AuthorityKeyIdentifier)
    assert isinstance(of_ca, x509.SubjectKeyIdentifier)
    assert by_leaf.key_identifier == of_ca.digest


def test_names_are_dns_names_and_addresses() -> None:
    names = extension(
        certificate(leaf(names=["A.Svc", "10.0.0.1", "::1", "*.x.svc"])), x509.SubjectAlternativeName
    ).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["a.svc", "*.x.svc"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]


@pytest.mark.parametrize(
    "name", ["", "a b", "bücher.example", "a..b", "-a", "a.", "https://a", "10.0.0.0/8", "a" * 64, "a." * 127 + "aa"]
)
def test_what_is_no_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(CertificateError, match="neither a DNS name nor an IP address") as refused:
        new_leaf(ca(), [name], NOW)
    assert repr(name) in str(refused.value)


def test_lifetimes_begin_before_now_because_clocks_differ() -> None:
    authority, made = ca().certificate, certificate(leaf())
    assert authority.not_valid_before_utc == made.not_valid_before_utc == NOW - CLOCK_SKEW
    assert authority.not_valid_after_utc == NOW + CA_LIFETIME
    assert made.not_valid_after_utc == NOW + LEAF_LIFETIME


def test_leaf_never_outlives_its_ca() -> None:
    late = NOW + CA_LIFETIME - DAY
    assert certificate(leaf(now=late)).not_valid_after_utc == ca().certificate.not_valid_after_utc


def test_renewal_is_at_two_thirds_of_life() -> None:
    made = certificate(self_made(lifetime=30 * DAY))
    assert renew_at(made) == NOW + 20 * DAY


def test_no_two_certificates_are_alike() -> None:
    made = [new_ca(NOW), new_ca(NOW)]
    assert made[0].certificate.serial_number != made[1].certificate.serial_number
    assert not same_key(made[0].certificate, made[1].key)
    assert same_key(made[0].certificate, made[0].key)


def test_private_keys_do_not_show() -> None:
    authority, bundle = ca(), leaf()
    assert "PRIVATE" not in repr(authority) + repr(bundle)


def test_an_encrypted_key_is_refused_instead_of_asking_for_a_password() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(CertificateError, match=r"tls\.key holds no readable, unencrypted PEM private key"):
        read_key(pem)


def test_ca_certificates_are_picked_out_of_anything() -> None:
    broken = ca("b").cert_pem.replace(b"M", b"!", 1)
    pem = b"\n".join([b"# ours", ca("a").cert_pem, broken, leaf().cert_pem, ca("c").cert_pem, ca("a").cert_pem, b"end"])
    assert ca_certificates(pem) == [ca("a").certificate, ca("c").certificate]


def test_a_certificate_without_basic_constraints_is_no_ca() -> None:
    assert ca_certificates(self_made([san("a.svc")]).cert_pem) == []


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.binary(max_size=200), st.integers(0, 600), st.integers(1, 255))
def test_bytes_that_are_no_certificate_are_refused_and_never_crash(junk: bytes, place: int, flip: int) -> None:
    pem = bytearray(ca().cert_pem)
    pem[place % len(pem)] ^= flip
    for candidate in (junk, bytes(pem), junk + bytes(pem)):
        found = ca_certificates(candidate)
        assert all(isinstance(one, x509.Certificate) for one in found)
        with suppress(CertificateError):
            assert read_certificates(candidate)
