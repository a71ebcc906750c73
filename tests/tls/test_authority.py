"""When something in the Secret is made anew, why, and what has to survive it."""

import ssl
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.tls.authority import MAX_CAS, SETTLING, Ensured, KeyMaterial, ensure
from app.tls.problems import problem_with
from app.tls.x509 import (
    CA_LIFETIME,
    CERT,
    CLOCK_SKEW,
    LEAF_LIFETIME,
    CertificateBundle,
    ca_certificates,
    key_pem,
    new_ca,
    new_leaf,
    read_certificates,
    renew_at,
)
from tests.tls.material import DAY, NAMES, NOW, ca, leaf

SECOND = timedelta(seconds=1)


NOTHING = CertificateBundle(b"", b"")


def only_ca(pem: bytes) -> CertificateBundle:
    return replace(NOTHING, ca_pem=pem)


def again(
    held: KeyMaterial, now: datetime = NOW, remembered: CertificateBundle = NOTHING, names: tuple[str, ...] = NAMES
) -> Ensured:
    return ensure(held, remembered, names, now)


def first() -> KeyMaterial:
    return again(KeyMaterial()).material


def serves(material: KeyMaterial, now: datetime = NOW) -> bool:
    return problem_with(material.bundle, NAMES, now) is None


def test_an_empty_secret_gets_everything() -> None:
    made = again(KeyMaterial())
    assert made.reasons == ("ca.key is empty", "tls.crt is empty")
    assert serves(made.material)


def test_good_material_is_left_alone() -> None:
    held = first()
    assert again(held) == Ensured(held)


def test_secret_keys_are_those_of_a_tls_secret() -> None:
    held = first()
    assert sorted(held.as_data()) == ["ca.crt", "ca.key", "tls.crt", "tls.key"]
    assert KeyMaterial.from_data(held.as_data()) == held
    assert KeyMaterial.from_data({}) == KeyMaterial()


LEAF_DUE = renew_at(read_certificates(leaf().cert_pem)[0])
CA_DUE = renew_at(ca().certificate)


def with_leaf(now: datetime) -> KeyMaterial:
    made = leaf(now=now)
    return KeyMaterial(ca().cert_pem, ca().key_pem, made.cert_pem, made.key_pem)


HELD = with_leaf(NOW)


@pytest.mark.parametrize(
    ("held", "now", "reasons"),
    [
        pytest.param(with_leaf(NOW), LEAF_DUE - SECOND, [], id="before-two-thirds"),
        pytest.param(with_leaf(NOW), LEAF_DUE, ["tls.crt was due for renewal"], id="at-two-thirds"),
        pytest.param(with_leaf(NOW), NOW + LEAF_LIFETIME, ["tls.crt expired at"], id="expired"),
        pytest.param(
            with_leaf(NOW), NOW - 2 * CLOCK_SKEW, ["ca.crt is not valid before", "tls.crt"], id="clock-behind"
        ),
        pytest.param(with_leaf(CA_DUE - DAY), CA_DUE - SECOND, [], id="ca-before-two-thirds"),
        pytest.param(with_leaf(CA_DUE - DAY), CA_DUE, ["ca.crt was due for renewal"], id="ca-at-two-thirds"),
        pytest.param(
            with_leaf(NOW), NOW + CA_LIFETIME, ["holds no valid certificate", "tls.crt expired"], id="ca-expired"
        ),
        pytest.param(replace(HELD, ca_key_pem=b""), NOW, ["ca.key is empty"], id="ca-key-lost"),
        pytest.param(replace(HELD, ca_key_pem=b"?"), NOW, ["ca.key holds no readable"], id="ca-key-garbled"),
        pytest.param(
            replace(HELD, ca_key_pem=ca("b").key_pem), NOW, ["no valid certificate for ca.key"], id="ca-key-of-another"
        ),
        pytest.param(
            replace(HELD, ca_pem=b""), NOW, ["no valid certificate for ca.key", "does not lead"], id="ca-lost"
        ),
        pytest.param(replace(HELD, ca_pem=HELD.ca_pem + b"junk"), NOW, ["ca.crt is not just"], id="ca-with-junk"),
        pytest.param(replace(HELD, cert_pem=b""), NOW, ["tls.crt is empty"], id="leaf-lost"),
        pytest.param(replace(HELD, key_pem=b"?"), NOW, ["tls.key holds no readable"], id="leaf-key-garbled"),
        pytest.param(replace(HELD, key_pem=leaf().key_pem), NOW, ["does not belong"], id="leaf-key-of-another"),
        pytest.param(replace(HELD, cert_pem=leaf(ca("b")).cert_pem), NOW, ["does not belong"], id="leaf-of-another"),
    ],
)
def test_reasons(held: KeyMaterial, now: datetime, reasons: list[str]) -> None:
    made = again(held, now)
    assert len(made.reasons) == len(reasons), made.reasons
    assert all(want in got for want, got in zip(reasons, made.reasons, strict=True)), made.reasons
    assert serves(made.material, now)
    assert again(made.material, now).reasons == ()


