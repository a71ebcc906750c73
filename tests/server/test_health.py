"""The plain port: what the kubelet and an administrator are told."""

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from app.server.health import OpsServer
from app.server.metrics import Metrics


@pytest.fixture
def found() -> dict[str, str | None]:
    """What each check finds wrong; a test changes it."""
    return {"policy": None, "certificate": None}


@pytest.fixture
def noted() -> dict[str, str | None]:
    return {"watch pods": None}


@pytest.fixture
def http(found: dict[str, str | None], noted: dict[str, str | None]) -> TestClient:
    def reading(values: dict[str, str | None], name: str) -> Callable[[], str | None]:
        return lambda: values[name]

    checks = {name: reading(found, name) for name in found}
    notes = {name: reading(noted, name) for name in noted}
    return TestClient(OpsServer(checks, notes, Metrics()).app)


def test_ready_with_a_line_for_each_check(http: TestClient) -> None:
    answer = http.get("/readyz")

    assert (answer.status_code, answer.text) == (200, "[+] policy\n[+] certificate\n")


def test_not_ready_says_what_is_wrong(http: TestClient, found: dict[str, str | None]) -> None:
    found["certificate"] = "there is no serving certificate yet"

    answer = http.get("/readyz")

    assert answer.status_code == 503
    assert answer.text == "[+] policy\n[-] certificate: there is no serving certificate yet\n"


def test_a_note_is_shown_and_changes_nothing(http: TestClient, noted: dict[str, str | None]) -> None:
    noted["watch pods"] = "40 s without a watch"

    answer = http.get("/readyz")

    assert answer.status_code == 200
    assert answer.text.endswith("[!] watch pods: 40 s without a watch\n")


def test_alive_whatever_the_checks_say(http: TestClient, found: dict[str, str | None]) -> None:
    found["policy"] = "invalid"

    assert (http.get("/livez").status_code, http.get("/livez").text) == (200, "ok\n")


def test_metrics_are_plain_text(http: TestClient) -> None:
    answer = http.get("/metrics")

    assert answer.headers["Content-Type"].startswith("text/plain")
    assert "vm_consistency_policy_state" in answer.text


@pytest.mark.parametrize("path", ["/", "/mutate/pods", "/docs", "/openapi.json"])
def test_nothing_else_is_served_without_tls(http: TestClient, path: str) -> None:
    assert http.get(path).status_code == 404
    assert http.post(path, content=b"{}").status_code == 404
