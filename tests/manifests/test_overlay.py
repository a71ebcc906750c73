"""The default overlay agrees with the process that it installs, and asks for no more than that needs."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import app
from app.core.annotations import HOOK_KEYS, LEVEL, MANAGED, PREFIX, PROFILE
from app.core.kubevirt_names import UPSTREAM
from app.core.policy import BUILT_IN, Choice, Level
from app.core.policy_v1alpha1.load import load_policy
from app.settings import Settings
from tests.manifests.overlay import DEFAULT, MANIFESTS, Object, Overlay, kustomize

WATCH = frozenset({"list", "watch"})
READ = WATCH | {"get"}

# (API group, resource, names it is limited to) -> verbs. A rule that is missing here, or a verb too many, is a finding.
CLUSTER_RULES = {
    ("", "namespaces", ()): READ,
    ("kubevirt.io", "virtualmachines", ()): READ,
    ("kubevirt.io", "virtualmachineinstances", ()): READ,
    ("kubevirt.io", "kubevirts", ()): WATCH,
    ("", "pods", ()): READ | {"patch"},
    ("", "events", ()): frozenset({"create", "get", "patch"}),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", ("vm-consistency",)): READ | {"patch"},
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", ("vm-consistency",)): READ | {"patch"},
}
NAMESPACE_RULES = {
    ("", "configmaps", ("vm-consistency-policy",)): READ | {"patch"},
    ("", "configmaps", ("vm-consistency-last-good",)): frozenset({"get", "patch"}),
    ("", "secrets", ("vm-consistency-certs",)): READ | {"patch"},
    ("coordination.k8s.io", "leases", ("vm-consistency",)): READ | {"patch"},
}


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings()


def test_names_are_those_of_the_settings(overlay: Overlay, settings: Settings) -> None:
    assert overlay.the("Namespace")["metadata"]["name"] == settings.namespace
    assert overlay.the("Service", settings.service)
    assert overlay.the("MutatingWebhookConfiguration", settings.webhook_configuration)
    assert overlay.the("ValidatingWebhookConfiguration", settings.webhook_configuration)
    for kind, name in (
        ("Secret", settings.certificate_secret),
        ("ConfigMap", settings.policy_config_map),
        ("ConfigMap", settings.last_good_config_map),
    ):
        assert overlay.the(kind, name)["metadata"]["namespace"] == settings.namespace


def test_ports_lead_to_the_process(overlay: Overlay, settings: Settings) -> None:
    ports = {port["name"]: port["containerPort"] for port in overlay.container["ports"]}
    assert ports == {"https": settings.port, "ops": settings.ops_port}
    [port] = overlay.the("Service")["spec"]["ports"]
    assert port["targetPort"] == "https"
    address = (settings.service, settings.namespace, port["port"])
    for webhook in overlay.webhooks:
        client = webhook["clientConfig"]["service"]
        assert (client["name"], client["namespace"], client["port"]) == address
        assert f"{client['name']}.{client['namespace']}.svc" in settings.serving_names
    assert [webhook["clientConfig"]["service"]["path"] for webhook in overlay.webhooks] == [
        "/mutate/pods",
        "/validate/policy",
        "/validate/annotations",
    ]
    for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        assert overlay.container[probe]["httpGet"] == {"path": path, "port": "ops"}


def test_every_selector_finds_the_pods_of_the_deployment(overlay: Overlay) -> None:
    deployment = overlay.the("Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    [spread] = overlay.pod_spec["topologySpreadConstraints"]
    selectors = [
        deployment["selector"]["matchLabels"],
        overlay.the("Service")["spec"]["selector"],
        overlay.the("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()


def test_image_is_this_version(overlay: Overlay) -> None:
    assert overlay.container["image"] == f"vm-consistency:{app.__version__}"
    assert overlay.container["args"] == ["serve"]


def test_every_variable_of_the_container_is_a_setting(overlay: Overlay) -> None:
    prefix = Settings.model_config["env_prefix"]
    known = {prefix + name.upper() for name in Settings.model_fields}
    assert {variable["name"] for variable in overlay.container["env"]} <= known


def test_kubelet_sets_no_variable_that_is_taken_for_a_setting(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert overlay.pod_spec["enableServiceLinks"] is False

    for service in (item for item in overlay.objects if item["kind"] == "Service"):
        link = service["metadata"]["name"].upper().replace("-", "_")
        monkeypatch.setenv(f"{link}_PORT", f"tcp://10.0.0.1:{service['spec']['ports'][0]['port']}")
    with pytest.raises(ValidationError, match="port"):  # or else the assertion above would guard nothing
        Settings()


def test_a_terminating_pod_has_time_to_drain(overlay: Overlay, settings: Settings) -> None:
    needed = settings.drain_delay + settings.deadline
    assert overlay.pod_spec["terminationGracePeriodSeconds"] >= needed + 10
    assert "lifecycle" not in overlay.container  # a preStop sleep would come on top of the drain delay


def test_pods_run_restricted(overlay: Overlay) -> None:
    assert overlay.the("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert overlay.pod_spec["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert overlay.container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & overlay.pod_spec.keys()
    assert overlay.container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_a_replica_is_left_when_a_node_goes(overlay: Overlay) -> None:
    assert overlay.the("Deployment")["spec"]["replicas"] == 2
    assert overlay.the("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def _rules(role: Object) -> dict[tuple[str, str, tuple[str, ...]], frozenset[str]]:
    return {
        (group, resource, tuple(rule.get("resourceNames", ()))): frozenset(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_rbac_is_exactly_the_table(overlay: Overlay) -> None:
    roles = [one for one in overlay.objects if one["kind"] in {"Role", "ClusterRole"}]
    assert len(roles) == 2
    assert _rules(overlay.the("ClusterRole")) == CLUSTER_RULES
    assert _rules(overlay.the("Role")) == NAMESPACE_RULES


def test_bindings_give_the_roles_to_our_service_account_only(overlay: Overlay) -> None:
    account = overlay.the("ServiceAccount")["metadata"]
    for binding, role in (("ClusterRoleBinding", "ClusterRole"), ("RoleBinding", "Role")):
        bound = overlay.the(binding)
        assert bound["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": "vm-consistency"}
        subject = {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
        assert bound["subjects"] == [subject]
    assert overlay.pod_spec["serviceAccountName"] == account["name"]


def test_nothing_that_the_process_writes_is_committed(overlay: Overlay, settings: Settings) -> None:
    for kind, name in (("Secret", settings.certificate_secret), ("ConfigMap", settings.last_good_config_map)):
        assert not {"data", "stringData", "binaryData"} & overlay.the(kind, name).keys()
    assert all(webhook["clientConfig"].keys() == {"service"} for webhook in overlay.webhooks)


def test_registrations_never_stand_in_the_way(overlay: Overlay, settings: Settings) -> None:
    assert overlay.webhook["reinvocationPolicy"] == "IfNeeded"
    for webhook in overlay.webhooks:
        assert webhook["failurePolicy"] == "Ignore"
        assert webhook["sideEffects"] == "None"
        assert webhook["admissionReviewVersions"] == ["v1"]
        assert settings.deadline < webhook["timeoutSeconds"] <= 5


def test_registration_is_for_launcher_pods_of_other_namespaces(overlay: Overlay, settings: Settings) -> None:
    webhook = overlay.webhook
    [rule] = webhook["rules"]
    assert set(rule["operations"]) == {"CREATE", "UPDATE"}
    assert (rule["apiGroups"], rule["resources"]) == ([""], ["pods"])
    assert webhook["objectSelector"] == {"matchExpressions": [{"key": UPSTREAM.launcher_label, "operator": "Exists"}]}
    created = webhook["matchConditions"][1]["expression"]
    assert f"[?'{UPSTREAM.launcher_label}'].orValue('') == '{UPSTREAM.launcher_label_value}'" in created
    [expression] = webhook["namespaceSelector"]["matchExpressions"]
    assert (expression["key"], expression["operator"]) == ("kubernetes.io/metadata.name", "NotIn")
    assert set(expression["values"]) == settings.spared_namespaces  # whose running pods the reconciler leaves alone


def test_policy_is_validated_by_name_and_namespace(overlay: Overlay, settings: Settings) -> None:
    webhook = overlay.validating("policy")
    [rule] = webhook["rules"]
    assert set(rule["operations"]) == {"CREATE", "UPDATE", "DELETE"}
    assert (rule["apiGroups"], rule["resources"]) == ([""], ["configmaps"])
    assert webhook["namespaceSelector"] == {
        "matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [settings.namespace]},
        ]
    }
    _, named = webhook["matchConditions"]
    assert f"'{settings.policy_config_map}'" in named["expression"]


def test_annotations_are_validated_where_people_write_them(overlay: Overlay) -> None:
    webhook = overlay.validating("annotations")
    assert [(rule["apiGroups"], rule["resources"]) for rule in webhook["rules"]] == [
        ([""], ["namespaces"]),
        ([UPSTREAM.api_group], ["virtualmachines"]),
    ]
    assert all(set(rule["operations"]) == {"CREATE", "UPDATE"} for rule in webhook["rules"])
    assert not {"namespaceSelector", "objectSelector"} & webhook.keys()
    [condition] = webhook["matchConditions"]
    keys = {LEVEL, PROFILE, MANAGED, UPSTREAM.skip_annotation}
    assert {literal for literal in re.findall(r"'([^']+)'", condition["expression"]) if "/" in literal} == keys


def test_conditions_name_every_hook_key_and_our_prefix(overlay: Overlay) -> None:
    _, _, changed = overlay.webhook["matchConditions"]
    literals = re.findall(r"'([^']+)'", changed["expression"])
    assert sorted(literal for literal in literals if "hook" in literal) == sorted(HOOK_KEYS)
    assert PREFIX in literals


def test_shipped_policy_differs_from_none_only_by_naming_the_default_level() -> None:
    policy = load_policy((MANIFESTS / "base" / "policy.yaml").read_text()).policy
    named = replace(BUILT_IN, default=Choice("default", Level.FILESYSTEM), profiles=policy.profiles)
    assert policy == named


def test_examples_in_the_shipped_policy_are_valid() -> None:
    text = (MANIFESTS / "base" / "policy.yaml").read_text()
    examples = re.sub(r"^# (?=rules:|- |  |hooks:)", "", text, flags=re.MULTILINE)
    loaded = load_policy(examples)
    assert not loaded.doubts
    sources = [rule.choice.source for rule in loaded.policy.rules]
    assert sources == ["rule/scratch", "rule/production", "rule/other-backup-product"]


def _mentions(value: Any, path: str = "") -> list[str]:
    """Where `value` names the default namespace in its own right, or inside a user name."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in _mentions(item, f"{path}.{key}")]
    if isinstance(value, list):
        return [found for item in value for found in _mentions(item, f"{path}[]")]
    is_namespace = path.endswith(("namespace", "namespaceSelector.matchExpressions[].values[]"))
    is_user = isinstance(value, str) and "system:serviceaccount:vm-consistency:" in value
    return [path] if (is_namespace and value == "vm-consistency") or is_user else []


def test_another_namespace_takes_one_line(overlay: Overlay, tmp_path: Path) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "manifests")
    changed = tmp_path / "manifests" / DEFAULT.relative_to(MANIFESTS)
    kustomization = changed / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("namespace: vm-consistency", "namespace: elsewhere"))
    elsewhere = Overlay(kustomize(changed))
    assert _mentions(overlay.objects)
    assert _mentions(elsewhere.objects) == []
    assert elsewhere.the("Namespace", "elsewhere")
    for webhook in (elsewhere.webhook, elsewhere.validating("policy")):
        ours = webhook["matchConditions"][0]
        assert "'system:serviceaccount:elsewhere:vm-consistency'" in ours["expression"]
    [where] = elsewhere.validating("policy")["namespaceSelector"]["matchExpressions"]
    assert where["values"] == ["elsewhere"]
