"""What the ServiceAccount as shipped may read when it has to ask."""

from tests.apiserver.pods import EFFECTIVE_LEVEL, owner_of, pod_like_a_launcher
from tests.apiserver.whole_run import status
from tests.infra.controlplane import Client, ControlPlane, make_vmi, wait_for
from tests.infra.installation import WEBHOOK_USER, annotations


def test_virtual_machines_that_nobody_has_seen_may_be_looked_up(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    since = control_plane.audit_position()
    gone = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "gone", "uid": "1"}}
    vmi = make_vmi("orphan", namespace)
    vmi["metadata"]["ownerReferences"] = [owner_of(gone)]
    created = client.create(vmi)

    pod = client.create(pod_like_a_launcher(namespace, owner_of(created)), dry_run=True)

    assert annotations(pod)[EFFECTIVE_LEVEL] == "filesystem"
    wanted = {"user": WEBHOOK_USER, "verb": "get", "resource": "virtualmachines", "name": "gone"}
    asked = wait_for(lambda: control_plane.audit_events(since=since, **wanted), what="the request in the audit log")
    assert {status(event) for event in asked} == {404}
