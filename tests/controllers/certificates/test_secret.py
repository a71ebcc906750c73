"""The shared Secret: made once, agreed on, repaired, served. What the stand-in imitates is in test_real_api.py."""

import asyncio
import logging
from base64 import b64encode
from datetime import UTC, datetime

import pytest

from app.controllers.certificates.secret import CertificateController
from app.controllers.reconcile_loop import Pace, Problem
from app.kube.client import ApiError, ApiUnavailable, Json
from app.tls.authority import KeyMaterial
from app.tls.serving import ServingContext
from app.tls.x509 import LEAF_LIFETIME, ca_certificates, new_ca, new_leaf
from tests.infra.stand_ins.api_objects import StandInApi
from tests.tls.material import DAY, NAMES

NAMESPACE, NAME = "vm-consistency", "vm-consistency-certs"
PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}"
EMPTY: Json = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": NAME}, "type": "Opaque"}


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def api() -> StandInApi:
    api = StandInApi()
    api.put(PATH, EMPTY)
    return api


@pytest.fixture
def clock() -> Clock:
    return Clock()


def replica(api: StandInApi, clock: Clock, seconds_between_writes: float = 0) -> CertificateController:
    serving, pace = ServingContext(NAMES, clock), Pace(seconds_between_writes)
    return CertificateController(api, serving, namespace=NAMESPACE, secret=NAME, clock=clock, pace=pace)


def held(api: StandInApi) -> dict[str, str]:
    data: dict[str, str] = api.objects[PATH]["data"]
    return data


async def test_first_start_fills_the_empty_secret_and_serves(api: StandInApi, clock: Clock) -> None:
    controller = replica(api, clock)
    assert controller.problem() == "there is no serving certificate yet"
    await controller.reconcile()
    assert sorted(held(api)) == ["ca.crt", "ca.key", "tls.crt", "tls.key"]
    assert api.objects[PATH]["type"] == "Opaque"
    assert controller.problem() is None
    assert len(ca_certificates(controller.ca_pem)) == 1


async def test_nothing_is_written_when_all_is_well(api: StandInApi, clock: Clock) -> None:
    first, second = replica(api, clock), replica(api, clock)
    await first.reconcile()
    version = api.version(PATH)
    for controller in (first, second, first):
        await controller.reconcile()
    assert api.version(PATH) == version
    assert first.serving.fingerprint == second.serving.fingerprint is not None


async def test_replicas_that_start_at_once_agree(api: StandInApi, clock: Clock) -> None:
    replicas = [replica(api, clock) for _ in range(5)]
    await asyncio.gather(*(controller.reconcile() for controller in replicas))
    assert len({controller.serving.fingerprint for controller in replicas}) == 1
    assert len({controller.ca_pem for controller in replicas}) == 1
    assert all(controller.problem() is None for controller in replicas)
    assert api.writes > 1  # they did race
    assert api.version(PATH) == "2"


async def test_an_absent_secret_is_asked_for(api: StandInApi, clock: Clock) -> None:
    del api.objects[PATH]
    with pytest.raises(Problem, match=f"Secret {NAMESPACE}/{NAME} does not exist: apply the manifests"):
        await replica(api, clock).reconcile()
    assert api.writes == 0


@pytest.mark.parametrize(
    ("verb", "refusal", "want"),
    [
        pytest.param(
            "get", ApiError(403, "Forbidden", "no"), "can't be read: 403 Forbidden: no", id="not-allowed-to-read"
        ),
        pytest.param(
            "patch", ApiError(403, "Forbidden", "no"), "can't be written: 403 Forbidden: no", id="nor-to-write"
        ),
        pytest.param("patch", ApiError(422, "Invalid", "immutable"), "can't be written: 422", id="immutable"),
    ],
)
async def test_what_is_refused_is_said(api: StandInApi, clock: Clock, verb: str, refusal: ApiError, want: str) -> None:
    api.refusals[verb] = [refusal]
    with pytest.raises(Problem, match=want) as raised:
        await replica(api, clock).reconcile()
    assert f"Secret {NAMESPACE}/{NAME}" in str(raised.value)


async def test_a_certificate_stays_good_while_the_api_server_is_away(api: StandInApi, clock: Clock) -> None:
    controller = replica(api, clock)
    await controller.reconcile()
    api.refusals["get"] = [ApiUnavailable("no answer")]
    with pytest.raises(ApiUnavailable):
        await controller.reconcile()
    assert controller.problem() is None
    clock.now += LEAF_LIFETIME
    assert (controller.problem() or "").startswith("tls.crt expired at")


