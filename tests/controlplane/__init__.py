"""A real control plane for tests, `make demo` and `make bench`: etcd, kube-apiserver, kubectl, KubeVirt's virt-controller.

    from tests.controlplane import ControlPlane, make_vm, launcher_pod

    with ControlPlane(apiserver_flags=[], audit_level="Metadata") as cp:   # several may run at once
        cp.install_kubevirt(spec={...})                # CRDs, namespace kubevirt, a KubeVirt object that says Deployed
        cp.start_virt_controller()                     # returns when it leads
        cp.client.create(make_vm("db", "default", annotations={...}, template_annotations={...}))
        pod = launcher_pod(cp.client, "db", "default")

ControlPlane: url, ca_file, kubeconfig (admin), folder, keep; client; etcd, apiserver, virt_controller (Process);
  kubectl(*args, input=None, kubeconfig=None) -> str; token_for(ns, sa); kubeconfig_for(ns, sa); write_kubeconfig(path, token);
  audit_position(), audit_events(since=, verb=, user=, resource=, namespace=, name=, subresource=);
  port() -> Port, supervise(name, command, ready=, env=) -> Process: a process of the caller's that ends with it all.
Process: start(), stop(), kill(), pause(), resume(), restart(), launch(), wait_ready(); alive, pid, log, log_tail().
Client: get, find, list, create, post, replace, apply, patch, delete, request, with_token; warnings. ApiError: status,
  reason, message. Resources by plural ("pods"), objects by their own apiVersion and kind.
Binaries are built once, see tests/controlplane/build.py. Nothing here runs pods: there is no kubelet, scheduler,
controller-manager or garbage collector; what stands in for them is in objects.py and called stand_in.
"""

from tests.controlplane.client import ApiError, Client, Json
from tests.controlplane.cluster import ControlPlane, KubectlError
from tests.controlplane.kubevirt import CONTROLLER_USER as VIRT_CONTROLLER
from tests.controlplane.processes import Port, Process, ProcessError
from tests.controlplane.waiting import wait_for

__all__ = [
    "VIRT_CONTROLLER",
    "ApiError",
    "Client",
    "ControlPlane",
    "Json",
    "KubectlError",
    "Port",
    "Process",
    "ProcessError",
    "wait_for",
]
