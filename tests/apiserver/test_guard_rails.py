"""A tenant tries to get past the policy: with everything that may be granted in a namespace, and patch on that itself.

The policy lets the namespace's VMs have level crash and nothing else, so any hook on a launcher pod is one too many.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest

from app.core.policy import Level
from app.core.record import with_record
from tests.apiserver.conftest import NewNamespace, SetPolicy
from tests.apiserver.pods import (
    LEGACY,
    LEVEL,
    POST,
    PRE,
    PROFILE,
    decided,
    filesystem_hooks,
    hooks,
    kubevirt_hooks,
    owner_of,
    pod_like_a_launcher,
    record,
)
from tests.infra.controlplane import (
    ApiError,
    Client,
    ControlPlane,
    Json,
    bind_pod,
    launcher_pod,
    make_vm,
    make_vmi,
    run_stand_in_guest,
    set_pod_running,
    stand_in_node,
    wait_for,
)
from tests.infra.installation import Replica, annotations

MANAGED = "vm-consistency.io/managed"
EPHEMERAL = "kubevirt.io/ephemeral-provisioning"
OWN = ("effective-level", "effective-profile", "decided-by", "hooks-digest")

EVIL_HOOKS = {
    PRE + "command": '["/bin/sh", "-c", "id"]',
    PRE + "container": "compute",
    PRE + "on-error": "Fail",
    POST + "timeout": "9h",
    LEGACY + "command": '["/bin/sh", "-c", "id"]',
}
FORGED = with_record(EVIL_HOOKS, Level.APPLICATION, "oracle", "vm")
"""Hooks with a record whose digest is right."""
NO_RECORD: Mapping[str, None] = {f"vm-consistency.io/{key}": None for key in OWN}
GRANTED = with_record({}, Level.CRASH, None, "rule/guarded")


def granted(pod: Json) -> bool:
    """Whether the pod carries what the policy grants, and nothing else of ours or Velero's."""
    return {**hooks(pod), **record(pod)} == GRANTED


@pytest.fixture(autouse=True)
def policy(set_policy: SetPolicy) -> None:
    """Two kinds of namespaces; and a rule that goes by labels, which tenants write."""
    set_policy(
        {
            "default": {"level": "filesystem"},
            "rules": [
                {
                    "name": "labelled",
                    "match": {"templateSelector": {"matchLabels": {"app": "pg"}}},
                    "level": "filesystem",
                    "allow": ["crash", "filesystem", "application", "unmanaged"],
                    "allowProfiles": ["oracle"],
                    "hooks": {"freeze": {"timeout": "90s"}},
                },
                {
                    "name": "guarded",
                    "match": {"namespaces": ["guarded-*"]},
                    "level": "crash",
                    "allow": ["crash"],
                    "allowProfiles": ["postgresql"],
                },
                {
                    "name": "free",
                    "match": {"namespaces": ["free-*"]},
                    "allow": ["crash", "filesystem", "unmanaged"],
                    "hooks": {"thaw": {"timeout": "70s"}},
                },
                {"name": "vendor", "match": {"namespaces": ["vendor-*"]}, "managed": False},
            ],
            "profiles": {name: {"quiesce": [{"name": "sync", "run": "sync"}]} for name in ("postgresql", "oracle")},
        }
    )


