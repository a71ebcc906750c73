"""What a replica logs of the pods that it is asked about."""

from tests.apiserver.pods import LEVEL
from tests.infra.controlplane import Client, launcher_pod, make_vm
from tests.infra.installation import Replica


def test_nothing_of_a_pod_is_in_the_log(client: Client, namespace: str, replica: Replica) -> None:
    secret = "not for the log"
    asked = {LEVEL: "bulletproof", "example.com/a": secret, "pre.hook.backup.velero.io/on-error": secret}
    client.create(make_vm("db", namespace, template_annotations=asked))
    launcher_pod(client, "db", namespace)

    assert any(line.get("namespace") == namespace for line in replica.log_lines())
    assert secret not in replica.process.log.read_text()