async def test_others_that_write_all_the_time(api: StandInApi, clock: Clock) -> None:
    api.refusals["patch"] = [ApiError(409, "Conflict", "modified")] * 10
    with pytest.raises(Problem, match="409 Conflict"):
        await replica(api, clock).reconcile()
    assert api.writes == 5


async def test_a_lost_race_takes_what_the_winner_wrote(api: StandInApi, clock: Clock) -> None:
    ca = new_ca(clock.now)
    leaf = new_leaf(ca, NAMES, clock.now)
    theirs = KeyMaterial(ca.cert_pem, ca.key_pem, leaf.cert_pem, leaf.key_pem).as_data()
    data = {key: b64encode(pem).decode() for key, pem in theirs.items()}
    api.before["patch"] = lambda: api.put(PATH, {**EMPTY, "data": data})
    controller = replica(api, clock)
    await controller.reconcile()
    assert controller.serving.bundle == leaf
    assert held(api) == data


@pytest.mark.parametrize("value", ["", "!!!", b64encode(b"junk").decode()], ids=["emptied", "not-base64", "junk"])
@pytest.mark.parametrize("key", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
async def test_a_hand_edit_is_repaired_and_the_ca_stays_trusted(
    api: StandInApi, clock: Clock, key: str, value: str
) -> None:
    controller, another = replica(api, clock), replica(api, clock)
    await controller.reconcile()
    ca = ca_certificates(controller.ca_pem)[0]
    secret = api.objects[PATH]
    api.put(PATH, {**secret, "data": {**secret["data"], key: value, "other": "aGk="}})
    await controller.reconcile()
    await another.reconcile()
    assert ca in ca_certificates(controller.ca_pem)
    assert another.ca_pem == controller.ca_pem
    assert another.serving.fingerprint == controller.serving.fingerprint
    assert controller.problem() is None
    assert held(api)["other"] == "aGk="


@pytest.mark.parametrize("deleted", [False, True], ids=["emptied", "deleted-and-applied"])
async def test_a_wiped_secret_costs_no_review(api: StandInApi, clock: Clock, deleted: bool) -> None:
    controller, another = replica(api, clock), replica(api, clock)
    await controller.reconcile()
    await another.reconcile()
    known = controller.ca_pem  # to API servers, until the CA bundle is written
    if deleted:
        del api.objects[PATH]
        with pytest.raises(Problem):
            await controller.reconcile()
    api.put(PATH, EMPTY)
    for one in (controller, another):
        await one.reconcile()
        assert one.serving.problem(known) is None
        assert ca_certificates(one.ca_pem)[1:] == ca_certificates(known)
    assert controller.serving.bundle == another.serving.bundle


async def test_leaf_is_renewed_in_time_and_other_replicas_follow(api: StandInApi, clock: Clock) -> None:
    first, second = replica(api, clock), replica(api, clock)
    await first.reconcile()
    await second.reconcile()
    before, ca = first.serving.fingerprint, first.ca_pem
    clock.now += LEAF_LIFETIME * 2 / 3 + DAY
    await second.reconcile()
    await first.reconcile()
    assert first.serving.fingerprint == second.serving.fingerprint != before
    assert first.ca_pem == ca


async def test_a_repair_waits_its_turn_but_what_is_served_stays(api: StandInApi, clock: Clock) -> None:
    controller = replica(api, clock, seconds_between_writes=100)
    await controller.reconcile()
    api.put(PATH, EMPTY)
    writes = api.writes
    delay = await controller.reconcile()
    assert delay is not None
    assert 0 < delay <= 100
    assert api.writes == writes
    assert controller.problem() is None


async def test_listeners_hear_of_changes_and_of_nothing_else(api: StandInApi, clock: Clock) -> None:
    controller = replica(api, clock)
    heard: list[str | None] = []
    controller.listen(lambda: heard.append(controller.serving.fingerprint))
    for _ in range(3):
        await controller.reconcile()
    assert heard == [controller.serving.fingerprint]


async def test_logs_say_why_and_show_no_key(api: StandInApi, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await replica(api, clock).reconcile()
    made = next(record for record in caplog.records if record.getMessage() == "certificates made")
    assert made.__dict__["reasons"] == ["ca.key is empty", "tls.crt is empty"]
    assert "PRIVATE KEY" not in "".join(str(record.__dict__) for record in caplog.records)


async def test_passes_do_not_overlap(api: StandInApi, clock: Clock) -> None:
    controller = replica(api, clock)
    await asyncio.gather(*(controller.reconcile() for _ in range(3)))
    assert api.writes == 1
