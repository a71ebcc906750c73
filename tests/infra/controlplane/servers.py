"""How etcd and kube-apiserver are started: without nodes, controllers or fsync, on loopback only."""

import json
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.infra.controlplane import audit
from tests.infra.controlplane.processes import Port


def etcd_command(binary: Path, data: Path, port: Port, peer_port: Port) -> list[str]:
    """A single member."""
    peer = f"http://127.0.0.1:{peer_port}"
    client = f"http://127.0.0.1:{port}"
    return [
        str(binary),
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",  # data survive a killed process all the same, only not a crash of the machine
        "--log-level=warn",
    ]


@dataclass(frozen=True, slots=True)
class ApiServer:
    """kube-apiserver's files below `folder`, its address, and its command line.

    `tokens` maps user names to their static tokens; all of them are cluster administrators.
    """

    folder: Path
    port: Port
    etcd_port: Port
    tokens: Mapping[str, str]
    audit_level: str
    flags: Sequence[str]

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def certificate(self) -> Path:
        """The serving certificate, then its CA; kube-apiserver makes both, and a key beside, at its first start."""
        return self.folder / "certificates" / "apiserver.crt"

    @property
    def ca_file(self) -> Path:
        """The CA alone; there once `ready` was true."""
        return self.folder / "ca.crt"

    @property
    def audit_log(self) -> Path:
        """One JSON object per line."""
        return self.folder / "logs" / "audit.jsonl"

    def command(self, binary: Path) -> list[str]:
        """Write the files that the flags name, and return the command line."""
        signing_key = write_private(self.folder / "service-account.key", _new_private_key())
        lines = [f'{token},{name},{name},"system:masters"' for name, token in self.tokens.items()]
        tokens = write_private(self.folder / "tokens.csv", "\n".join(lines))
        policy = write_private(self.folder / "audit-policy.json", json.dumps(audit.policy(self.audit_level)))
        return [
            str(binary),
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            "--bind-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.certificate.parent}",
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
            f"--audit-log-path={self.audit_log}",
            *self.flags,
        ]

    def ready(self) -> bool:
        """Whether /readyz says so; raises OSError while nothing answers."""
        if not self.ca_file.exists() and not self._extract_ca():
            return False
        trust = ssl.create_default_context(cafile=str(self.ca_file))
        with urlopen(f"{self.url}/readyz", timeout=1, context=trust) as answer:
            return bool(answer.status == 200)

    def _extract_ca(self) -> bool:
        chain = self.certificate.read_text() if self.certificate.exists() else ""
        if chain.count("-----END CERTIFICATE-----") < 2:  # not there, or half written
            return False
        self.ca_file.write_text("-----BEGIN" + chain.rsplit("-----BEGIN", 1)[1])
        return True


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def _new_private_key() -> str:
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    return pem.decode()
