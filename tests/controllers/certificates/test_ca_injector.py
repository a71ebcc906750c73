"""The CA bundle in the webhook configuration. What the stand-in imitates is in test_real_api.py."""

from base64 import b64decode, b64encode
from datetime import UTC, datetime

import pytest

from app.controllers.certificates.ca_injector import CaInjector
from app.controllers.reconcile_loop import Pace, Problem
from app.kube.client import ApiError, Json
from app.kube.resources import Resource
from app.tls.serving import ServingContext
from app.tls.x509 import new_ca, new_leaf
from tests.infra.stand_ins.api_objects import StandInApi
from tests.tls.material import NAMES

NAME = "vm-consistency"
GROUP = "/apis/admissionregistration.k8s.io/v1"
PATH = f"{GROUP}/mutatingwebhookconfigurations/{NAME}"
WHERE = f"mutatingwebhookconfiguration {NAME}"
NOW = datetime.now(UTC)
OLD, NEW = new_ca(NOW), new_ca(NOW)


class Shared:
    """The CA as one replica knows it, and as the Secret has it."""

    def __init__(self, secret: bytes = NEW.cert_pem) -> None:
        self.ca_pem = self.secret = secret
        self.reads = 0

    async def reconcile(self) -> float | None:
        self.reads += 1
        self.ca_pem = self.secret
        return None


def webhook(name: str, ca_pem: bytes | None = None) -> Json:
    bundle = {} if ca_pem is None else {"caBundle": b64encode(ca_pem).decode()}
    return {"name": name, "clientConfig": {"service": {"name": "vm-consistency"}, **bundle}}


def configure(api: StandInApi, *webhooks: Json, path: str = PATH) -> None:
    api.put(path, {"metadata": {"name": NAME}, "webhooks": list(webhooks)})


def bundles(api: StandInApi, path: str = PATH) -> list[bytes]:
    return [b64decode(one["clientConfig"].get("caBundle", "")) for one in api.objects[path]["webhooks"]]


@pytest.fixture
def api() -> StandInApi:
    api = StandInApi()
    configure(api, webhook("a.example"), webhook("b.example", OLD.cert_pem))
    return api


@pytest.fixture
def shared() -> Shared:
    return Shared()


@pytest.fixture
def serving() -> ServingContext:
    serving = ServingContext(NAMES)
    serving.replace(new_leaf(NEW, NAMES, NOW))
    return serving


@pytest.fixture
def injector(api: StandInApi, shared: Shared, serving: ServingContext) -> CaInjector:
    return CaInjector(api, shared, serving, name=NAME, pace=Pace(0))


async def test_every_webhook_gets_the_bundle_and_keeps_the_rest(api: StandInApi, injector: CaInjector) -> None:
    await injector.reconcile()
    assert bundles(api) == [NEW.cert_pem] * 2
    assert [one["clientConfig"]["service"] for one in api.objects[PATH]["webhooks"]] == [{"name": "vm-consistency"}] * 2
    assert injector.problem() is None


async def test_nothing_is_written_or_read_of_the_secret_when_all_is_well(
    api: StandInApi, injector: CaInjector, shared: Shared
) -> None:
    await injector.reconcile()
    version, reads = api.version(PATH), shared.reads
    await injector.reconcile()
    assert (api.version(PATH), shared.reads) == (version, reads)


@pytest.mark.parametrize("edited", [b"", b"junk", OLD.cert_pem], ids=["removed", "junk", "another"])
async def test_an_edit_is_repaired_in_that_webhook_alone(api: StandInApi, injector: CaInjector, edited: bytes) -> None:
    await injector.reconcile()
    configure(api, webhook("a.example", NEW.cert_pem), webhook("b.example", edited))
    await injector.reconcile()
    assert bundles(api) == [NEW.cert_pem] * 2


async def test_webhooks_that_moved_between_reading_and_writing(api: StandInApi, injector: CaInjector) -> None:
    api.before["patch"] = lambda: configure(api, webhook("new.example"), webhook("a.example"))
    await injector.reconcile()
    assert bundles(api) == [NEW.cert_pem] * 2


async def test_a_replica_that_lags_does_not_put_an_older_ca_back(
    api: StandInApi, injector: CaInjector, shared: Shared
) -> None:
    configure(api, webhook("a.example", NEW.cert_pem))
    shared.ca_pem = OLD.cert_pem
    version = api.version(PATH)
    await injector.reconcile()
    assert api.version(PATH) == version
    assert shared.ca_pem == NEW.cert_pem


