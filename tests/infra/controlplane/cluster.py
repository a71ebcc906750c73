"""One control plane: etcd and kube-apiserver on loopback, with what tests need to talk to them."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Literal

from tests.infra.controlplane import audit, kubevirt, metrics
from tests.infra.controlplane.build import ensure_all
from tests.infra.controlplane.client import Client, Json
from tests.infra.controlplane.processes import Port, Process, accepts, unwind_on_sigterm
from tests.infra.controlplane.progress import say
from tests.infra.controlplane.servers import ApiServer, etcd_command, write_private

KEEP = "VM_CONSISTENCY_KEEP"
"""Environment variable: when set, folders with logs and data stay after a success too."""

_ADMIN = "admin"


class KubectlError(Exception):
    """kubectl ended with an error; the message is its standard error."""


class ControlPlane:
    """A context manager: ready on entry, nothing left on exit, whatever the way out (Ctrl-C and SIGTERM included).

    Several may run at once. `apiserver_flags` are added to kube-apiserver's command line and win over the defaults.
    `audit_level` is the level of the audit log that `audit_events` reads; "None" switches it off (benchmarks).

    `etcd`, `apiserver` and `virt_controller` are `Process` objects: kill, pause, start them again as a test needs;
    they keep their data and ports. `folder` holds everything, `folder/logs` the logs; both stay after an exception
    and when `keep` is set.
    """

    folder: Path
    url: str
    ca_file: Path
    kubeconfig: Path
    client: Client
    etcd: Process
    apiserver: Process
    virt_controller: Process
    _virt_controller_port: Port

    def __init__(
        self,
        *,
        apiserver_flags: Sequence[str] = (),
        audit_level: Literal["None", "Metadata", "RequestResponse"] = "Metadata",
    ) -> None:
        self.keep = bool(os.environ.get(KEEP))
        self._flags = apiserver_flags
        self._audit_level = audit_level
        self._tokens = {user: secrets.token_hex(16) for user in (_ADMIN, kubevirt.CONTROLLER_USER)}
        self._exit = ExitStack()

    def __enter__(self) -> "ControlPlane":
        self._binaries = ensure_all("etcd", "kubernetes")
        self.folder = Path(tempfile.mkdtemp(prefix="vm-consistency-"))
        unwind_on_sigterm(self._exit)
        try:
            self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()
        failed = error is not None and not isinstance(error, KeyboardInterrupt)
        if failed or self.keep:
            say(f"logs and data are kept in {self.folder}")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        etcd_port, peer_port = self.port(), self.port()
        server = ApiServer(self.folder, self.port(), etcd_port, self._tokens, self._audit_level, self._flags)
        etcd = etcd_command(self._binaries["etcd"], self.folder / "etcd", etcd_port, peer_port)
        self.etcd = self._part("etcd", etcd, lambda: accepts(etcd_port))
        self.apiserver = self._part("kube-apiserver", server.command(self._binaries["kube-apiserver"]), server.ready)
        self.etcd.launch()
        self.apiserver.launch()  # waits for etcd by itself
        self.etcd.wait_ready()
        self.apiserver.wait_ready()
        self._server, self.url, self.ca_file = server, server.url, server.ca_file
        self.client = Client(self.url, self.ca_file, self._tokens[_ADMIN])
        self._exit.callback(self.client.close)
        self.kubeconfig = self.write_kubeconfig(self.folder / "admin.kubeconfig", self._tokens[_ADMIN])

    def port(self) -> Port:
        """A free port of 127.0.0.1, kept for one server until the control plane ends."""
        port = Port()
        self._exit.callback(port.release)
        return port

    def supervise(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        ready_seconds: float = 60.0,
    ) -> Process:
        """A process of the caller's, not yet started, that logs to `logs/NAME.log` and ends with the control plane."""
        process = self._process(name, command, ready, env, ready_seconds)
        self._exit.callback(process.stop)
        return process

    def install_kubevirt(self, spec: Json | None = None) -> None:
        """KubeVirt's CRDs, its namespace and a KubeVirt object with `spec` that says Deployed."""
        kubevirt.install(self.client, ensure_all("kubevirt")["kubevirt-crds.json"], spec or {})

    @property
    def certificate(self) -> Path:
        """A serving certificate for 127.0.0.1, which kube-apiserver made; its key lies beside it."""
        return self._server.certificate

    def start_virt_controller(self, part: str = "kubevirt") -> Process:
        """Start KubeVirt's virt-controller, of the version built as `part`; return when its controllers run."""
        self._virt_controller_port = port = self.port()
        user = self.folder / "virt-controller.kubeconfig"
        self.write_kubeconfig(user, self._tokens[kubevirt.CONTROLLER_USER])
        flags = kubevirt.controller_flags(user, port, self.certificate)
        self.virt_controller = self._part(
            "virt-controller",
            [ensure_all(part)["virt-controller"], *flags],
            lambda: kubevirt.leads(port, self.ca_file),
            env={**os.environ, **kubevirt.CONTROLLER_ENVIRONMENT},
        )
        return self.virt_controller.start()

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum of kube-apiserver's samples of `name` that carry all of `labels`."""
        return metrics.total(self.client.request("GET", "/metrics").text, name, labels)

    def virt_controller_metric(self, name: str, /, **labels: str) -> float:
        """The same of virt-controller."""
        return metrics.total(kubevirt.metrics(self._virt_controller_port, self.ca_file), name, labels)

    def kubectl(self, *args: str | Path, input: str | None = None, kubeconfig: Path | None = None) -> str:  # noqa: A002
        """Run kubectl as admin (or with `kubeconfig`) and return what it prints; raises KubectlError."""
        ran = subprocess.run(
            [self._binaries["kubectl"], "--kubeconfig", kubeconfig or self.kubeconfig, *args],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KUBECACHEDIR": str(self.folder / "kubectl-cache")},
        )
        if ran.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(map(str, args))}: {ran.stderr.strip()}")
        return ran.stdout

    def token_for(self, namespace: str, service_account: str, *, seconds: int = 3600) -> str:
        """A token of an existing ServiceAccount, by TokenRequest; the API server refuses less than 600 seconds."""
        spec = {"expirationSeconds": seconds}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        token: str = self.client.post("serviceaccounts", service_account, namespace, "token", body)["status"]["token"]
        return token

    def kubeconfig_for(self, namespace: str, service_account: str) -> Path:
        """A kubeconfig file of an existing ServiceAccount, whose namespace is the context's."""
        path = self.folder / f"{namespace}.{service_account}.kubeconfig"
        return self.write_kubeconfig(path, self.token_for(namespace, service_account), namespace)

    def write_kubeconfig(self, path: Path, token: str, namespace: str = "default") -> Path:
        """Write a kubeconfig for this API server with `token`, readable by the owner only."""
        authority = b64encode(self.ca_file.read_bytes()).decode()
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority-data": authority}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "current-context": "test",
        }
        return write_private(path, json.dumps(content, indent=1))

    def audit_position(self) -> int:
        """The end of the audit log now, for `audit_events(since=...)`."""
        return audit.position(self._server.audit_log)

    def audit_events(self, *, since: int = 0, **wanted: str) -> list[Json]:
        """Audit events (stage ResponseComplete) after `since` that have all of `wanted`.

        `wanted` may name verb, user, resource, namespace, name and subresource, such as `user=VIRT_CONTROLLER`.
        An event is written just after its response was sent: poll for what must come.
        """
        return audit.events(self._server.audit_log, since, wanted)

    def _part(
        self, name: str, command: Sequence[str | Path], ready: Callable[[], bool], env: Mapping[str, str] | None = None
    ) -> Process:
        process = self._process(name, command, ready, env, 60.0)
        self._exit.callback(process.kill)  # its data go too: nothing is won by waiting for a graceful end
        return process

    def _process(
        self,
        name: str,
        command: Sequence[str | Path],
        ready: Callable[[], bool],
        env: Mapping[str, str] | None,
        ready_seconds: float,
    ) -> Process:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        return Process(name, command, logs / f"{name}.log", ready=ready, env=env, ready_seconds=ready_seconds)