def test_a_new_name_asks_for_a_new_leaf_of_the_same_ca() -> None:
    made = again(HELD, names=(*NAMES, "10.1.2.3"))
    assert made.reasons == ("tls.crt is not made for 10.1.2.3",)
    assert (made.material.ca_pem, made.material.ca_key_pem) == (HELD.ca_pem, HELD.ca_key_pem)


def test_a_leaf_is_renewed_by_the_same_ca() -> None:
    made = again(HELD, LEAF_DUE).material
    assert (made.ca_pem, made.ca_key_pem) == (HELD.ca_pem, HELD.ca_key_pem)
    assert made.cert_pem != HELD.cert_pem


def test_a_lost_ca_key_costs_neither_the_old_ca_nor_the_leaf() -> None:
    made = again(replace(HELD, ca_key_pem=b"")).material
    assert ca_certificates(made.ca_pem)[1:] == [ca().certificate]
    assert (made.cert_pem, made.key_pem) == (HELD.cert_pem, HELD.key_pem)


def test_a_new_ca_settles_before_it_signs_a_leaf_that_is_only_due() -> None:
    both_due = max(LEAF_DUE, CA_DUE)
    held = with_leaf(both_due - LEAF_LIFETIME * 2 / 3 - DAY)
    first_round = again(held, both_due)
    assert first_round.reasons == (f"ca.crt was due for renewal at {CA_DUE:%Y-%m-%dT%H:%M:%SZ}",)
    assert again(first_round.material, both_due + SETTLING - SECOND).reasons == ()
    second_round = again(first_round.material, both_due + SETTLING)
    assert [reason.split()[0] for reason in second_round.reasons] == [CERT]
    assert ca_certificates(second_round.material.ca_pem)[1] == ca().certificate


def test_an_expired_ca_leaves_the_bundle() -> None:
    successor = ca("successor", NOW + 200 * DAY)
    now = ca().certificate.not_valid_after_utc
    made_leaf = new_leaf(successor, NAMES, now - DAY)
    held = KeyMaterial(successor.cert_pem + ca().cert_pem, successor.key_pem, made_leaf.cert_pem, made_leaf.key_pem)
    before = ensure(held, NOTHING, NAMES, now - SECOND)
    after = ensure(held, NOTHING, NAMES, now)
    assert ca().certificate in ca_certificates(before.material.ca_pem)
    assert ca().certificate not in ca_certificates(after.material.ca_pem)


def test_a_deleted_ca_certificate_is_put_back_from_memory() -> None:
    made = again(replace(HELD, ca_pem=b""), remembered=only_ca(HELD.ca_pem))
    assert made.material == HELD
    assert made.reasons == ("ca.crt is not just the valid CA certificates, newest first",)


@pytest.mark.parametrize("left", [KeyMaterial(), KeyMaterial(ca_pem=HELD.ca_pem)], ids=["nothing", "ca-certificate"])
def test_a_wiped_secret_keeps_the_leaf_and_its_ca_from_memory(left: KeyMaterial) -> None:
    made = again(left, remembered=HELD.bundle).material
    assert ca_certificates(made.ca_pem)[1:] == [ca().certificate]
    assert (made.cert_pem, made.key_pem) == (HELD.cert_pem, HELD.key_pem)
    assert again(made, remembered=made.bundle) == Ensured(made)


def test_a_leaf_put_back_after_its_time_is_renewed_when_the_new_ca_settled() -> None:
    made = again(KeyMaterial(), LEAF_DUE, remembered=HELD.bundle).material
    assert made.cert_pem == HELD.cert_pem
    assert again(made, LEAF_DUE + SETTLING - SECOND, remembered=made.bundle).reasons == ()
    renewed = again(made, LEAF_DUE + SETTLING, remembered=made.bundle).material
    assert (made.ca_pem, made.ca_key_pem) == (renewed.ca_pem, renewed.ca_key_pem)
    only_new = made.ca_pem[: made.ca_pem.index(ca().cert_pem)]
    assert problem_with(replace(renewed.bundle, ca_pem=only_new), NAMES, LEAF_DUE + SETTLING) is None


OTHERS = leaf(ca("b"))


@pytest.mark.parametrize(
    ("remembered", "now"),
    [
        pytest.param(only_ca(HELD.ca_pem), NOW, id="no-leaf"),
        pytest.param(replace(HELD.bundle, key_pem=b""), NOW, id="no-key"),
        pytest.param(replace(OTHERS, ca_pem=HELD.ca_pem), NOW, id="leaf-of-another-ca"),
        pytest.param(replace(leaf(names=["elsewhere.svc"]), ca_pem=HELD.ca_pem), NOW, id="other-names"),
        pytest.param(HELD.bundle, NOW + LEAF_LIFETIME, id="expired"),
    ],
)
def test_a_remembered_leaf_that_is_not_good_stays_away(remembered: CertificateBundle, now: datetime) -> None:
    made = again(KeyMaterial(), now, remembered).material
    assert serves(made, now)
    assert made.cert_pem != remembered.cert_pem


