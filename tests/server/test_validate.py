"""`POST /validate/...`: a verdict, or the request refused in one line; and a fault of ours stands in nobody's way."""

import logging
from typing import Any

import pytest

from app.admission.ports import LookupFailed
from app.admission.review import MAX_REVIEW_BYTES, AdmissionRequest, Denial, Verdict
from app.core.annotations import LEVEL
from app.core.objects import SILENT, NamespaceView
from app.core.policy import BUILT_IN, PolicyState, Standing
from app.core.policy_v1alpha1.config_map import parse
from app.server.validators import validators
from app.settings import Settings
from tests.infra.factories import policy_text
from tests.server.support import SECRET, UID, Endpoint, FixedPolicy, Object, fields, make_review

POLICY, ANNOTATIONS = "/validate/policy", "/validate/annotations"
BAD = policy_text(default={"level": "most"}, hoks={})
MACHINES = {"group": "kubevirt.io", "version": "v1", "resource": "virtualmachines"}


class FixedNamespace:
    """A NamespaceSource that knows every Namespace, or fails."""

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure

    async def namespace(self, name: str) -> NamespaceView:
        if self._failure:
            raise self._failure
        return NamespaceView(name, {}, SILENT)


def make_endpoint(failure: Exception | None = None) -> Endpoint:
    policies = FixedPolicy(PolicyState(Standing.VALID, BUILT_IN))
    return Endpoint(validators=validators(policies, FixedNamespace(failure), Settings()))


@pytest.fixture
def endpoint() -> Endpoint:
    return make_endpoint()


def policy_review(text: str, **request: Any) -> Object:
    settings = Settings()
    config_map = {"metadata": {"name": settings.policy_config_map}, "data": {"policy.yaml": text, "other": SECRET}}
    where = {"namespace": settings.namespace, "name": settings.policy_config_map}
    resource = {"group": "", "version": "v1", "resource": "configmaps"}
    return make_review(**{"pod": config_map, "resource": resource, **where, **request})


def vm_review(annotations: Object, **request: Any) -> Object:
    annotated = {"metadata": {"name": "db", "annotations": {**annotations, "example.com/token": SECRET}}, "spec": {}}
    return make_review(**{"pod": annotated, "resource": MACHINES, "name": "db", **request})


def test_a_bad_policy_is_denied_as_the_api_server_denies_invalid_objects(endpoint: Endpoint) -> None:
    response = endpoint.response(policy_review(BAD), POLICY)

    found = parse(BAD)
    assert isinstance(found, list)
    errors = [str(finding) for finding in found]
    assert response == {
        "uid": UID,
        "allowed": False,
        "status": {
            "code": 422,
            "reason": "Invalid",
            "message": "\n".join(["policy.yaml has 2 errors, and was not stored:", *errors]),
            "details": {
                "kind": "ConfigMap",
                "name": "vm-consistency-policy",
                "causes": [
                    {"reason": "FieldValueInvalid", "field": "data[policy.yaml]", "message": error} for error in errors
                ],
            },
        },
    }