@dataclass(frozen=True)
class Tenant:
    """Somebody with all rights on what a VM consists of in one namespace, and patch on that namespace."""

    client: Client
    admin: Client
    namespace: str

    def vm(self, name: str = "db", **parts: Any) -> Json:
        """Make a VM; returns its launcher pod."""
        self.client.create(make_vm(name, self.namespace, **parts))
        return launcher_pod(self.client, name, self.namespace)

    def vm_that_asks(self, source: str, asked: Mapping[str, str]) -> Json:
        """Make a VM with annotations on itself, its template or its Namespace; returns its launcher pod."""
        if source == "namespace":
            self.client.patch("namespaces", self.namespace, {"metadata": {"annotations": dict(asked)}})
            return self.vm()
        if source == "vm":
            return self.vm(annotations=asked)
        return self.vm(template_annotations=asked)

    def now(self, pod: Json) -> Json:
        """The pod as it is stored."""
        return self.client.get("pods", pod["metadata"]["name"], self.namespace)

    def write(self, pod: Json, metadata: Json, subresource: str | None = None) -> Json:
        """Patch the pod's metadata."""
        name = pod["metadata"]["name"]
        return self.client.patch("pods", name, {"metadata": metadata}, self.namespace, subresource=subresource)

    def owner(self, name: str = "db") -> Json:
        """An ownerReference to an instance."""
        return owner_of(self.client.get("virtualmachineinstances", name, self.namespace))


NewTenant: TypeAlias = Callable[[str], Tenant]
RBAC = "rbac.authorization.k8s.io"


def bind(client: Client, role: str, name: str, subject: Json, rules: list[Json]) -> None:
    """Grant rules to a subject by a Role of the subject's namespace, or by a ClusterRole."""
    metadata = {"name": name} if role == "ClusterRole" else {"name": name, "namespace": subject["namespace"]}
    head = {"apiVersion": f"{RBAC}/v1", "metadata": metadata}
    client.create({**head, "kind": role, "rules": rules})
    reference = {"kind": role, "name": name, "apiGroup": RBAC}
    client.create({**head, "kind": f"{role}Binding", "roleRef": reference, "subjects": [subject]})


