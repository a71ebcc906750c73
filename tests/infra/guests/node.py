"""The node of one guest: kwok in the kubelet's stead, in a mount namespace that looks like the container `compute`.

kwok runs what is exec'd into a pod as a process of this machine: all pods of a node share one "container", so every
guest has a node of its own. As under a kubelet, a command goes on when its client has gone. Unlike a kubelet, kwok
(v0.8.0, pkg/kwok/server/debugging_exec.go) tells the client that a command failed, but not its exit code.
"""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.infra.controlplane import (
    ControlPlane,
    Json,
    Process,
    bind_pod,
    launcher_pod,
    set_pod_running,
    set_vmi_running,
    stand_in_node,
)
from tests.infra.controlplane.build import ensure_all
from tests.infra.controlplane.processes import accepts
from tests.infra.guests.compute import PATH, in_compute

_CONFIG: tuple[Json, ...] = (
    {
        "apiVersion": "config.kwok.x-k8s.io/v1alpha1",
        "kind": "KwokConfiguration",
        "options": {
            "podPlayStageParallelism": 1,
            "nodePlayStageParallelism": 1,
            "enableDebuggingHandlers": True,
        },
    },
    {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": "pod-delete"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {"matchExpressions": [{"key": ".metadata.deletionTimestamp", "operator": "Exists"}]},
            "next": {"delete": True},
        },
    },
    {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "ClusterExec",
        "metadata": {"name": "on-this-machine"},
        "spec": {"execs": [{"local": {}}]},
    },
)


class Node:
    """A Node object and the kwok that serves it; both are there after `start`.

    `run_kubevirt` is the folder that commands see as /run/kubevirt; `env` is what else they find in their environment.
    """

    def __init__(
        self, control_plane: ControlPlane, name: str, run_kubevirt: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.cp = control_plane
        self.name = name
        self._run_kubevirt = run_kubevirt
        self._env = {"PATH": PATH, "HOME": "/", **(env or {})}
        self._port = control_plane.port()
        self._folder = control_plane.folder / "nodes" / name
        self.process: Process

    def start(self) -> "Node":
        """Return when commands can be exec'd into pods of this node."""
        stand_in_node(self.cp.client, self.name)
        endpoint = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port.number}},
        }
        self.cp.client.patch("nodes", self.name, {"status": endpoint}, subresource="status", kind="strategic-merge")
        self.process = self.cp.supervise(
            f"kwok-{self.name}",
            in_compute(self._folder, self._run_kubevirt, self._kwok()),
            ready=lambda: accepts(self._port),
            env=self._env,
        )
        self.process.start()
        return self

    def run(self, vm: str, namespace: str) -> Json:
        """Bring a VirtualMachine to Running here: bind its launcher pod, report pod and instance; returns the pod."""
        pod = launcher_pod(self.cp.client, vm, namespace)
        self.run_pod(pod)
        set_vmi_running(self.cp.client, vm, namespace, self.name)
        return self.cp.client.get("pods", pod["metadata"]["name"], namespace)

    def run_pod(self, pod: Json) -> Json:
        """Bind a pod to this node and report it as Running."""
        bind_pod(self.cp.client, pod, self.name)
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        return set_pod_running(self.cp.client, self.cp.client.get("pods", name, namespace))

    def exec(self, pod: Json, *argv: str) -> "subprocess.CompletedProcess[str]":
        """`kubectl exec POD -c compute -- ARGV`, whatever its exit code."""
        return subprocess.run(self.kubectl_exec(pod, *argv), capture_output=True, text=True, check=False)

    def kubectl_exec(self, pod: Json, *argv: str) -> list[str]:
        """The command line that does it."""
        kubectl = [str(ensure_all("kubernetes")["kubectl"]), "--kubeconfig", str(self.cp.kubeconfig)]
        metadata = pod["metadata"]
        return [*kubectl, "exec", "-n", metadata["namespace"], metadata["name"], "-c", "compute", "--", *argv]

    def runs(self, command: str) -> bool:
        """Whether something that was exec'd into a pod here runs whose command line matches, a regular expression."""
        pgrep = ["pgrep", "--session", str(self.process.pid), "--full", command]
        return subprocess.run(pgrep, stdout=subprocess.DEVNULL, check=False).returncode == 0

    def _kwok(self) -> list[str | Path]:
        self._folder.mkdir(parents=True, exist_ok=True)
        config = self._folder / "kwok.yaml"
        config.write_text("\n---\n".join(map(json.dumps, _CONFIG)))
        return [
            ensure_all("kwok")["kwok"],
            f"--config={config}",
            f"--kubeconfig={self.cp.kubeconfig}",
            f"--manage-single-node={self.name}",
            "--node-ip=127.0.0.1",
            f"--node-port={self._port}",
            f"--server-address=127.0.0.1:{self._port}",
            f"--tls-cert-file={self.cp.certificate}",
            f"--tls-private-key-file={self.cp.certificate.with_suffix('.key')}",
        ]
