"""The whole process over real sockets, without a cluster: reload, hot certificates, drain, and its log."""

import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.admission.review import MAX_REVIEW_BYTES
from app.tls.__main__ import write
from tests.infra.controlplane import ProcessError, wait_for
from tests.server.process import Served, post, served
from tests.server.support import SECRET, Object, make_review, patched
from tests.tls.https import LOOPBACK, Connection

REVIEW = make_review()
BODY = json.dumps(REVIEW).encode()


@pytest.fixture(scope="module")
def webhook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One process; each test leaves it with a good policy."""
    with served(tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def connection(webhook: Served) -> Iterator[Connection]:
    opened = webhook.connection()
    yield opened
    opened.close()


def level(connection: Connection) -> str | None:
    """The level that a pod gets that is created now."""
    status, text, _ = post(connection, BODY)
    assert status == 200
    after: Object = patched(REVIEW, json.loads(text)["response"])
    found: str | None = after["metadata"]["annotations"].get("vm-consistency.io/effective-level")
    return found


def test_it_answers_over_tls_on_one_kept_connection(webhook: Served, connection: Connection) -> None:
    assert level(connection) == "filesystem"
    began = connection.sock
    for body, status in ((b"nonsense", 400), (b" " * (MAX_REVIEW_BYTES + 1), 413), (BODY, 200)):
        assert post(connection, body)[0] == status
    assert connection.sock is began


def test_a_caller_that_hangs_up_is_no_error_of_ours(webhook: Served, connection: Connection) -> None:
    context = ssl.create_default_context(cafile=str(webhook.certs / "ca.crt"))
    with context.wrap_socket(
        socket.create_connection((LOOPBACK, webhook.port.number)), server_hostname=LOOPBACK
    ) as cut:
        cut.sendall(b"POST /mutate/pods HTTP/1.1\r\nHost: webhook\r\nContent-Length: 1000\r\n\r\n{")
    socket.create_connection((LOOPBACK, webhook.port.number)).close()  # not even a handshake

    def told() -> Object | None:
        return next((line for line in webhook.log() if "connection ended" in line.get("reason", "")), None)

    wait_for(told, 5, what="the log to tell of the caller that hung up")
    assert not [line for line in webhook.log() if line["severity"] == "error"]
    assert level(connection) == "filesystem"


def test_the_policy_file_is_reloaded_and_a_bad_one_changes_nothing(webhook: Served, connection: Connection) -> None:
    webhook.write_policy(default={"level": "crash"})
    wait_for(lambda: level(connection) == "crash", 5, what="the new policy")

    webhook.write_policy("default: {level: most}\n")
    wait_for(lambda: webhook.shows('vm_consistency_policy_state{state="last-good"} 1.0'), 5, what="the bad policy")
    assert level(connection) == "crash"
    status, text = webhook.ops("/readyz")
    assert status == 200
    assert "[!] policy: the newest policy is invalid" in text

    webhook.policy.unlink()  # as an editor does, before it puts the new file there
    wait_for(lambda: any("No such file" in str(line) for line in webhook.log()), 5, what="a word about it")
    assert level(connection) == "crash"

    webhook.write_policy(default={"level": "filesystem"})
    wait_for(lambda: webhook.shows('vm_consistency_policy_state{state="valid"} 1.0'), 5, what="the good policy")


def test_the_log_is_json_and_tells_nothing_of_pods(webhook: Served, connection: Connection) -> None:
    post(connection, BODY)
    lines = webhook.log()

    assert any(line["message"] == "pod decided" for line in lines)
    for line in lines:
        assert {"time", "severity", "logger", "message"} <= line.keys()
        assert SECRET not in json.dumps(line)


def test_without_a_good_policy_pods_are_left_alone_and_it_is_not_ready(tmp_path: Path) -> None:
    with served(tmp_path, start=False) as webhook:
        webhook.write_policy("mode: [")
        webhook.process.launch()
        wait_for(lambda: _status(webhook, "/livez") == 200, what="the process to live")

        wait_for(lambda: "[-] policy: the policy is invalid" in webhook.ops("/readyz")[1], 5, what="the bad policy")
        assert webhook.ops("/readyz")[0] == 503
        opened = webhook.connection()
        assert level(opened) is None
        opened.close()

        webhook.write_policy(default={"level": "crash"})
        wait_for(lambda: _status(webhook, "/readyz") == 200, 5, what="readiness")


def _status(webhook: Served, path: str) -> int | None:
    try:
        return webhook.ops(path)[0]
    except OSError:
        return None


def test_after_sigterm_it_serves_on_for_a_while_and_asks_callers_to_leave(tmp_path: Path) -> None:
    with served(tmp_path, DRAIN_DELAY="1") as webhook:
        kept, cut_off = webhook.connection(), webhook.connection()
        assert "Connection" not in post(kept, BODY)[2]
        half = len(BODY) // 2
        cut_off.putrequest("POST", "/mutate/pods")
        cut_off.putheader("Content-Length", str(len(BODY)))
        cut_off.endheaders(BODY[:half])  # a review under way while the process ends

        webhook.process.terminate()
        wait_for(lambda: webhook.ops("/readyz")[0] == 503, 5, what="readiness to end")
        assert "[-] not-draining" in webhook.ops("/readyz")[1]
        assert webhook.ops("/livez")[0] == 200

        status, _, headers = post(kept, BODY)
        assert (status, headers["Connection"]) == (200, "close")
        assert level(webhook.connection()) == "filesystem"  # who still comes is served

        wait_for(lambda: _refuses(webhook), 10, what="the port to close")
        assert webhook.process.alive, "it must wait for the review under way"
        cut_off.send(BODY[half:])
        assert cut_off.getresponse().status == 200
        assert webhook.process.exit_code() == 0
        assert [line["seconds"] for line in webhook.log() if line["message"] == "draining"] == [1.0]


def _refuses(webhook: Served) -> bool:
    try:
        socket.create_connection((LOOPBACK, webhook.port.number), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_person_at_the_terminal_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    with served(tmp_path, DRAIN_DELAY="60") as webhook:
        began = time.monotonic()
        webhook.process.terminate(signal.SIGINT)

        assert webhook.process.exit_code() == 0
        assert time.monotonic() - began < 10


@pytest.mark.parametrize("taken", ["port", "ops_port"])
def test_a_port_that_is_taken_ends_the_process_with_a_line_that_names_it(tmp_path: Path, taken: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        number = str(other.getsockname()[1])
        with served(tmp_path, start=False, **{taken.upper(): number}) as webhook:
            with pytest.raises(ProcessError, match="ended before it was ready"):
                webhook.process.start()

            assert webhook.process.exit_code() > 0
            assert any(number in line["message"] and line["severity"] == "error" for line in webhook.log())


def test_a_new_certificate_is_served_without_a_restart(webhook: Served, connection: Connection) -> None:
    assert level(connection) == "filesystem"
    before = connection.fingerprint
    write(webhook.certs, [LOOPBACK])

    def renewed() -> bool:
        opened = webhook.connection()
        try:
            return level(opened) == "filesystem" and opened.fingerprint != before
        except ssl.SSLCertVerificationError:
            return False  # still the old one, which the new CA did not sign
        finally:
            opened.close()

    wait_for(renewed, what="the new certificate")
    assert level(connection) == "filesystem", "a connection goes on with the certificate it began with"