@pytest.fixture
def new_tenant(
    control_plane: ControlPlane, client: Client, new_namespace: NewNamespace
) -> Iterator[Callable[[str], Tenant]]:
    """Make tenants, of namespaces whose names begin as given."""
    made: list[Tenant] = []

    def create(prefix: str) -> Tenant:
        namespace = new_namespace(prefix)
        subject = {"kind": "ServiceAccount", "name": "tenant", "namespace": namespace}
        client.create(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {k: subject[k] for k in ("name", "namespace")}}
        )
        pods = ["pods", *(f"pods/{sub}" for sub in ("status", "binding", "ephemeralcontainers", "resize"))]
        rules = [
            {"apiGroups": [""], "resources": pods, "verbs": ["*"]},
            {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines", "virtualmachineinstances"], "verbs": ["*"]},
        ]
        bind(client, "Role", "tenant", subject, rules)
        own = {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": [namespace], "verbs": ["get", "patch"]}
        bind(client, "ClusterRole", namespace, subject, [own])
        tenant = Tenant(client.with_token(control_plane.token_for(namespace, "tenant")), client, namespace)
        made.append(tenant)
        wait_for(lambda: _may(tenant), what="the tenant's rights")
        return tenant

    yield create
    for tenant in made:
        tenant.client.close()
        client.delete("clusterroles", tenant.namespace)
        client.delete("clusterrolebindings", tenant.namespace)


def _may(tenant: Tenant) -> bool:
    with suppress(ApiError):
        tenant.client.list("pods", tenant.namespace)
        tenant.client.get("namespaces", tenant.namespace)
        return True
    return False


@pytest.fixture
def tenant(new_tenant: NewTenant) -> Tenant:
    """One of a namespace in which the policy allows nothing but crash."""
    return new_tenant("guarded")


def refusals(replica: Replica, source: str, reason: str) -> float:
    """How often something was refused."""
    return replica.metric("vm_consistency_refusals_total", source=source, reason=reason)


class TestAsking:
    """Annotations on the VM, on its template and on the Namespace, as they are when the pod is made."""

    ASKED: tuple[tuple[str, dict[str, str], str], ...] = (
        ("level", {LEVEL: "filesystem"}, "level-not-allowed"),
        ("application", {LEVEL: "application", PROFILE: "postgresql"}, "level-not-allowed"),
        ("a-profile-that-is-not-allowed", {LEVEL: "application", PROFILE: "oracle"}, "level-not-allowed"),
        ("no-level", {LEVEL: "unmanaged"}, "unknown-level"),
        ("a-profile-alone", {PROFILE: "oracle"}, "profile-without-level"),
    )

    @pytest.mark.parametrize("source", ["vm", "template", "namespace"])
    @pytest.mark.parametrize(("asked", "reason"), [case[1:] for case in ASKED], ids=[case[0] for case in ASKED])
    def test_for_more_is_refused_told_and_counted(
        self, tenant: Tenant, replica: Replica, source: str, asked: dict[str, str], reason: str
    ) -> None:
        before = refusals(replica, source, reason)
        pod = tenant.vm_that_asks(source, asked)

        wait_for(lambda: granted(tenant.now(pod)), what="what the policy grants")
        assert refusals(replica, source, reason) > before
        on_pod = asked if source == "template" else {}
        trial = tenant.client.create(
            pod_like_a_launcher(tenant.namespace, tenant.owner(), annotations=on_pod), dry_run=True
        )
        [warning] = tenant.client.warnings
        assert warning.startswith("vm-consistency: ")
        assert granted(trial)

    @pytest.mark.parametrize(
        ("source", "told"),
        [("vm", "unmanaged-not-allowed"), ("namespace", "unmanaged-not-allowed"), ("template", "managed-in-template")],
    )
    def test_to_be_left_alone_is_refused(self, tenant: Tenant, replica: Replica, source: str, told: str) -> None:
        before = refusals(replica, source, told)
        asked = {MANAGED: "false"}
        pod = tenant.vm_that_asks(source, asked)

        assert granted(tenant.now(pod))
        assert refusals(replica, source, told) > before

    def test_everything_at_once_for_a_vm_that_runs(self, tenant: Tenant) -> None:
        pod = tenant.vm()
        asked = {"metadata": {"annotations": {LEVEL: "filesystem", PROFILE: "oracle", MANAGED: "false"}}}
        tenant.client.patch("namespaces", tenant.namespace, asked)
        tenant.client.patch("virtualmachines", "db", asked, tenant.namespace)
        tenant.write(pod, {**asked["metadata"]})

        assert granted(tenant.now(pod))
        witness = tenant.vm("witness")  # by the time that it is there, the others have been dealt with
        assert granted(witness)
        assert granted(tenant.now(pod))

    def test_less_is_for_the_asking(self, tenant: Tenant) -> None:
        pod = tenant.vm(annotations={LEVEL: "crash"})

        assert decided(pod) == ("crash", "vm")

    def test_labels_of_the_template_choose_a_rule_but_no_guard(self, tenant: Tenant) -> None:
        asked = {LEVEL: "application", PROFILE: "oracle", MANAGED: "false"}

        pod = tenant.vm(annotations=asked, template_labels={"app": "pg"})

        assert decided(pod) == ("filesystem", "rule/labelled"), "the policy's own word, by a rule that goes by labels"
        tenant.client.create({**pod_like_a_launcher(tenant.namespace, tenant.owner())}, dry_run=True)
        assert any("managed" in warning for warning in tenant.client.warnings)
        assert any("not allowed" in warning for warning in tenant.client.warnings)

    def test_a_template_cannot_bring_its_own_hooks_record_or_launcher_label(self, tenant: Tenant) -> None:
        pod = tenant.vm(template_annotations=FORGED, template_labels={"kubevirt.io": "mine"})

        assert granted(pod)

    def test_a_vm_that_calls_its_pod_temporary_never_runs(self, tenant: Tenant) -> None:
        marked = {EPHEMERAL: "true", **FORGED}
        tenant.client.create(make_vm("db", tenant.namespace, template_annotations=marked))
        pod = launcher_pod(tenant.admin, "db", tenant.namespace)
        assert record(pod) == {}
        stand_in_node(tenant.admin, "node-a")
        bind_pod(tenant.admin, pod, "node-a")

        set_pod_running(tenant.admin, tenant.now(pod))

        wait_for(lambda: not tenant.admin.find("pods", pod["metadata"]["name"], tenant.namespace), what="its end")


class TestHandsOff:
    """Where the policy allows it, or wants it itself."""

    @pytest.mark.parametrize("source", ["vm", "namespace"])
    def test_unmanaged_where_it_is_allowed(self, new_tenant: NewTenant, source: str) -> None:
        tenant = new_tenant("free")
        asked = {MANAGED: "false"}

        pod = tenant.vm_that_asks(source, asked)

        assert record(pod) == {}
        assert hooks(pod) == kubevirt_hooks("db", tenant.namespace)

    def test_a_vm_wins_over_its_namespace(self, new_tenant: NewTenant) -> None:
        tenant = new_tenant("free")
        tenant.client.patch("namespaces", tenant.namespace, {"metadata": {"annotations": {MANAGED: "false"}}})

        pod = tenant.vm(annotations={MANAGED: "true"})

        assert decided(pod) == ("filesystem", "default")

    def test_a_rule_that_says_so(self, new_tenant: NewTenant) -> None:
        tenant = new_tenant("vendor")

        pod = tenant.vm(annotations={LEVEL: "crash", MANAGED: "true"})

        assert record(pod) == {}
        assert hooks(pod) == kubevirt_hooks("db", tenant.namespace)

    @pytest.mark.parametrize(
        ("annotations_", "who"), [({}, "default"), ({LEVEL: "filesystem"}, "vm")], ids=["default", "vm"]
    )
    def test_a_rule_s_hooks_hold_whoever_chose_the_level(
        self, new_tenant: NewTenant, annotations_: dict[str, str], who: str
    ) -> None:
        tenant = new_tenant("free")

        pod = tenant.vm(annotations=annotations_)

        assert decided(pod) == ("filesystem", who)
        assert hooks(pod) == {**filesystem_hooks("db", tenant.namespace), POST + "timeout": "70s"}


class TestPodsMadeByHand:
    @pytest.mark.parametrize("made", ["create", "apply"])
    def test_with_a_forged_record(self, tenant: Tenant, made: str) -> None:
        tenant.vm()
        pod = pod_like_a_launcher(tenant.namespace, tenant.owner(), annotations=FORGED)

        created = getattr(tenant.client, made)(pod)

        assert granted(created)
        assert granted(tenant.now(created))

    def test_that_claims_to_be_going(self, tenant: Tenant) -> None:
        tenant.vm()
        pod = pod_like_a_launcher(tenant.namespace, tenant.owner(), annotations=FORGED)
        pod["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}

        created = tenant.client.create(pod)

        assert granted(tenant.now(created))

    def test_with_the_name_of_somebody_else_s_instance(self, tenant: Tenant, new_tenant: NewTenant) -> None:
        victim = new_tenant("free")
        victim.vm(annotations={LEVEL: "filesystem"})

        pod = tenant.client.create(pod_like_a_launcher(tenant.namespace, victim.owner(), annotations=FORGED))

        assert granted(tenant.now(pod)), "the namespace's policy, and nothing that the other one was granted"

    def test_with_an_instance_of_their_own_making(self, tenant: Tenant) -> None:
        tenant.client.create(make_vmi("bare", tenant.namespace, annotations={LEVEL: "filesystem", MANAGED: "false"}))

        pod = launcher_pod(tenant.client, "bare", tenant.namespace)

        assert granted(tenant.now(pod))

    def test_with_the_label_alone_is_no_vm_s(self, tenant: Tenant) -> None:
        pod = tenant.client.create(pod_like_a_launcher(tenant.namespace, None, annotations={LEVEL: "crash"}))

        assert record(tenant.now(pod)) == hooks(tenant.now(pod)) == {}

    def test_as_a_temporary_one_has_no_record_and_becomes_no_other(self, tenant: Tenant) -> None:
        tenant.vm()
        marked = {EPHEMERAL: "true", **FORGED}
        pod = tenant.client.create(pod_like_a_launcher(tenant.namespace, tenant.owner(), annotations=marked))
        assert record(pod) == {}

        with suppress(ApiError):  # virt-controller may have done away with it
            tenant.write(pod, {"annotations": {EPHEMERAL: None, **FORGED}})
            wait_for(lambda: granted(tenant.now(pod)), what="what the policy grants")


@pytest.fixture
def running(tenant: Tenant) -> Json:
    """The pod of a VM that runs."""
    tenant.vm()
    return run_stand_in_guest(tenant.admin, "db", tenant.namespace, "node-a")


STATUS = "status"


class TestWritesToARunningPod:
    @pytest.mark.parametrize("subresource", [None, STATUS, "ephemeralcontainers", "resize"])
    @pytest.mark.parametrize(
        "written",
        [EVIL_HOOKS, FORGED, {**NO_RECORD, **EVIL_HOOKS}, NO_RECORD, {MANAGED: "false", LEVEL: "filesystem"}],
        ids=["hooks", "forged-record", "hooks-without-record", "no-record", "wishes"],
    )
    def test_annotations(
        self, tenant: Tenant, running: Json, written: Mapping[str, str | None], subresource: str | None
    ) -> None:
        refused = suppress(ApiError) if subresource in ("ephemeralcontainers", "resize") else nullcontext()
        with refused:  # those two are for the spec alone, and for nodes that can do it
            tenant.write(running, {"annotations": dict(written)}, subresource)

        comes_back(tenant, running)

    def test_annotations_by_binding_it_before_the_scheduler_does(self, tenant: Tenant) -> None:
        pod = tenant.vm()
        stand_in_node(tenant.admin, "node-a")
        name = pod["metadata"]["name"]
        target = {"apiVersion": "v1", "kind": "Node", "name": "node-a"}
        metadata = {"name": name, "annotations": dict(FORGED)}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}

        tenant.client.post("pods", name, tenant.namespace, "binding", binding)

        assert tenant.now(pod)["spec"]["nodeName"] == "node-a"
        comes_back(tenant, pod)

    def test_a_time_of_deletion_that_nobody_set(self, tenant: Tenant, running: Json) -> None:
        now = tenant.now(running)
        now["metadata"] |= {"deletionTimestamp": "2030-01-01T00:00:00Z", "annotations": {**annotations(now), **FORGED}}

        with suppress(ApiError):
            tenant.client.replace(now)

        comes_back(tenant, running)

    @pytest.mark.parametrize("subresource", [None, STATUS])
    @pytest.mark.parametrize("value", ["mine", ""])
    def test_another_value_of_the_launcher_label(
        self, tenant: Tenant, running: Json, value: str, subresource: str | None
    ) -> None:
        tenant.write(running, {"labels": {"kubevirt.io": value}}, subresource)
        assert granted(tenant.now(running))

        tenant.write(running, {"annotations": {**NO_RECORD, **EVIL_HOOKS}})

        comes_back(tenant, running)
        assert vmi_phase(tenant) == "Running", "KubeVirt goes by the label's key alone"

    def test_another_value_of_the_launcher_label_and_the_rest_in_one_write(self, tenant: Tenant, running: Json) -> None:
        changes = {"labels": {"kubevirt.io": "mine"}, "annotations": {**NO_RECORD, **EVIL_HOOKS}}

        tenant.write(running, changes, STATUS)

        comes_back(tenant, running)

    def test_another_name_and_kind_in_the_ownerreference(self, tenant: Tenant, running: Json) -> None:
        owner = {**tenant.owner(), "apiVersion": "example.com/v1", "kind": "Anything", "name": "x"}
        tenant.write(running, {"ownerReferences": [owner]})
        assert granted(tenant.now(running))

        tenant.write(running, {"annotations": {**NO_RECORD, **EVIL_HOOKS}})

        comes_back(tenant, running)
        assert vmi_phase(tenant) == "Running", "KubeVirt goes by the UID alone"

    def test_another_name_in_the_ownerreference_does_not_stop_the_policy(
        self, tenant: Tenant, running: Json, set_policy: SetPolicy
    ) -> None:
        tenant.write(running, {"ownerReferences": [{**tenant.owner(), "name": "x"}]})

        set_policy({"default": {"level": "filesystem"}})

        wait_for(lambda: decided(tenant.now(running)) == ("filesystem", "default"), what="the new policy")
        assert vmi_phase(tenant) == "Running", "KubeVirt goes by the UID alone"

    def test_annotations_that_leave_no_room(self, tenant: Tenant, running: Json) -> None:
        fill(tenant, running, {**NO_RECORD, **EVIL_HOOKS})

        comes_back(tenant, running)

    def test_annotations_that_leave_no_room_for_hooks(self, new_tenant: NewTenant) -> None:
        tenant = new_tenant("free")
        pod = tenant.vm()

        fill(tenant, pod, {**NO_RECORD, **EVIL_HOOKS})

        def harmless() -> bool:
            left = hooks(tenant.now(pod)).items()
            return all(EVIL_HOOKS.get(key) != value for key, value in left if not key.endswith("/container"))

        wait_for(harmless, what="the hooks to be gone")

    @pytest.mark.parametrize(
        "metadata", [{"labels": {"kubevirt.io": None}}, {"ownerReferences": None}], ids=["label", "owner"]
    )
    def test_who_takes_the_pod_away_from_us_takes_it_away_from_kubevirt(
        self, tenant: Tenant, running: Json, metadata: Json
    ) -> None:
        uid = tenant.owner()["uid"]

        written = tenant.write(running, {**metadata, "annotations": {**NO_RECORD, **EVIL_HOOKS}})

        assert granted(written)
        wait_for(lambda: vmi_uid(tenant) != uid, what="the end of the instance, which has no pod any more")

    @pytest.mark.parametrize("subresource", [None, STATUS])
    def test_a_running_pod_that_is_called_temporary_is_ended_by_kubevirt(
        self, tenant: Tenant, running: Json, subresource: str | None
    ) -> None:
        tenant.write(running, {"annotations": {EPHEMERAL: "true", **NO_RECORD, **EVIL_HOOKS}}, subresource)

        wait_for(lambda: not tenant.admin.find("pods", running["metadata"]["name"], tenant.namespace), what="its end")


def comes_back(tenant: Tenant, pod: Json) -> None:
    """Wait until the pod carries what the policy grants, and see that it stays so when KubeVirt syncs again."""
    wait_for(lambda: granted(tenant.now(pod)), what="what the policy grants")
    touched = {"metadata": {"annotations": {"example.com/touched": secrets.token_hex(3)}}}
    tenant.client.patch("virtualmachineinstances", "db", touched, tenant.namespace)
    tenant.vm(f"witness-{secrets.token_hex(3)}")
    wait_for(lambda: granted(tenant.now(pod)), what="what the policy grants, after KubeVirt's re-sync")


def fill(tenant: Tenant, pod: Json, changes: Mapping[str, str | None]) -> None:
    """Write annotations, and one besides them that fills all the room that they leave."""
    after = {**annotations(tenant.now(pod)), **changes}
    used = sum(len(key) + len(value) for key, value in after.items() if value is not None)
    padding = {"example.com/p": "x" * (256 * 1024 - used - len("example.com/p"))}
    tenant.write(pod, {"annotations": {**changes, **padding}})


def vmi_uid(tenant: Tenant) -> str | None:
    vmi = tenant.admin.find("virtualmachineinstances", "db", tenant.namespace)
    return str(vmi["metadata"]["uid"]) if vmi else None


def vmi_phase(tenant: Tenant) -> str:
    return str(tenant.admin.get("virtualmachineinstances", "db", tenant.namespace)["status"]["phase"])
