"""Everything that is measured, started once: control plane, the webhook as shipped, and its rivals beside it."""

import json
import ssl
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import jsonpatch
import yaml

from app.core.annotations import EFFECTIVE_LEVEL, HOOKS_DIGEST
from app.tls.x509 import Authority, new_leaf, read_certificates, read_key
from tests.bench.recording import NAMESPACE, Recording, compact, record
from tests.bench.rivals import RIVALS, Load, Target
from tests.infra.controlplane import Client, ControlPlane, Port, Process, make_namespace, wait_for
from tests.infra.controlplane.build import ensure
from tests.infra.controlplane.client import Json
from tests.infra.controlplane.processes import accepts
from tests.infra.controlplane.progress import say
from tests.infra.installation import NAME, Installation
from tests.infra.installation import NAMESPACE as OWN_NAMESPACE

NONE = "no admission"
OURS = "vm-consistency"
GO = "controller-runtime (Go)"
LIMIT = "same answer always (Go), the limit"
POLICY = "MutatingAdmissionPolicy (CEL)"
POLICY_AGAIN = "the same, reinvoked like the webhook"

NAMESPACES = 1_000

_POLICY_FILE = Path(__file__).parent / "mutatingadmissionpolicy.yaml"

_PLURALS = {
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "MutatingAdmissionPolicy": "mutatingadmissionpolicies",
    "MutatingAdmissionPolicyBinding": "mutatingadmissionpolicybindings",
}


@dataclass(frozen=True)
class Webhook:
    """A running contender and where it takes reviews."""

    url: str
    process: Process


@dataclass(frozen=True)
class Stage:
    """What the measurements work with; files lie in the control plane's folder."""

    control_plane: ControlPlane
    registration: Json
    recording: Recording
    webhooks: dict[str, Webhook]
    files: Path

    def direct(self, contender: str, seconds: float, warm_up: float) -> Load:
        """Send the review straight to a webhook."""
        webhook, expect = self.webhooks[contender], '"patchType":"JSONPatch"'
        target = Target(webhook.url, self.files / "review.json", self.files / "ca.crt", expect)
        return target.load([webhook.process.pid], seconds, warm_up)

    def creates(self, contender: str, seconds: float, warm_up: float) -> Load:
        """Create the pod with dryRun=All through kube-apiserver; the answer shows whether it was mutated."""
        expect = "virt-launcher" if contender == NONE else EFFECTIVE_LEVEL
        url = f"{self.control_plane.url}/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All"
        target = Target(url, self.files / "pod.json", self.control_plane.ca_file, expect, self.files / "token")
        called = [self.webhooks[contender].process] if contender in self.webhooks else []
        servers = [process.pid for process in (self.control_plane.apiserver, *called)]
        with self.admission(contender):
            return target.load(servers, seconds, warm_up)

    @contextmanager
    def admission(self, contender: str) -> Iterator[None]:
        """Let `contender`, and nobody else, mutate pods."""
        client = self.control_plane.client
        objects = self._registered(contender)
        for one in objects:
            client.create(one)
        wait_for(lambda: self._mutates() == bool(objects), what=f"{contender} to be in force")
        yield
        for one in objects:
            client.delete(_PLURALS[one["kind"]], one["metadata"]["name"])
        wait_for(lambda: not self._mutates(), what=f"{contender} to be out of force")

    def _registered(self, contender: str) -> list[Json]:
        if contender == NONE:
            return []
        if contender in (POLICY, POLICY_AGAIN):
            policy, binding = yaml.safe_load_all(_POLICY_FILE.read_text())
            if contender == POLICY_AGAIN:
                policy["spec"]["reinvocationPolicy"] = "IfNeeded"
            return [policy, binding]
        [webhook] = self.registration["webhooks"]
        client_config = {**webhook["clientConfig"], "url": self.webhooks[contender].url}
        return [{**self.registration, "webhooks": [{**webhook, "clientConfig": client_config}]}]

    def _mutates(self) -> bool:
        return EFFECTIVE_LEVEL in self.created()["metadata"]["annotations"]

    def created(self) -> Json:
        """The pod as it comes out of kube-apiserver."""
        return self.control_plane.client.create(self.recording.created, dry_run=True)

    def answer(self, contender: str) -> Json:
        """What a webhook says to the review."""
        context = ssl.create_default_context(cafile=str(self.files / "ca.crt"))
        headers = {"Content-Type": "application/json"}
        request = Request(self.webhooks[contender].url, compact(self.recording.review), headers)
        with urlopen(request, timeout=10, context=context) as answer:
            return dict(json.load(answer))

    def annotations(self, contender: str) -> dict[str, str]:
        """The pod's annotations after a webhook's patch."""
        patch: Any = json.loads(b64decode(self.answer(contender)["response"]["patch"]))
        pod = jsonpatch.apply_patch(self.recording.review["request"]["object"], patch)
        return dict(pod["metadata"]["annotations"])


