"""Certificates replaced under a running uvicorn server, as its clients see it."""

import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import pytest

from app.tls.serving import ServingContext, fingerprint
from app.tls.x509 import CertificateBundle, CertificateError, new_ca, new_leaf
from tests.tls.https import Connection, server, trusting
from tests.tls.material import DAY, NAMES, current_bundle, self_made

SERVICE, ADDRESS = NAMES
NOW = datetime.now(UTC)
CA = new_ca(NOW)
Loop = Literal["asyncio", "uvloop"]


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Loop:
    name: Loop = request.param
    return name


@pytest.fixture
def serving() -> ServingContext:
    context = ServingContext(NAMES)
    context.replace(current_bundle(CA))
    return context


@pytest.fixture
def port(serving: ServingContext, loop: Loop) -> Iterator[int]:
    with server(serving, loop) as number:
        yield number


@pytest.mark.parametrize("name", NAMES)
def test_served_with_and_without_a_server_name(serving: ServingContext, port: int, name: str) -> None:
    for _ in range(2):
        connection = Connection(port, trusting(CA.cert_pem), name)
        assert connection.status() == 200
        assert connection.fingerprint == serving.fingerprint
        connection.close()
        serving.replace(current_bundle(CA))


def test_a_handshake_before_the_first_certificate_is_refused_and_the_next_one_after_it_works(
    loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    serving = ServingContext(NAMES)
    with server(serving, loop) as port:
        for name in NAMES:
            with pytest.raises(ssl.SSLError):  # an end of file: neither event loop sends OpenSSL's alert
                Connection(port, trusting(CA.cert_pem), name).status()
        serving.replace(current_bundle(CA))
        with_certificate = Connection(port, trusting(CA.cert_pem))
        assert with_certificate.status() == 200
        with_certificate.close()
    assert [record for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions_and_protocol_and_no_session_to_resume(
    serving: ServingContext, port: int, version: ssl.TLSVersion
) -> None:
    def only(context: ssl.SSLContext) -> None:
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2", "http/1.1"])

    connection = Connection(port, trusting(CA.cert_pem, only))
    assert connection.status() == 200
    assert connection.tls.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2"}.get(version, "TLSv1.3")
    assert connection.tls.selected_alpn_protocol() == "http/1.1"
    assert connection.tls.session is None or not connection.tls.session.has_ticket
    connection.close()


def test_a_client_that_can_only_old_tls_is_refused(port: int) -> None:
    def old(context: ssl.SSLContext) -> None:
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")

    with pytest.raises(ssl.SSLError):
        Connection(port, trusting(CA.cert_pem, old)).status()


class Traffic:
    """Clients that never pause: some keep one connection, the others open one for each request."""

    def __init__(self, port: int, trust: ssl.SSLContext) -> None:
        self._port, self._trust = port, trust
        self._stop = threading.Event()
        self.errors: list[BaseException] = []
        self.requests = 0
        self.fingerprints: set[str] = set()
        self.kept: list[tuple[str, str]] = []
        self._threads = [threading.Thread(target=self._guard, args=(kept,)) for kept in (True, True, False, False)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _guard(self, kept: bool) -> None:
        try:
            self._keep() if kept else self._reconnect()
        except BaseException as error:  # shown by the test's own thread
            self.errors.append(error)

    def _keep(self) -> None:
        connection = Connection(self._port, self._trust)
        assert connection.status() == 200
        begin, sock = connection.fingerprint, connection.sock
        while not self._stop.is_set():
            assert connection.status() == 200
            assert connection.sock is sock  # http.client would open a new one in silence
            self.requests += 1
        self.kept.append((begin, connection.fingerprint))
        connection.close()

    def _reconnect(self) -> None:
        while not self._stop.is_set():
            connection = Connection(self._port, self._trust, SERVICE)
            assert connection.status() == 200
            self.fingerprints.add(connection.fingerprint)
            self.requests += 1
            connection.close()


def test_replacing_under_load_drops_no_connection(serving: ServingContext, port: int) -> None:
    another = new_ca(NOW)
    first, bundles = serving.fingerprint, [current_bundle(ca) for ca in [CA, another] * 10]
    with Traffic(port, trusting(CA.cert_pem + another.cert_pem)) as traffic:
        for bundle in bundles:
            seen = traffic.requests + 20
            while traffic.requests < seen and not traffic.errors:
                threading.Event().wait(0.001)
            serving.replace(bundle)
        while serving.fingerprint not in traffic.fingerprints and not traffic.errors:
            threading.Event().wait(0.001)
    assert traffic.errors == []
    assert traffic.kept == [(first, first)] * 2
    assert len(traffic.fingerprints) > 5


def expired() -> CertificateBundle:
    then = NOW - 4000 * DAY
    return new_leaf(new_ca(then), NAMES, then)


@pytest.mark.parametrize(
    ("bad", "want"),
    [
        pytest.param(replace(current_bundle(CA), key_pem=current_bundle(CA).key_pem), "does not belong", id="mismatch"),
        pytest.param(replace(current_bundle(CA), cert_pem=b"torn"), "no readable PEM", id="torn"),
        pytest.param(expired(), "expired at", id="expired"),
        pytest.param(current_bundle(CA, ["other.svc"]), f"not made for {SERVICE}, {ADDRESS}", id="wrong-names"),
        pytest.param(replace(current_bundle(CA), ca_pem=new_ca(NOW).cert_pem), "does not lead to", id="wrong-ca"),
        pytest.param(self_made(now=NOW), "no subjectAltName", id="no-names"),
    ],
)
def test_a_bad_certificate_is_refused_and_the_good_one_stays(
    serving: ServingContext, bad: CertificateBundle, want: str
) -> None:
    good = serving.bundle
    with server(serving) as port:
        with pytest.raises(CertificateError, match=want):
            serving.replace(bad)
        connection = Connection(port, trusting(CA.cert_pem))
        assert connection.status() == 200
        assert connection.fingerprint == serving.fingerprint == fingerprint(good or bad)
        connection.close()
    assert serving.bundle == good


def test_problem_follows_the_clock() -> None:
    clock = [NOW]
    serving = ServingContext(NAMES, lambda: clock[0])
    assert serving.problem() == "there is no serving certificate yet"
    assert (serving.bundle, serving.fingerprint) == (None, None)
    serving.replace(current_bundle(CA))
    assert serving.problem() is None
    clock[0] += 366 * DAY
    assert (serving.problem() or "").startswith("tls.crt expired at")


def test_a_name_that_can_not_be_served_is_said_at_once() -> None:
    with pytest.raises(CertificateError, match="'not a name' is neither"):
        ServingContext(["not a name"])


def test_loading_leaves_no_file_behind(
    serving: ServingContext, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")  # a root file system that is read-only, and no emptyDir
    monkeypatch.setattr("tempfile.tempdir", None)
    bundle = current_bundle(CA)
    serving.replace(bundle)
    assert serving.bundle == bundle


def test_where_there_is_no_memory_file_a_private_one_is_used(
    serving: ServingContext, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.memfd_create")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    serving.replace(current_bundle(CA))
    with server(serving) as port:
        connection = Connection(port, trusting(CA.cert_pem))
        assert connection.status() == 200
        connection.close()
