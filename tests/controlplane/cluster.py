"""One control plane: etcd and kube-apiserver on loopback, with what tests need to talk to them."""

import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType, TracebackType
from typing import Literal
from urllib.request import urlopen

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.controlplane import audit, kubevirt
from tests.controlplane.build import ensure_all
from tests.controlplane.client import Client, Json
from tests.controlplane.processes import Port, Process, accepts
from tests.controlplane.progress import say

KEEP = "VM_CONSISTENCY_KEEP"
"""Environment variable: when set, folders with logs and data stay after a success too."""


class KubectlError(Exception):
    """kubectl ended with an error; the message is its standard error."""


class ControlPlane:
    """A context manager: ready on entry, nothing left on exit, whatever the way out (Ctrl-C and SIGTERM included).

    Several may run at once. `apiserver_flags` are added to kube-apiserver's command line and win over the defaults.
    `audit_level` is the level of the audit log that `audit_events` reads; "None" switches it off (benchmarks).

    `etcd`, `apiserver` and `virt_controller` are `Process` objects: kill, pause, start them again as a test needs;
    they keep their data and ports.
    """

    etcd: Process
    apiserver: Process
    virt_controller: Process
    client: Client

    def __init__(
        self,
        *,
        apiserver_flags: Sequence[str] = (),
        audit_level: Literal["None", "Metadata", "RequestResponse"] = "Metadata",
    ) -> None:
        self.keep = bool(os.environ.get(KEEP))
        self._apiserver_flags = apiserver_flags
        self._audit_level = audit_level
        self._exit = ExitStack()

    def __enter__(self) -> "ControlPlane":
        self._binaries = ensure_all("etcd", "kubernetes")
        self.folder = Path(tempfile.mkdtemp(prefix="vm-consistency-"))
        _unwind_on_sigterm(self._exit)
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
        self.ca_file = self.folder / "ca.crt"
        self.kubeconfig = self.folder / "admin.kubeconfig"
        self._tokens = {name: secrets.token_hex(16) for name in ("admin", kubevirt.CONTROLLER_USER)}
        etcd_port, peer_port, api_port = self.port(), self.port(), self.port()
        self.url = f"https://127.0.0.1:{api_port}"
        etcd = [self._binaries["etcd"], *_etcd_flags(self.folder / "etcd", etcd_port, peer_port)]
        self.etcd = self._part("etcd", etcd, _listening(etcd_port))
        flags = self._apiserver_command(etcd_port, api_port)
        self.apiserver = self._part("kube-apiserver", flags, self._apiserver_ready)
        self.etcd.launch()
        self.apiserver.launch()  # waits for etcd by itself
        self.etcd.wait_ready()
        self.apiserver.wait_ready()
        self.client = Client(self.url, self.ca_file, self._tokens["admin"])
        self._exit.callback(self.client.close)
        self.write_kubeconfig(self.kubeconfig, self._tokens["admin"])

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
        """KubeVirt's CRDs, its namespace and a KubeVirt object that says Deployed; `spec` is merged into its spec."""
        kubevirt.install(self.client, ensure_all("kubevirt")["kubevirt-crds.json"], spec or {})

    def start_virt_controller(self) -> Process:
        """Start KubeVirt's virt-controller and return when it leads and its controllers run."""
        port = self.port()
        user = self.folder / "virt-controller.kubeconfig"
        self.write_kubeconfig(user, self._tokens[kubevirt.CONTROLLER_USER])
        # Any pair does for its metrics; kube-apiserver has made one for this address.
        pair = self._certificates / "apiserver.crt", self._certificates / "apiserver.key"
        self.virt_controller = self._part(
            "virt-controller",
            [ensure_all("kubevirt")["virt-controller"], *kubevirt.controller_flags(user, port, *pair)],
            lambda: kubevirt.leads(port, self.ca_file),
            env={**os.environ, **kubevirt.CONTROLLER_ENVIRONMENT},
        )
        return self.virt_controller.start()

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
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
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
        return _write_private(path, json.dumps(content, indent=1))

    def audit_position(self) -> int:
        """The end of the audit log now, for `audit_events(since=...)`."""
        return audit.position(self._audit_log)

    def audit_events(self, *, since: int = 0, **wanted: str) -> list[Json]:
        """Audit events (stage ResponseComplete) after `since` that have all of `wanted`.

        `wanted` may name verb, user, resource, namespace, name and subresource, such as `user=VIRT_CONTROLLER`.
        An event is written just after its response was sent: poll for what must come.
        """
        return audit.events(self._audit_log, since, wanted)

    @property
    def _certificates(self) -> Path:
        return self.folder / "certificates"

    @property
    def _audit_log(self) -> Path:
        return self.folder / "logs" / "audit.jsonl"

    def _part(
        self,
        name: str,
        command: Sequence[str | Path],
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
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

    def _apiserver_command(self, etcd_port: Port, port: Port) -> list[str | Path]:
        signing_key = _write_private(self.folder / "service-account.key", _new_private_key())
        lines = [f'{token},{name},{name},"system:masters"' for name, token in self._tokens.items()]
        tokens = _write_private(self.folder / "tokens.csv", "\n".join(lines))
        policy = self.folder / "audit-policy.json"
        policy.write_text(json.dumps(audit.policy(self._audit_level)))
        return [
            self._binaries["kube-apiserver"],
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            f"--cert-dir={self._certificates}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={signing_key}",
            f"--service-account-signing-key-file={signing_key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",  # no controller makes the default ServiceAccounts
            "--allow-privileged=true",
            "--endpoint-reconciler-type=none",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self._audit_log}",
            *self._apiserver_flags,
        ]

    def _apiserver_ready(self) -> bool:
        if not self.ca_file.exists() and not self._copy_ca():
            return False
        with urlopen(
            f"{self.url}/readyz", timeout=1, context=ssl.create_default_context(cafile=str(self.ca_file))
        ) as answer:
            return bool(answer.status == 200)

    def _copy_ca(self) -> bool:
        served = (
            self._certificates / "apiserver.crt"
        )  # the leaf and then its CA, made by kube-apiserver at its first start
        if not served.exists() or served.read_text().count("-----END CERTIFICATE-----") < 2:
            return False
        self.ca_file.write_text("-----BEGIN" + served.read_text().rsplit("-----BEGIN", 1)[1])
        return True


def _etcd_flags(data: Path, port: Port, peer_port: Port) -> list[str | Path]:
    peer = f"http://127.0.0.1:{peer_port}"
    client = f"http://127.0.0.1:{port}"
    return [
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # survives kill -9 of the process; only a crash of the machine would lose data
        "--log-level=warn",
    ]


def _listening(port: Port) -> Callable[[], bool]:
    return lambda: accepts(port)


def _new_private_key() -> str:
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        .decode()
    )


def _write_private(path: Path, text: str) -> Path:
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def _unwind_on_sigterm(stack: ExitStack) -> None:
    """Until `stack` closes, turn SIGTERM into an exception, so that `with` blocks clean up; leave other handlers alone."""
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def unwind(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt("ended by SIGTERM")  # not SystemExit: pytest would only fail one test and go on

    signal.signal(signal.SIGTERM, unwind)
    stack.callback(signal.signal, signal.SIGTERM, signal.SIG_DFL)
