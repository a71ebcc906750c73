"""The launcher pods as they stand in the API server, and what a policy would change on them."""

from collections.abc import Iterator

import orjson

from app.core.decision import decide_running
from app.core.kubevirt_names import UPSTREAM
from app.core.launcher import PodView
from app.core.objects import SILENT, Facts, NamespaceView, VirtualMachineInstanceView
from app.core.policy import PolicyState, Standing
from app.core.policy_v1alpha1.config_map import parse
from tests.bench.scale.sender import Request
from tests.bench.scale.stage import Policy
from tests.infra.controlplane import Client, Json
from tests.infra.installation import policy_text

_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_PAGE = 500


def patches(client: Client, policy: Policy) -> Iterator[Request]:
    """The PATCHes that bring every pod in line with `policy`, as the product sends them: by the same decision."""
    parsed = parse(policy_text(policy))
    assert not isinstance(parsed, list), parsed
    state = PolicyState(Standing.VALID, parsed.policy)
    for metadata in _listed(client):
        patch = _patch(metadata, state)
        if patch:
            guard = {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            yield Request("PATCH", path, [guard, *patch], "application/json-patch+json")


def _patch(metadata: Json, state: PolicyState) -> list[dict[str, object]]:
    namespace = metadata["namespace"]
    pod = PodView.from_object({"metadata": metadata}, namespace)
    owner = pod.controller
    assert owner is not None, f"{namespace}/{pod.name} belongs to nothing"
    # Nothing here but the policy decides: no wishes anywhere, and no VirtualMachine that could have any.
    instance = VirtualMachineInstanceView(namespace, owner.name, owner.uid, None, SILENT)
    facts = Facts(NamespaceView(namespace, {}, SILENT), instance)
    return decide_running(pod, owner, facts, state, UPSTREAM).patch


def _listed(client: Client) -> Iterator[Json]:
    token = ""
    while True:
        params = {"limit": _PAGE, "labelSelector": UPSTREAM.launcher_label, "continue": token}
        answer = client.request("GET", "/api/v1/pods", params=params, headers={"Accept": _METADATA_LIST})
        page = orjson.loads(answer.content)
        for item in page["items"]:
            yield item["metadata"]
        token = page["metadata"].get("continue", "")
        if not token:
            return