@contextmanager
def stage(namespaces: int = NAMESPACES) -> Iterator[Stage]:
    """Start everything, in a cluster of so many Namespaces; nothing is left afterwards."""
    ensure(RIVALS)
    with ControlPlane(audit_level="None") as control_plane:
        say("a launcher pod made by virt-controller")
        recording = record(control_plane)
        say(f"{namespaces} namespaces")
        _create_namespaces(control_plane.client, namespaces)
        say("the webhook and its rivals")
        built = _with_webhook(control_plane, recording)
        _start_rivals(built)
        check_that_all_do_the_same(built)
        yield built


def _create_namespaces(client: Client, count: int) -> None:
    namespaces = (make_namespace(f"tenant-{number}") for number in range(count))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(client.create, namespaces))


def _with_webhook(control_plane: ControlPlane, recording: Recording) -> Stage:
    """Install and start the product, and take its registration away again until it is measured."""
    installation = Installation(control_plane)
    installation.apply()
    replica = installation.start()
    client = control_plane.client
    registration = client.get("mutatingwebhookconfigurations", NAME)
    client.delete("mutatingwebhookconfigurations", NAME)
    for field in ("resourceVersion", "uid", "creationTimestamp", "generation", "managedFields"):
        registration["metadata"].pop(field)
    webhooks = {OURS: Webhook(replica.url, replica.process)}
    return Stage(control_plane, registration, recording, webhooks, _files(control_plane, recording))


def _files(control_plane: ControlPlane, recording: Recording) -> Path:
    """Write what the load generator and the rivals read, certificates of the webhook's own CA among them."""
    folder = control_plane.folder / "bench"
    folder.mkdir()
    (folder / "review.json").write_bytes(compact(recording.review))
    (folder / "pod.json").write_bytes(compact(recording.created))
    (folder / "token").write_text(admin_token(control_plane))
    secret = control_plane.client.get("secrets", "vm-consistency-certs", OWN_NAMESPACE)["data"]
    pems = {name: b64decode(value) for name, value in secret.items()}
    [authority, *_] = read_certificates(pems["ca.crt"])
    key: Any = read_key(pems["ca.key"])
    leaf = new_leaf(Authority(authority, key), ["127.0.0.1"], datetime.now(UTC))
    (folder / "ca.crt").write_bytes(pems["ca.crt"])
    (folder / "tls.crt").write_bytes(leaf.cert_pem)
    (folder / "tls.key").write_bytes(leaf.key_pem)
    return folder


def admin_token(control_plane: ControlPlane) -> str:
    """The token of its administrator."""
    [user] = json.loads(control_plane.kubeconfig.read_text())["users"]
    return str(user["user"]["token"])


def _start_rivals(built: Stage) -> None:
    answer = built.files / "answer.json"
    answer.write_bytes(compact(built.answer(OURS)))
    _start(built, GO, "controllerruntime")
    _start(built, LIMIT, "sameanswer", "-answer", str(answer))


def _start(built: Stage, contender: str, program: str, *flags: str) -> None:
    port: Port = built.control_plane.port()
    command: list[str | Path] = [ensure(RIVALS)[program], "-port", str(port), "-certs", str(built.files), *flags]
    process = built.control_plane.supervise(program, command, ready=lambda: accepts(port)).start()
    built.webhooks[contender] = Webhook(f"https://127.0.0.1:{port}/mutate/pods", process)


def check_that_all_do_the_same(built: Stage) -> None:
    """Every contender gives the pod the same annotations, or the comparison would mean nothing."""
    expected = built.annotations(OURS)
    for contender in (GO, LIMIT):
        assert built.annotations(contender) == expected, f"{contender} differs from the webhook"
    with built.admission(POLICY):
        by_policy = built.created()["metadata"]["annotations"]
    digest_aside = {HOOKS_DIGEST: ""}
    assert {**by_policy, **digest_aside} == {**expected, **digest_aside}, f"{POLICY} differs from the webhook"