def test_what_is_fine_is_allowed_without_a_word(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for review, path in ((policy_review(policy_text()), POLICY), (vm_review({LEVEL: "crash"}), ANNOTATIONS)):
        assert endpoint.response(review, path) == {"uid": UID, "allowed": True}
    assert not [record for record in caplog.records if record.name.startswith("vm-consistency")]


def test_a_level_that_does_not_count_is_a_warning(endpoint: Endpoint) -> None:
    response = endpoint.response(vm_review({LEVEL: "most"}), ANNOTATIONS)

    assert response["allowed"] is True
    [warning] = response["warnings"]
    assert warning.startswith("vm-consistency: VirtualMachine db: level 'most' is none of ")


def test_what_was_said_is_logged(endpoint: Endpoint, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="vm-consistency")
    endpoint.response(policy_review(BAD, dryRun=True), POLICY)
    endpoint.response(vm_review({LEVEL: "most"}), ANNOTATIONS)

    denied, warned = caplog.records
    assert (denied.levelno, denied.message) == (logging.WARNING, "write denied")
    assert fields(denied)["object"] == "vm-consistency-policy"
    assert fields(denied)["dryRun"] is True
    assert [error.split(": ")[1] for error in fields(denied)["errors"]] == ["default.level", "hoks"]
    assert (warned.levelno, warned.message) == (logging.INFO, "write allowed")
    assert fields(warned)["resource"] == "kubevirt.io/virtualmachines"
    assert "'most'" in fields(warned)["warnings"][0]
    assert SECRET not in caplog.text + str([fields(record) for record in caplog.records])


def test_a_failed_lookup_is_allowed_in_silence_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    endpoint = make_endpoint(LookupFailed("the API server did not answer within 2 s"))

    assert endpoint.response(vm_review({LEVEL: "most"}), ANNOTATIONS) == {"uid": UID, "allowed": True}

    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "did not answer" in fields(record)["reason"]


@pytest.mark.parametrize(
    ("path", "review"), [(POLICY, policy_review(BAD)), (ANNOTATIONS, vm_review({LEVEL: "most"}))], ids=["policy", "vm"]
)
def test_a_fault_of_ours_is_allowed_warned_and_counted(
    path: str, review: Object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a slip of ours")

    monkeypatch.setattr("app.core.policy_v1alpha1.config_map.load_policy", broken)
    monkeypatch.setattr("app.admission.validate_annotations.select_level", broken)
    endpoint = make_endpoint()

    response = endpoint.response(review, path)

    assert response["allowed"] is True
    [warning] = response["warnings"]
    assert warning.startswith("vm-consistency: an internal error kept this from being checked")
    assert endpoint.sample("vm_consistency_errors_total", kind="internal") == 1
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert SECRET not in str(fields(record))


def test_a_verdict_that_cannot_be_encoded_is_no_denial(caplog: pytest.LogCaptureFixture) -> None:
    class Odd:
        async def validate(self, request: AdmissionRequest) -> Verdict:
            return Verdict(denial=Denial("ConfigMap", "a", "b", "lone surrogate: \ud800", []))

    endpoint = Endpoint(validators={"odd": Odd()})
    assert endpoint.response(policy_review(BAD), "/validate/odd")["allowed"] is True
    assert endpoint.sample("vm_consistency_errors_total", kind="internal") == 1


@pytest.mark.parametrize("path", [POLICY, ANNOTATIONS])
def test_what_is_no_review_is_refused(endpoint: Endpoint, path: str) -> None:
    broken = policy_review(BAD) if path == POLICY else vm_review({})
    broken["request"]["object"] = {"metadata": [], "data": ["policy"]}
    for body, status in ((b"nonsense", 400), (broken, 400), (b" " * (MAX_REVIEW_BYTES + 1), 413)):
        answered, text, _ = endpoint.post(body, path)
        assert (answered, len(text.splitlines())) == (status, 1)
    assert endpoint.sample("vm_consistency_errors_total", kind="malformed") == 2


@pytest.mark.parametrize("path", [POLICY, ANNOTATIONS])
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_refused(endpoint: Endpoint, path: str, method: str) -> None:
    assert endpoint.http.request(method, path).status_code == 405


def test_pods_are_measured_alone(endpoint: Endpoint) -> None:
    endpoint.response(policy_review(BAD), POLICY)
    assert endpoint.sample("vm_consistency_admission_seconds_count") == 0
    endpoint.response(make_review())
    assert endpoint.sample("vm_consistency_admission_seconds_count") == 1


def test_while_draining_every_answer_asks_for_another_connection(endpoint: Endpoint) -> None:
    endpoint.server.draining = True
    assert endpoint.post(policy_review(BAD), POLICY)[2]["Connection"] == "close"


def test_many_warnings_stay_below_what_an_api_server_cuts(endpoint: Endpoint) -> None:
    rules = [
        {"name": f"rule-{number}", "match": {"templateSelector": {"matchLabels": {"a": "b"}}}, "allow": []}
        for number in range(40)
    ]
    response = endpoint.response(policy_review(policy_text(rules=rules)), POLICY)
    assert response["allowed"] is True
    assert len(response["warnings"]) == 13
    assert sum(map(len, response["warnings"])) <= 4096
