"""A real control plane for tests, demo and benchmarks: etcd, kube-apiserver, kubectl, KubeVirt's virt-controller.

    from tests.infra.controlplane import ControlPlane, launcher_pod, make_vm

    with ControlPlane(apiserver_flags=[], audit_level="Metadata") as cp:   # several may run at once
        cp.install_kubevirt(spec={...})                # CRDs, namespace kubevirt, a KubeVirt object that says Deployed
        cp.start_virt_controller()                     # returns when it leads
        cp.client.create(make_vm("db", "default", annotations={...}, template_annotations={...}))
        pod = launcher_pod(cp.client, "db", "default")

ControlPlane: url, ca_file, kubeconfig (admin), folder, keep; client; etcd, apiserver, virt_controller (Process);
  kubectl(*args, input=None, kubeconfig=None) -> str; token_for(ns, sa); kubeconfig_for(ns, sa);
  write_kubeconfig(path, token); metric(name, **labels), virt_controller_metric(name, **labels); audit_position();
  audit_events(since=, verb=, user=, resource=, namespace=, name=, subresource=);
  port() -> Port; supervise(name, command, ready=, env=) -> Process, a process of the caller's that ends with it all.
Process: start(), stop(), kill(), pause(), resume(), restart(), launch(), wait_ready(), terminate(), exit_code(); alive,
  pid, log, log_tail().
Client: get, find, list, create, post, replace, apply, patch, delete, request, with_token; warnings. ApiError: status,
  reason, message. Resources by plural ("pods"), objects by their own apiVersion and kind.

Binaries are built once (build.py; `python -m tests.infra.prepare` does it ahead of time). pytest fixtures:
fixtures.py.

Nothing here runs pods: there is no kubelet, scheduler, controller-manager or garbage collector. So a deleted
namespace stays Terminating, what an object owned stays after it, and a pod on a node is deleted with
`grace_seconds=0`. What stands in for the missing parts is in stand_ins.py.
"""

from tests.infra.controlplane.client import ApiError, Client, Json
from tests.infra.controlplane.cluster import ControlPlane, KubectlError
from tests.infra.controlplane.exports import export_pod
from tests.infra.controlplane.kubevirt import CONTROLLER_USER as VIRT_CONTROLLER
from tests.infra.controlplane.objects import (
    launcher_pod,
    launcher_pods,
    make_export,
    make_migration,
    make_namespace,
    make_vm,
    make_vm_pool,
    make_vmi,
)
from tests.infra.controlplane.processes import Port, Process, ProcessError
from tests.infra.controlplane.stand_ins import (
    bind_pod,
    run_stand_in_guest,
    set_pod_running,
    set_vmi_running,
    stand_in_bound_pvc,
    stand_in_cdi,
    stand_in_node,
    stand_in_waiting_data_volume,
)
from tests.infra.controlplane.waiting import wait_for

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
    "bind_pod",
    "export_pod",
    "launcher_pod",
    "launcher_pods",
    "make_export",
    "make_migration",
    "make_namespace",
    "make_vm",
    "make_vm_pool",
    "make_vmi",
    "run_stand_in_guest",
    "set_pod_running",
    "set_vmi_running",
    "stand_in_bound_pvc",
    "stand_in_cdi",
    "stand_in_node",
    "stand_in_waiting_data_volume",
    "wait_for",
]