def test_a_lost_leaf_is_made_anew_where_its_ca_is_known() -> None:
    made = again(replace(HELD, key_pem=b""), remembered=HELD.bundle).material
    assert serves(made)
    assert made.cert_pem != HELD.cert_pem  # how an administrator asks for another one
    assert made.ca_pem == HELD.ca_pem


def test_a_leaf_that_is_due_is_not_put_back_in_its_own_place() -> None:
    successor = ca("successor", LEAF_DUE - SETTLING)
    held = replace(HELD, ca_pem=successor.cert_pem + HELD.ca_pem, ca_key_pem=successor.key_pem)
    made = again(held, LEAF_DUE, remembered=HELD.bundle)  # of a replica that missed the CA's renewal
    assert made.material.cert_pem != HELD.cert_pem


def test_an_administrator_can_take_a_ca_out() -> None:
    assert again(HELD, remembered=replace(HELD.bundle, ca_pem=ca("old").cert_pem + HELD.ca_pem)) == Ensured(HELD)


def test_an_rsa_ca_of_the_administrator_signs() -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "own")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW).not_valid_after(NOW + 1000 * DAY)
    own = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(key, hashes.SHA256())
    held = KeyMaterial(own.public_bytes(Encoding.PEM), key_pem(key))
    made = again(held)
    assert made.reasons == ("tls.crt is empty",)
    assert serves(made.material)


def test_a_ca_key_that_can_not_sign_here() -> None:
    held = replace(HELD, ca_key_pem=key_pem(ed25519.Ed25519PrivateKey.generate()))
    assert again(held).reasons == ("ca.key is neither an ECDSA nor an RSA key",)


CA_DER = ssl.PEM_cert_to_DER_cert(ca().cert_pem.decode())


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(deadline=None)
@given(st.integers(0, len(CA_DER) - 1), st.integers(1, 255))
@example(CA_DER.index(b"vm-consistency CA") - 2, 1)  # a subject that does not decode
def test_one_wrong_byte_in_the_ca_is_repaired_and_never_a_crash(place: int, flip: int) -> None:
    der = bytearray(CA_DER)
    der[place] ^= flip
    broken = replace(HELD, ca_pem=ssl.DER_cert_to_PEM_cert(bytes(der)).encode())
    made = again(broken, remembered=only_ca(HELD.ca_pem)).material
    assert serves(made)
    assert problem_with(replace(made.bundle, ca_pem=HELD.ca_pem), NAMES, NOW) is None


def test_a_secret_that_somebody_keeps_breaking_does_not_grow_for_ever() -> None:
    held = HELD
    for minute in range(MAX_CAS + 3):
        now = NOW + timedelta(minutes=minute)
        held = again(replace(held, ca_key_pem=b""), now).material
        assert serves(held, now)
    assert len(ca_certificates(held.ca_pem)) == MAX_CAS


class Years(RuleBasedStateMachine):
    """Time passes, people break things, and at no moment does a replica or an API server lag into distrust."""

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.held = first()
        self.served = self.held.bundle

    @rule(days=st.integers(1, 400))
    def time_passes(self, days: int) -> None:
        self.now += timedelta(days=days)
        self.reconcile()

    @rule(minutes=st.integers(1, 120))
    def a_little_time_passes(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)
        self.reconcile()

    @rule(
        parts=st.sets(st.sampled_from(["ca_pem", "ca_key_pem", "cert_pem", "key_pem"]), min_size=1),
        junk=st.sampled_from([b"", b"junk"]),
    )
    def somebody_breaks(self, parts: set[str], junk: bytes) -> None:
        self.held = replace(self.held, **dict.fromkeys(parts, junk))
        self.reconcile()

    def reconcile(self) -> None:
        served = self.served
        self.held = again(self.held, self.now, served).material
        self.served = self.held.bundle
        # An API server that still has the old bundle trusts the new leaf, unless the old one had to go at once.
        must_go = problem_with(served, NAMES, self.now) or len(ca_certificates(self.held.ca_pem)) == MAX_CAS
        if not must_go:
            assert problem_with(replace(self.served, ca_pem=served.ca_pem), NAMES, self.now) is None

    @invariant()
    def what_is_held_is_good_and_final(self) -> None:
        assert serves(self.held, self.now)
        assert again(self.held, self.now) == Ensured(self.held)


TestYears = Years.TestCase
TestYears.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def test_new_cas_can_be_told_apart_by_name() -> None:
    assert new_ca(NOW).certificate.subject != new_ca(NOW + SECOND).certificate.subject
