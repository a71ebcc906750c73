"""`serve --objects DIR`: VMs, instances and Namespaces from files decide over HTTPS as those of a cluster do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.core.annotations import LEVEL, PROFILE
from tests.infra.controlplane import wait_for
from tests.infra.factories import NAME, NAMESPACE, UID
from tests.server.process import Served, post, served
from tests.server.support import Object, make_review, patched

REVIEW = make_review()
VM = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine"}
VMI = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance"}
OWNER = {**VM, "name": NAME, "uid": "vm", "controller": True}


def objects(**annotations: str) -> str:
    """A VM with these annotations, and its instance."""
    place = {"namespace": NAMESPACE, "name": NAME}
    machine = {**VM, "metadata": {**place, "uid": "vm", "annotations": annotations}}
    instance = {**VMI, "metadata": {**place, "uid": UID, "ownerReferences": [OWNER]}}
    return yaml.safe_dump_all([machine, instance])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a VM that asks for crash."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "vm.yaml").write_text(objects(**{LEVEL: "crash"}))
    return folder


@pytest.fixture(scope="module")
def webhook(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), options=["--objects", folder]) as running:
        yield running


def created(webhook: Served) -> tuple[dict[str, str], list[str]]:
    """The annotations of a pod that is created now, and the warnings."""
    connection = webhook.connection()
    status, text, _ = post(connection, json.dumps(REVIEW).encode())
    connection.close()
    assert status == 200
    response: Any = json.loads(text)["response"]
    after: Object = patched(REVIEW, response)
    return after["metadata"]["annotations"], response.get("warnings", [])


def outcome(webhook: Served) -> tuple[str | None, str | None]:
    after, _ = created(webhook)
    return after.get("vm-consistency.io/effective-level"), after.get("vm-consistency.io/decided-by")


def test_the_vm_in_a_file_decides_and_is_read_again(webhook: Served, folder: Path) -> None:
    assert outcome(webhook) == ("crash", "vm")

    webhook.write_policy(default={"level": "filesystem", "allowProfiles": ["postgresql"]})
    (folder / "vm.yaml").write_text(objects(**{LEVEL: "application", PROFILE: "postgresql"}))
    wait_for(lambda: outcome(webhook) == ("application", "vm"), 5, what="the new annotation")

    (folder / "vm.yaml").write_text("kind: VirtualMachine\n")
    wait_for(lambda: "[!] objects: " in webhook.ops("/readyz")[1], 5, what="a note about the bad file")
    status, text = webhook.ops("/readyz")
    assert status == 200
    assert f"{folder / 'vm.yaml'}: object 1: apiVersion and kind must be there" in text
    assert outcome(webhook) == ("application", "vm")

    (folder / "vm.yaml").write_text(objects())
    wait_for(lambda: outcome(webhook) == ("filesystem", "default"), 5, what="the VM that asks for nothing")
    assert "[!]" not in webhook.ops("/readyz")[1]


def test_without_a_good_file_pods_are_left_alone_and_it_is_not_ready(tmp_path: Path) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    (folder / "vm.yaml").write_text("a: [")
    with served(tmp_path, start=False, options=["--objects", folder]) as webhook:
        webhook.process.launch()
        wait_for(lambda: "[-] objects: " in _readiness(webhook), what="readiness to tell of the bad file")
        wait_for(lambda: "[+] policy" in _readiness(webhook), what="the policy")
        assert webhook.ops("/readyz")[0] == 503
        after, warnings = created(webhook)
        assert after == REVIEW["request"]["object"]["metadata"]["annotations"]
        assert "vm.yaml: while parsing" in warnings[0]

        (folder / "vm.yaml").write_text(objects(**{LEVEL: "crash"}))
        wait_for(lambda: webhook.ops("/readyz")[0] == 200, 5, what="readiness")
        assert outcome(webhook) == ("crash", "vm")


def _readiness(webhook: Served) -> str:
    try:
        return webhook.ops("/readyz")[1]
    except OSError:
        return ""