async def test_a_replica_that_lags_loses_against_a_newer_ca_injected_meanwhile(
    api: StandInApi, injector: CaInjector, shared: Shared
) -> None:
    shared.ca_pem = shared.secret = OLD.cert_pem

    def another_replica() -> None:
        shared.secret = NEW.cert_pem
        configure(api, webhook("a.example", NEW.cert_pem))

    configure(api, webhook("a.example"))
    api.before["patch"] = another_replica
    await injector.reconcile()
    assert bundles(api) == [NEW.cert_pem]


async def test_before_there_is_a_ca_nothing_is_written(api: StandInApi, injector: CaInjector, shared: Shared) -> None:
    shared.ca_pem = b""
    await injector.reconcile()
    assert api.writes == 0
    assert injector.problem() == f"{WHERE}, webhook a.example, has no CA bundle yet"


async def test_an_absent_configuration_is_waited_for(api: StandInApi, injector: CaInjector) -> None:
    assert injector.problem() == f"{WHERE} has not been read yet"
    del api.objects[PATH]
    with pytest.raises(Problem, match=f"{WHERE} does not exist: apply the manifests"):
        await injector.reconcile()
    configure(api, webhook("a.example"))
    await injector.reconcile()
    assert bundles(api) == [NEW.cert_pem]


async def test_a_configuration_that_goes_is_no_longer_trusted(api: StandInApi, injector: CaInjector) -> None:
    await injector.reconcile()
    del api.objects[PATH]
    with pytest.raises(Problem):
        await injector.reconcile()
    assert injector.problem() is not None


@pytest.mark.parametrize(
    ("verb", "refusals", "want"),
    [
        pytest.param(
            "get", [ApiError(403, "Forbidden", "no")], "can't be read: 403 Forbidden", id="not-allowed-to-read"
        ),
        pytest.param("patch", [ApiError(403, "Forbidden", "no")], "can't be written: 403 Forbidden", id="nor-to-write"),
        pytest.param(
            "patch", [ApiError(422, "Invalid", "bad")] * 9, "can't be written: 422 Invalid: bad", id="invalid"
        ),
    ],
)
async def test_what_is_refused_is_said(
    api: StandInApi, injector: CaInjector, verb: str, refusals: list[ApiError], want: str
) -> None:
    api.refusals[verb] = list(refusals)
    with pytest.raises(Problem, match=want):
        await injector.reconcile()
    assert api.writes <= 5


async def test_another_bundle_is_a_problem_until_it_is_repaired(
    api: StandInApi, injector: CaInjector, shared: Shared
) -> None:
    configure(api, webhook("a.example", OLD.cert_pem))
    api.refusals["patch"] = [ApiError(403, "Forbidden", "no")]
    with pytest.raises(Problem):
        await injector.reconcile()
    assert (injector.problem() or "").startswith(
        f"{WHERE}, webhook a.example, carries another CA bundle: tls.crt does not lead to a valid CA"
    )
    await injector.reconcile()
    assert injector.problem() is None


async def test_a_bundle_that_differs_but_holds_our_ca_is_no_problem(
    api: StandInApi, injector: CaInjector, shared: Shared
) -> None:
    configure(api, webhook("a.example", OLD.cert_pem + NEW.cert_pem))
    api.refusals["patch"] = [ApiError(403, "Forbidden", "no")]
    with pytest.raises(Problem):
        await injector.reconcile()
    assert injector.problem() is None


async def test_writes_keep_a_pace(api: StandInApi, shared: Shared, serving: ServingContext) -> None:
    injector = CaInjector(api, shared, serving, name=NAME, pace=Pace(100))
    await injector.reconcile()
    configure(api, webhook("a.example"))
    delay = await injector.reconcile()
    assert delay is not None
    assert 0 < delay <= 100
    assert bundles(api) == [b""]


async def test_a_validating_configuration(api: StandInApi, shared: Shared, serving: ServingContext) -> None:
    path = f"{GROUP}/validatingwebhookconfigurations/{NAME}"
    configure(api, webhook("policy.example"), path=path)
    validating = Resource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations")
    injector = CaInjector(api, shared, serving, name=NAME, resource=validating, pace=Pace(0))
    await injector.reconcile()
    assert bundles(api, path) == [NEW.cert_pem]
    assert bundles(api)[0] == b""


async def test_a_configuration_without_webhooks(api: StandInApi, injector: CaInjector) -> None:
    api.put(PATH, {"metadata": {"name": NAME}})
    await injector.reconcile()
    assert api.writes == 0
    assert injector.problem() is None
