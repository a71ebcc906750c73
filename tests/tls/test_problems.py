"""Every reason to refuse a certificate, each shown with one that is good but for it."""

import ssl
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from app.tls.problems import problem_with
from app.tls.x509 import CA_LIFETIME, CLOCK_SKEW, LEAF_LIFETIME, CertificateBundle
from tests.tls.material import DAY, NAMES, NOW, ca, leaf, san, self_made

SECOND = timedelta(seconds=1)


def problem(bundle: CertificateBundle, now: datetime = NOW, names: tuple[str, ...] = NAMES) -> str | None:
    return problem_with(bundle, names, now)


def test_a_leaf_of_our_ca_is_good() -> None:
    assert problem(leaf()) is None


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        pytest.param({"cert_pem": b""}, "tls.crt is empty", id="no-certificate"),
        pytest.param({"cert_pem": b"hello"}, "tls.crt holds no readable PEM certificate", id="not-pem"),
        pytest.param({"key_pem": b" \n"}, "tls.key is empty", id="no-key"),
        pytest.param({"key_pem": b"hello"}, "tls.key holds no readable, unencrypted PEM private key", id="key-not-pem"),
        pytest.param({"key_pem": leaf().key_pem}, "tls.key does not belong to tls.crt", id="key-of-another"),
        pytest.param({"ca_pem": b"hello"}, "ca.crt holds no readable PEM certificate", id="ca-not-pem"),
    ],
)
def test_broken_parts(changed: dict[str, bytes], want: str) -> None:
    assert problem(replace(leaf(), **changed)) == want


@pytest.mark.parametrize(
    ("now", "want"),
    [
        pytest.param(NOW - CLOCK_SKEW - SECOND, "tls.crt is not valid before 2030-06-01T11:00:00Z", id="too-early"),
        pytest.param(NOW - CLOCK_SKEW, None, id="first-second"),
        pytest.param(NOW + LEAF_LIFETIME - SECOND, None, id="last-second"),
        pytest.param(NOW + LEAF_LIFETIME, "tls.crt expired at 2031-06-01T12:00:00Z", id="expired"),
    ],
)
def test_validity(now: datetime, want: str | None) -> None:
    assert problem(leaf(), now) == want


@pytest.mark.parametrize(
    ("made_for", "asked", "want"),
    [
        pytest.param(["a.svc", "10.0.0.1"], ["a.svc", "10.0.0.1"], None, id="all"),
        pytest.param(["a.svc"], ["A.SVC"], None, id="case-does-not-matter"),
        pytest.param(["a.svc"], ["a.svc", "b.svc", "::1"], "tls.crt is not made for b.svc, ::1", id="some-missing"),
        pytest.param(["*.ns.svc"], ["a.ns.svc"], None, id="wildcard"),
        pytest.param(["*.svc"], ["a.ns.svc"], "tls.crt is not made for a.ns.svc", id="wildcard-is-one-label"),
        pytest.param(["0:0::1"], ["::1"], None, id="addresses-compare-by-value"),
        pytest.param(["a.svc"], ["127.0.0.1"], "tls.crt is not made for 127.0.0.1", id="address-missing"),
    ],
)
def test_names(made_for: list[str], asked: list[str], want: str | None) -> None:
    assert problem(leaf(names=made_for), names=tuple(asked)) == want


def test_a_common_name_is_no_name() -> None:
    assert problem(self_made(), names=("self-made",)) == "tls.crt has no subjectAltName"


def test_a_certificate_for_clients_only() -> None:
    client = (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    assert problem(self_made([client], issuer=ca()), names=()) == "tls.crt is not made for a server (serverAuth)"


def test_a_ca_that_did_not_sign() -> None:
    got = problem(replace(leaf(), ca_pem=ca("another").cert_pem))
    assert got is not None
    assert got.startswith("tls.crt does not lead to a valid CA in ca.crt")


def test_any_ca_of_the_bundle_will_do() -> None:
    assert problem(replace(leaf(), ca_pem=ca("another").cert_pem + ca().cert_pem)) is None


def test_an_unknown_ca_leaves_the_chain_unchecked() -> None:
    assert problem(replace(leaf(), ca_pem=b"")) is None


def test_a_ca_that_expired_before_its_leaf() -> None:
    now = NOW + CA_LIFETIME
    stretched = self_made([san(NAMES[0])], issuer=ca(), now=now - DAY)
    assert problem(stretched, now - SECOND, NAMES[:1]) is None
    got = problem(stretched, now + SECOND, NAMES[:1])
    assert got is not None
    assert "does not lead to a valid CA" in got


def test_a_self_signed_certificate_that_is_its_own_ca() -> None:
    assert problem(self_made([san("a.svc")]), names=("a.svc",)) is None


def test_a_certificate_whose_extensions_do_not_decode() -> None:
    garbled = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x80")
    got = problem(self_made([(garbled, False)]), names=("a.svc",))
    assert got is not None
    assert got.startswith("tls.crt can't be decoded")


GOOD = leaf()
DER = ssl.PEM_cert_to_DER_cert(GOOD.cert_pem.decode())


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_one_wrong_byte_anywhere_is_never_a_crash(place: int, flip: int) -> None:
    der = bytearray(DER)
    der[place] ^= flip
    pem = ssl.DER_cert_to_PEM_cert(bytes(der)).encode()
    assert isinstance(problem(replace(GOOD, cert_pem=pem)), str | None)
